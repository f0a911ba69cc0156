"""Both clients: whatever one of them passes, the other has to pass."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.followers import FOLLOWERS, Follower
from tests.clients.javascript import JavaScriptReader
from tests.clients.python_reader import PythonReader


@pytest.fixture(scope="module", params=["python", "javascript"])
def reader(request) -> Iterator[PythonReader | JavaScriptReader]:
    made = PythonReader() if request.param == "python" else JavaScriptReader()
    yield made
    made.close()


@pytest.fixture(scope="module")
def javascript_reader() -> Iterator[JavaScriptReader]:
    made = JavaScriptReader()
    yield made
    made.close()


@pytest.fixture(params=["python", "javascript"])
async def follower(request) -> AsyncIterator[Follower]:
    """A client that is started by the test, and stopped after it."""
    made = FOLLOWERS[request.param]()
    yield made
    await made.stop()


@pytest.fixture
def user() -> str:
    """A user of one's own: what earlier tests have published stays readable for a while."""
    return f"user-{uuid.uuid4().hex[:12]}"
