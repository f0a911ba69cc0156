"""Where the key of keys comes from: it is never stored beside the log."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from isolane.security.audit.errors import AuditKeyError

KEY_BYTES = 32
MAKE_ONE = "make one with `openssl rand -base64 32`"


@runtime_checkable
class KeyProvider(Protocol):
    """Gives the key that wraps all keys of an audit log."""

    def key(self) -> bytes:
        """Return 32 bytes.

        Raises:
            AuditKeyError: there is no such key.
        """


def _decoded(text: str, where: str) -> bytes:
    """Read 32 bytes written as base64, or as 64 hexadecimal digits."""
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise AuditKeyError(f"{where} must hold {KEY_BYTES} bytes as base64 or hexadecimal digits; {MAKE_ONE}")
    return key


class EnvKey:
    """A key in an environment variable, as base64 or hexadecimal digits.

    Args:
        name: of the variable.
    """

    def __init__(self, name: str = "ISOLANE_AUDIT_KEY") -> None:
        self.name = name

    def key(self) -> bytes:
        """Return the key. Raises ``AuditKeyError`` when the variable is not set, or holds no key."""
        text = os.environ.get(self.name)
        if text is None:
            raise AuditKeyError(f"the environment variable {self.name} is not set; {MAKE_ONE}")
        return _decoded(text, f"the environment variable {self.name}")


class FileKey:
    """A key in a file that only its owner can read, as base64 or hexadecimal digits.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def key(self) -> bytes:
        """Return the key. Raises ``AuditKeyError`` when it cannot be read, or others than its owner could read it."""
        try:
            with self.path.open(encoding="ascii") as file:
                about = os.fstat(file.fileno())
                mode = stat.S_IMODE(about.st_mode)
                if mode & 0o077:
                    raise AuditKeyError(
                        f"the key file {self.path} has mode {mode:04o}: others can use it; chmod it to 0600"
                    )
                text = file.read(4096)
        except (OSError, UnicodeDecodeError) as error:
            raise AuditKeyError(f"the key file {self.path} cannot be read: {error}; {MAKE_ONE}") from error
        return _decoded(text, f"the key file {self.path}")


class CallableKey:
    """A key that a function gives, such as one that asks a key management service.

    Args:
        call: returns 32 bytes. It is called once for each log that is opened, and may block.
    """

    def __init__(self, call: Callable[[], bytes]) -> None:
        self.call = call

    def key(self) -> bytes:
        """Return the key. Raises ``AuditKeyError`` when the function returns no 32 bytes; its own errors pass."""
        key = bytes(self.call())
        if len(key) != KEY_BYTES:
            raise AuditKeyError(f"the key function must return {KEY_BYTES} bytes, got {len(key)}")
        return key
