"""Marked fields of a value, encrypted where they stand."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection
from typing import Any

from isolane._core import SanitizeLimitError, SanitizerCore
from isolane.security.sanitizer.errors import FieldDecryptionError

KeyOfUser = Callable[[str], bytes]
"""Gives the key of a user, of 32 bytes: the same one each time."""

MARK = "isl1:"
MAX_DEPTH = 64


def _sealed(value: Any) -> bytes | None:
    """What an encrypted field has, if it looks like one."""
    if not isinstance(value, str) or not value.startswith(MARK):
        return None
    text = value.removeprefix(MARK)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


class FieldCipher:
    """Seals and opens the fields of values."""

    __slots__ = ("_core", "_key_of")

    def __init__(self, core: SanitizerCore, key_of: KeyOfUser | None) -> None:
        self._core = core
        self._key_of = key_of

    def _key(self, user_id: str) -> bytes:
        if self._key_of is None:
            raise RuntimeError("the sanitizer has no keys for fields: make it with DataSanitizer(field_key=…)")
        if not user_id:
            raise ValueError("a field is encrypted for a user: pass the user's id or context")
        return self._key_of(user_id)

    def encrypt(self, data: Any, user_id: str, fields: Collection[str] | None) -> Any:
        """Return a copy with the marked fields sealed."""
        key = self._key(user_id)
        marked = None if fields is None else frozenset(fields)

        def seal(path: str, name: str, value: Any) -> Any:
            if value is None or not (self._core.key_rule(name) == "secret" if marked is None else path in marked):
                return _DEEPER
            place = _place(user_id, path)
            sealed = _sealed(value)
            # Whoever writes the mark by hand has not encrypted anything by it.
            if sealed is not None and self._core.open(key, place, sealed) is not None:
                return value
            try:
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            except (TypeError, ValueError, RecursionError) as error:
                raise TypeError(
                    f"the field {path} cannot be encrypted, since it is not JSON-able; pass plain values"
                ) from error
            ciphertext = self._core.seal(key, place, text.encode("utf-8", "surrogatepass"))
            return MARK + base64.urlsafe_b64encode(ciphertext).decode().rstrip("=")

        return _walk(data, "", "", seal, 0)

    def decrypt(self, data: Any, user_id: str) -> Any:
        """Return a copy with all sealed fields opened."""
        key = self._key(user_id)

        def unseal(path: str, _name: str, value: Any) -> Any:
            sealed = _sealed(value)
            if sealed is None:
                return _DEEPER
            plaintext = self._core.open(key, _place(user_id, path), sealed)
            if plaintext is None:
                raise FieldDecryptionError(path)
            return json.loads(plaintext.decode("utf-8", "surrogatepass"))

        return _walk(data, "", "", unseal, 0)


_DEEPER = object()
"""A value is no field itself: what is in it is looked at."""


def _place(user_id: str, path: str) -> bytes:
    return f"isolane/field/1\0{user_id}\0{path}".encode("utf-8", "surrogatepass")


def _walk(value: Any, path: str, name: str, change: Callable[[str, str, Any], Any], depth: int) -> Any:
    """Copy a value; ``change`` is asked about each part of it, by its path and the name of its key."""
    if depth > MAX_DEPTH:
        raise SanitizeLimitError(
            f"the value is nested deeper than {MAX_DEPTH} levels, or contains itself; pass its parts one by one",
            "depth",
        )
    changed = change(path, name, value)
    if changed is not _DEEPER:
        return changed
    if isinstance(value, dict):
        return {
            key: _walk(member, f"{path}.{key}" if path else str(key), str(key), change, depth + 1)
            for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_walk(item, f"{path}[]", "", change, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
