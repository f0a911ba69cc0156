"""The wheels that are checked, and clean environments to install them into.

The checks run when they are given a folder of wheels: ``make wheel-check``.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import wheels as builder
from tests.packaging import import_times as page

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "docs" / "quickstart.md"


_import_times: dict[str, tuple[float, float, float]] = {}


def pytest_addoption(parser) -> None:
    parser.addoption("--wheels", type=Path, help="check the wheels in this folder")
    parser.addoption("--pythons", default="", help="with these interpreters, separated by spaces; default: all found")
    parser.addoption("--write", action="store_true", help="write the import times into docs/installation.md")


def pytest_generate_tests(metafunc) -> None:
    if "interpreter" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--wheels") is None:
        left_out = pytest.mark.skip(reason="left out: no wheels were given; `make wheel wheel-check` runs it")
        metafunc.parametrize("interpreter", [pytest.param(None, marks=left_out, id="no wheels")], scope="session")
        return
    found = builder.find(metafunc.config.getoption("--pythons").split())
    if not found:
        raise pytest.UsageError("--wheels was given, but no interpreter was found to install them into")
    metafunc.parametrize("interpreter", found, ids=lambda one: one.version, scope="session")


@dataclass(frozen=True)
class CleanRoom:
    """A virtual environment in which nothing of Rust and nothing of the source tree can be reached."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def environment(self) -> dict[str, str]:
        kept = ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")
        return {
            **{name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")},
            # Only the programs of the environment: no cargo, rustc or linker.
            "PATH": str(self.folder / "bin"),
        }

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def install(self, *arguments: str | Path) -> None:
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", *arguments)


def new_room(interpreter: builder.Interpreter, folder: Path) -> CleanRoom:
    subprocess.run([interpreter.path, "-m", "venv", folder], check=True)
    return CleanRoom(folder)


@pytest.fixture(scope="session")
def wheel(interpreter, request) -> Path:
    return builder.wheel_of(interpreter, request.config.getoption("--wheels").resolve())


@pytest.fixture(scope="session")
def core_room(interpreter, wheel, tmp_path_factory) -> CleanRoom:
    """Return an environment with the wheel and nothing else: no dependency, no registry."""
    room = new_room(interpreter, tmp_path_factory.mktemp("core") / "venv")
    room.install("--no-deps", "--no-index", wheel)
    return room


@pytest.fixture(scope="session")
def fastapi_room(interpreter, wheel, tmp_path_factory) -> CleanRoom:
    """Return an environment with the wheel, its extra and a server."""
    room = new_room(interpreter, tmp_path_factory.mktemp("fastapi") / "venv")
    # The versions of the project; a constraint has no extras.
    pinned = (ROOT / "requirements" / "demo.txt").read_text(encoding="utf-8")
    constraints = room.folder / "constraints.txt"
    constraints.write_text(re.sub(r"\[[^\]]*\]", "", pinned), encoding="utf-8")
    room.install("--constraint", constraints, f"{wheel}[fastapi]", "uvicorn[standard]")
    return room


@pytest.fixture(scope="session")
def quickstart() -> dict[str, str]:
    """Return the programs of the quickstart by the name that its text gives them."""
    text = QUICKSTART.read_text(encoding="utf-8")
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="session")
def import_times() -> dict[str, tuple[float, float, float]]:
    """Where a test puts what it measured: the least and the median of isolane's part, the least of the rest, in ms."""
    return _import_times


def pytest_terminal_summary(terminalreporter, config) -> None:
    if not _import_times:
        return
    terminalreporter.section("import times")
    terminalreporter.line(page.table(_import_times))
    if config.getoption("--write"):
        page.write(_import_times)
