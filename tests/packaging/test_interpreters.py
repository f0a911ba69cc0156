"""How the interpreters are found that wheels are built for."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from scripts import wheels as builder


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """Return the only folder of programs, and let pyenv have none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return folder


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_this_interpreter_is_known():
    found = builder.probe(Path(sys.executable))
    assert found is not None
    assert found.version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.tag == f"cp{sys.version_info.major}{sys.version_info.minor}"


def test_a_shim_of_a_version_that_is_not_installed_is_none(programs):
    assert builder.probe(script(programs / "python3.12", "echo 'pyenv: not installed' >&2; exit 127")) is None
    assert builder.probe(programs / "absent") is None


@pytest.mark.parametrize(
    "answer",
    [
        '["CPython", "3.10", false, "/python"]',
        '["PyPy", "3.11", false, "/python"]',
        '["CPython", "3.13", true, "/python"]',
        "no JSON",
    ],
)
def test_others_are_not_taken(programs, answer):
    assert builder.probe(script(programs / "python3.13", f"echo '{answer}'")) is None
    good = script(programs / "python3.13", """echo '["CPython", "3.13", false, "/python"]'""")
    assert builder.probe(good) == builder.Interpreter("3.13", Path("/python"))


def test_what_is_not_found_is_said(programs, capsys):
    (programs / "python3").symlink_to(sys.executable)
    (found,) = builder.find()
    said = capsys.readouterr().out
    missing = {version for version in builder.VERSIONS if f"NOT FOUND: CPython {version}" in said}
    assert missing == set(builder.VERSIONS) - {found.version}


def test_nothing_found_or_a_wrong_name_stops(programs):
    with pytest.raises(SystemExit, match="no CPython of"):
        builder.find()
    with pytest.raises(SystemExit, match="is no CPython of"):
        builder.find([str(programs / "python3.9")])


def test_the_newest_of_pyenv_is_taken(programs):
    for number in ("3.12.9", "3.12.10", "3.13.0"):
        version = number.rpartition(".")[0]
        script(
            programs.parent / "pyenv" / "versions" / number / "bin" / "python3",
            f"""echo '["CPython", "{version}", false, "/{number}"]'""",
        )
    assert [str(one.path) for one in builder.find()] == ["/3.12.10", "/3.13.0"]


def test_without_zig_the_wheel_is_this_systems_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert builder.platform_options() == []
    assert "WITHOUT ZIG" in capsys.readouterr().out
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert builder.platform_options() == ["--zig", "--compatibility", "manylinux_2_17"]


def test_a_missing_wheel_names_the_command(tmp_path):
    interpreter = builder.Interpreter("3.12", Path("/python"))
    with pytest.raises(SystemExit, match="make wheel"):
        builder.wheel_of(interpreter, tmp_path)
    wheel = tmp_path / f"isolane-1-cp312-cp312-{os.uname().sysname}.whl"
    wheel.touch()
    assert builder.wheel_of(interpreter, tmp_path) == wheel
