"""A site behind a fault proxy."""

from __future__ import annotations

import pytest

from tests.faults.site import Site
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy


@pytest.fixture
async def proxied():
    """A served site, and a proxy before it."""
    site = Site(History(1))
    with site.serving():
        async with FaultProxy(site.port, seed=1) as proxy:
            yield site, proxy
