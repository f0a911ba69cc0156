"""What every test of the Python surface shares: fresh ids, and a look at the process's permits after each test."""

import gc
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import isolane
import pytest

_numbers = itertools.count(1)


@pytest.fixture
def new_user() -> Callable[[str], str]:
    """Return a maker of user ids that no other test has: lanes and streams are the process's."""
    return lambda name="alice": f"{name}-{next(_numbers)}-of-tests"


@pytest.fixture
def alice(new_user) -> str:
    return new_user("alice")


@pytest.fixture
def bob(new_user) -> str:
    return new_user("bob")


@pytest.fixture
def new_context(new_user) -> Callable[..., isolane.UserExecutionContext]:
    """Return a maker of contexts with generated ids."""

    def make(user: str | None = None, **fields: Any) -> isolane.UserExecutionContext:
        return isolane.UserContextFactory.create_context(user or new_user(), **fields)

    return make


@pytest.fixture
def context(new_context) -> isolane.UserExecutionContext:
    return new_context()


@pytest.fixture
def read_plain() -> Callable[..., list[dict[str, Any]]]:
    """Return a reader of all messages of a run, as the plain mode sends them."""
    from isolane._core import EventCursor  # noqa: PLC0415 - only here

    def read(user: str, run: str) -> list[dict[str, Any]]:
        cursor = EventCursor(user, framed=False, max_connections=1_000)
        cursor.subscribe(run)
        messages = []
        while got := cursor.read(1_000):
            messages += [json.loads(text) for text in got]
        cursor.detach()
        return [message for message in messages if message["run_id"] == run]

    return read


@pytest.fixture(autouse=True)
def no_permit_of_the_process_is_left() -> Iterator[None]:
    """Fail a test that leaves a permit or a waiter in the process's limiter."""
    yield
    stats = isolane.default_limiter().stats()
    if stats["running"] or stats["queued"]:
        # What is only held by garbage is not leaked: it returns itself.
        gc.collect()
        stats = isolane.default_limiter().stats()
    assert (stats["running"], stats["queued"]) == (0, 0)
