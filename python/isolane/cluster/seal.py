"""What is kept in an engine so that nobody reads it there: sealed under keys that come from the cluster's."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from isolane._core import SanitizerCore


class Seals:
    """Seals for users, and for workers among themselves.

    Args:
        secret: the cluster's key.
        values: whether what users' logs hold is sealed as well. Whose a run is always is.
    """

    def __init__(self, secret: bytes, *, values: bool) -> None:
        self._secret = secret
        self.values = values
        self._workers = self._derive("workers", "")

    def _derive(self, what: str, user_id: str) -> bytes:
        return hmac.digest(self._secret, f"isolane {what}\0{user_id}".encode(), "sha256")

    def of_user(self, user_id: str) -> UserSeal:
        """Return what seals values of a user."""
        return UserSeal(self._derive("values", user_id) if self.values else None)

    def wrap(self, place: str, value: Any) -> str:
        """Seal something that only workers read, as text."""
        sealed = SanitizerCore.seal(self._workers, place.encode(), json.dumps(value).encode())
        return base64.b64encode(sealed).decode()

    def unwrap(self, place: str, text: str | bytes) -> Any:
        """Open what a worker has wrapped for this place.

        Raises:
            ValueError: it was not wrapped by a worker of this cluster, or for another place.
        """
        try:
            opened = SanitizerCore.open(self._workers, place.encode(), base64.b64decode(text, validate=True))
        except ValueError:
            opened = None
        if opened is None:
            raise ValueError("a worker's message cannot be opened: have all the same ISOLANE_CLUSTER_KEY?")
        return json.loads(opened)


class UserSeal:
    """Seals values of one user's logs, if that is wanted: each for its place, so that none can stand for another."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key

    def seal(self, place: str, value: bytes) -> bytes:
        """Return what is kept."""
        return value if self._key is None else SanitizerCore.seal(self._key, place.encode(), value)

    def open(self, place: str, kept: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            ValueError: it was not sealed for this place, with this user's key.
        """
        if self._key is None:
            return kept
        opened = SanitizerCore.open(self._key, place.encode(), kept)
        if opened is None:
            raise ValueError("a value of a log cannot be opened")
        return opened
