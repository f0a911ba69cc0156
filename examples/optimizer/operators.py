"""Sign-in of operators: whoever has the link that the server printed. Users have no way to become one."""

import secrets
from collections.abc import Callable
from pathlib import Path

from isolane.fastapi import Principal
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection

OPERATOR = "operator"
OPERATOR_ROLE = "operator"
COOKIE = "optimizer-operator"
COOKIE_SECONDS = 12 * 60 * 60
_MIN_KEY = 16


class Operators:
    """The key that makes an operator, and the cookies of those who showed it.

    A browser follows a link without headers of ours, so that what it shows is a cookie. With a file the key outlives
    the process: a dashboard that is open goes on after a restart.
    """

    def __init__(self, key_file: Path | None = None) -> None:
        self._key = _kept_key(key_file) if key_file else secrets.token_urlsafe(24)
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


def _kept_key(path: Path) -> str:
    key = keep_secret(path, lambda: secrets.token_urlsafe(24)).read_text(encoding="ascii").strip()
    if len(key) < _MIN_KEY:
        # An empty key would be known to everybody.
        raise ValueError(f"{path} holds no key of an operator: delete it, and the next start makes one")
    return key


def keep_secret(path: Path, make: Callable[[], str]) -> Path:
    """The file of a secret, made at the first start for its owner alone: whole, or not at all."""
    if not path.exists():
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(make(), encoding="ascii")
        unfinished.replace(path)
    return path
