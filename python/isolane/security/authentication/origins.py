"""Which pages may open a socket."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?")
_OWN_SCHEMES = {"ws": ("http", "https"), "http": ("http", "https"), "wss": ("https",), "https": ("https",)}
"""A proxy that ends TLS may say nothing of it, so a page that came by https may connect to what looks like http."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


OWN = "self"
"""Stands for the service's own origin."""


def check_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Return the origins as browsers send them.

    Raises:
        ValueError: one is no origin, such as a pattern, ``null``, or an address with a path.
    """
    checked = []
    for origin in origins:
        bare = origin.strip().rstrip("/").lower()
        if bare == OWN:
            checked.append(OWN)
            continue
        if not _ORIGIN.fullmatch(bare):
            raise ValueError(
                f"{origin!r} is no origin: write scheme, host and, unless it is the usual one, port, such as "
                "https://app.example, or self; patterns and null are not taken"
            )
        checked.append(_plain(bare))
    return tuple(checked)


class OriginPolicy:
    """Compares origins, whole and exactly.

    Args:
        allowed: the origins of the pages that may connect; ``self`` is the service's own. Default: that alone.

    Raises:
        ValueError: one of them is no origin.
    """

    def __init__(self, allowed: Iterable[str] = (OWN,)) -> None:
        checked = check_origins(allowed)
        self._own = OWN in checked
        self._allowed = frozenset(checked) - {OWN}

    def allows(self, origin: str, *, scheme: str, host: str) -> bool:
        """Whether a page of this origin may connect to the service at ``scheme`` and ``host``."""
        bare = origin.lower()
        if not _ORIGIN.fullmatch(bare):
            return False
        if _plain(bare) in self._allowed:
            return True
        return self._own and any(
            _plain(bare) == _plain(f"{own}://{host.lower()}") for own in _OWN_SCHEMES.get(scheme, ())
        )


def _plain(origin: str) -> str:
    """Without the usual port: browsers leave it out."""
    return origin.removesuffix(_DEFAULT_PORTS[origin.partition("://")[0]])
