"""What the audit log is measured beside: each writes the same events to the same disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from isolane import SecurityEvent


class Peer(Protocol):
    """Writes events."""

    name: str
    proves: str

    def record(self, event: SecurityEvent) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def _line(event: SecurityEvent) -> str:
    return json.dumps(
        {
            "name": event.name,
            "user_id": event.user_id,
            "class": event.audit_class.value,
            "severity": event.severity.value,
            "at": event.at.isoformat(),
            "data": event.data,
        },
        separators=(",", ":"),
    )


class FileHandler:
    """``logging.FileHandler`` with lines of JSON: one write for each, in the thread that records."""

    name = "logging.FileHandler, lines of JSON"
    proves = "nothing, in clear"

    def __init__(self, folder: Path) -> None:
        self.handler = logging.FileHandler(folder / "lines.log")
        self.logger = logging.getLogger("isolane.bench.audit")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.logger.handlers.clear()
        self.logger.addHandler(self.handler)

    def record(self, event: SecurityEvent) -> None:
        self.logger.info(_line(event))

    def flush(self) -> None:
        self.handler.flush()

    def close(self) -> None:
        self.handler.close()


class HashChain:
    """Lines of JSON, each with the SHA-256 of the one before: one buffered write for each."""

    name = "hashlib chain, lines of JSON"
    proves = "order, to who keeps the last hash; in clear"

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "chain.log").open("ab")
        self.before = bytes(32)

    def record(self, event: SecurityEvent) -> None:
        line = _line(event).encode()
        self.before = hashlib.sha256(self.before + line).digest()
        self.file.write(line + b" " + self.before.hex().encode() + b"\n")

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class SealedHashChain(HashChain):
    """The same under ChaCha20-Poly1305 of the ``cryptography`` package, one key for all users."""

    name = "hashlib chain, cryptography's ChaCha20Poly1305"
    proves = "order, to who keeps the last hash; one key for all"

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415 - it may not be there

        super().__init__(folder)
        self.cipher: Any = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())

    def record(self, event: SecurityEvent) -> None:
        nonce = os.urandom(12)
        sealed = nonce + self.cipher.encrypt(nonce, _line(event).encode(), None)
        self.before = hashlib.sha256(self.before + sealed).digest()
        self.file.write(len(sealed).to_bytes(4, "big") + sealed + self.before)


PEERS: Sequence[type[Peer]] = (FileHandler, HashChain, SealedHashChain)
