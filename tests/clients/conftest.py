"""Both clients: whatever one of them passes, the other has to pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
