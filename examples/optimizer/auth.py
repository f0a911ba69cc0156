"""Sign-in of the demo: whoever says a name is that user. There are no passwords, and the page says so."""

import secrets
from pathlib import Path

from isolane.fastapi import Principal
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection

from examples.optimizer.key_files import kept_key

_TOKEN_SECONDS = 12 * 60 * 60
_HEADER_PREFIX = "bearer "
_SUBPROTOCOL_PREFIX = "bearer."


class Tokens:
    """Signs and checks bearer tokens. The key lives with the process, so that a restart signs everyone out.

    Workers have theirs in a file: a token of one is good for all.
    """

    def __init__(self, key_file: Path | None = None) -> None:
        key = kept_key(key_file) if key_file else secrets.token_urlsafe(32)
        self._serializer = URLSafeTimedSerializer(key, salt="isolane-optimizer")

    def issue(self, user_id: str) -> str:
        """A token for a user."""
        token = self._serializer.dumps(user_id)
        return token if isinstance(token, str) else token.decode()

    def user_of(self, connection: HTTPConnection) -> str | None:
        """The user whose token a request or a socket carries, or None."""
        token = _bearer_token(connection)
        if token is None:
            return None
        try:
            user_id = self._serializer.loads(token, max_age=_TOKEN_SECONDS)
        except BadSignature:
            return None
        return user_id if isinstance(user_id, str) else None

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """The hook that isolane asks who is there."""
        user_id = self.user_of(connection)
        return Principal(user_id=user_id) if user_id else None


def _bearer_token(connection: HTTPConnection) -> str | None:
    """From the header, or on a socket from the offered subprotocols: a browser can set no header there."""
    header = connection.headers.get("authorization", "")
    if header.lower().startswith(_HEADER_PREFIX):
        return header[len(_HEADER_PREFIX) :]
    for protocol in connection.headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(_SUBPROTOCOL_PREFIX):
            return protocol.strip()[len(_SUBPROTOCOL_PREFIX) :]
    return None
