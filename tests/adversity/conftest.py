"""Settings of the state machines, event loops of both kinds, and a look at the process's permits after each test."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator

import isolane
import pytest
import uvloop
from hypothesis import HealthCheck, settings

_numbers = itertools.count(1)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

# The same examples in every run, in a bounded time; `--prove` draws new ones each time and prints how to repeat them.
settings.register_profile(
    "short",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=80,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("long", settings.get_profile("short"), derandomize=False, max_examples=1_500, print_blob=True)


def pytest_configure(config) -> None:
    """Say which of them ``machines`` is, before the machines are imported."""
    config.addinivalue_line("markers", "long: runs with --prove only")
    settings.register_profile("machines", settings.get_profile("long" if _is_long(config) else "short"))


def _is_long(config) -> bool:
    return config.getoption("--prove") and not config.getoption("--short")


def pytest_collection_modifyitems(config, items) -> None:
    """Leave the long ones out, unless they were asked for."""
    left_out = [item for item in items if item.get_closest_marker("long") and not _is_long(config)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def new_user() -> Callable[[str], str]:
    """Return a maker of user ids that no other test has: lanes and streams are the process's."""
    return lambda name="ann": f"{name}-{next(_numbers)}-of-adversity"


@pytest.fixture(params=sorted(LOOPS))
def new_loop(request) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a maker of event loops: the test runs once with asyncio's own and once with uvloop's."""
    return LOOPS[request.param]


@pytest.fixture(autouse=True)
def no_permit_of_the_process_is_left() -> Iterator[None]:
    """Fail a test that leaves a permit or a waiter in the process's limiter."""
    # The many collections and looks over the heap leave out what exists before the test.
    gc.freeze()
    yield
    gc.unfreeze()
    stats = isolane.default_limiter().stats()
    if stats["running"] or stats["queued"]:
        # What is only held by garbage is not leaked: it returns itself.
        gc.collect()
        stats = isolane.default_limiter().stats()
    assert (stats["running"], stats["queued"]) == (0, 0)
