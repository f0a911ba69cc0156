"""Ids."""

import secrets
import time


class UnifiedIDManager:
    @staticmethod
    def generate_run_id(thread_id: str) -> str:
        return f"run_{thread_id}_{int(time.time() * 1000) % 100_000}_{secrets.token_hex(4)}"

    @staticmethod
    def generate_thread_id() -> str:
        return f"session_{int(time.time() * 1000) % 100_000}_{secrets.token_hex(4)}"
