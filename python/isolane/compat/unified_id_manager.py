"""The host's ``unified_id_manager``: ids that do not collide, and what can be read from them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from isolane import _core
from isolane.compat.id_parts import milliseconds, new_digits, split_digits

__all__ = ["IDType", "UnifiedIDManager"]


class IDType(Enum):
    """What an id names."""

    USER = "user"
    SESSION = "session"
    REQUEST = "request"
    AGENT = "agent"
    TOOL = "tool"
    TRANSACTION = "transaction"
    WEBSOCKET = "websocket"
    EXECUTION = "execution"
    TRACE = "trace"
    METRIC = "metric"
    THREAD = "thread"
    RUN = "run"


class UnifiedIDManager:
    """Makes and reads ids: isolane's manager with the host's further methods. It remembers none of them."""

    generate_run_id = staticmethod(_core.UnifiedIDManager.generate_run_id)
    generate_thread_id = staticmethod(_core.UnifiedIDManager.generate_thread_id)
    generate_request_id = staticmethod(_core.UnifiedIDManager.generate_request_id)
    generate_websocket_client_id = staticmethod(_core.UnifiedIDManager.generate_websocket_client_id)
    extract_thread_id = staticmethod(_core.UnifiedIDManager.extract_thread_id)
    validate_run_id = staticmethod(_core.UnifiedIDManager.validate_run_id)
    is_valid_id_format = staticmethod(_core.UnifiedIDManager.is_valid_id_format)
    check_user_id = staticmethod(_core.UnifiedIDManager.check_user_id)

    @staticmethod
    def parse_run_id(run_id: str) -> dict[str, Any]:
        """Return the parts of a run id.

        Keys: ``thread_id``; ``timestamp``, as text: milliseconds of the epoch in isolane's ids, the host's five
        digits in the host's; ``uuid_part``, the digits at the end; ``valid``. An id that is not structured has its
        own text as ``thread_id`` and empty parts.
        """
        if not _core.UnifiedIDManager.validate_run_id(run_id):
            return {"thread_id": run_id, "timestamp": "", "uuid_part": "", "valid": False}
        rest, digits = split_digits(run_id)
        made_at = milliseconds(digits)
        timestamp = str(made_at) if made_at is not None else rest.rpartition("_")[2]
        return {
            "thread_id": _core.UnifiedIDManager.extract_thread_id(run_id),
            "timestamp": timestamp,
            "uuid_part": digits,
            "valid": True,
        }

    def generate_id(self, id_type: IDType, prefix: str | None = None) -> str:
        """Return ``[{prefix}_]{type}_{32 hex digits}``.

        Raises ``TypeError`` for a type that is not an ``IDType``.
        """
        kind: object = id_type
        if not isinstance(kind, IDType):
            allowed = ", ".join(member.name for member in IDType)
            raise TypeError(f"id_type must be an IDType, got {type(kind).__name__}; allowed: {allowed}")
        name = f"{kind.value}_{new_digits()}"
        return f"{prefix}_{name}" if prefix else name
