"""Who is signed in. Anybody may be anybody: an example, not for a network."""

import secrets

_MOST = 10_000
_users: dict[str, str] = {}


def sign_in(user_id: str) -> str:
    """Return a token for a user."""
    while len(_users) >= _MOST:
        del _users[next(iter(_users))]
    token = secrets.token_urlsafe(24)
    _users[token] = user_id
    return token


def user_of_token(token: str) -> str | None:
    """Return whose token this is."""
    return _users.get(token)
