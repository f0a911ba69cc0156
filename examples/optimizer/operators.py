"""Sign-in of operators: whoever has the link that the server printed. Users have no way to become one."""

import secrets
from pathlib import Path

from isolane.fastapi import Principal
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection

from examples.optimizer.key_files import kept_key

OPERATOR = "operator"
OPERATOR_ROLE = "operator"
COOKIE = "optimizer-operator"
COOKIE_SECONDS = 12 * 60 * 60


def operators_of(folder: Path) -> "Operators":
    """Those whose key lies in a folder that is kept."""
    return Operators(folder / "operators.key")


class Operators:
    """The key that makes an operator, and the cookies of those who showed it.

    A browser follows a link without headers of ours, so that what it shows is a cookie. With a file the key outlives
    the process: a dashboard that is open goes on after a restart.
    """

    def __init__(self, key_file: Path | None = None) -> None:
        self._key = kept_key(key_file) if key_file else secrets.token_urlsafe(24)
        self._serializer = URLSafeTimedSerializer(self._key, salt="isolane-optimizer-operator")

    @property
    def link(self) -> str:
        """Where an operator enters, relative to the application."""
        return f"/operators/enter?key={self._key}"

    def admit(self, key: str) -> str | None:
        """The cookie's value for whoever has the key, else None."""
        if not secrets.compare_digest(key.encode(), self._key.encode()):
            return None
        value = self._serializer.dumps(OPERATOR)
        return value if isinstance(value, str) else value.decode()

    def principal_of(self, connection: HTTPConnection) -> Principal | None:
        """The operator whose cookie a request carries, or None."""
        try:
            name = self._serializer.loads(connection.cookies.get(COOKIE, ""), max_age=COOKIE_SECONDS)
        except BadSignature:
            return None
        return Principal(user_id=name, roles=frozenset({OPERATOR_ROLE})) if name == OPERATOR else None
