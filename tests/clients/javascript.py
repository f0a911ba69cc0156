"""The JavaScript client's side of the tests: a node with WebSockets, and programs that run in it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "clients" / "js"
_PROBE = "new WebSocket('ws://127.0.0.1:1').onerror = () => {}; new DecompressionStream('deflate-raw')"


def left_out(reason: str) -> None:
    """Skip visibly, or fail where nothing may be left out."""
    if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        pytest.fail(f"required, but {reason}")
    pytest.skip(f"left out: {reason}")


@functools.cache
def _found() -> tuple[str, ...] | None:
    candidates: list[tuple[str, ...]] = []
    if installed := shutil.which("node"):
        candidates += [(installed,), (installed, "--experimental-websocket", "--no-warnings")]
    # The browser driver brings a node of its own.
    if (driver := find_spec("playwright")) and driver.origin:
        candidates.append((str(Path(driver.origin).parent / "driver" / "node"),))
    for command in candidates:
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "-e", _PROBE], capture_output=True, check=False).returncode
        ):
            return command
    return None


def node() -> tuple[str, ...]:
    """Return the command that starts a node with WebSockets."""
    command = _found()
    if command is None:
        left_out("the JavaScript client was not tested, there is no node with WebSocket (apt-get install nodejs)")
    assert command is not None
    return command


class JavaScriptReader:
    """The reader of the JavaScript package, in a process that is kept."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*node(), str(HERE / "reader.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, steps: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """Give the effects of each step, from a fresh reader."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(steps)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the reader died; its last words are above"
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()
