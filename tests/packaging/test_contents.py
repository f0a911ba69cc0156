"""What is in a wheel and what is not."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def archive(wheel):
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="session")
def extension(archive) -> bytes:
    (name,) = [name for name in archive.namelist() if name.endswith(".so")]
    return archive.read(name)


def test_the_package_is_complete(archive):
    package = ROOT / "python"
    expected = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert {"isolane/py.typed", "isolane/_core.pyi", "isolane/__init__.py"} <= expected
    assert expected - set(archive.namelist()) == set()


def test_nothing_but_the_package_is_in_it(archive):
    names = archive.namelist()
    (extension,) = [name for name in names if name.endswith(".so")]
    assert extension.startswith("isolane/_core.")
    others = [name for name in names if not name.startswith(("isolane/", "isolane_pytest/", "isolane-"))]
    assert others == []
    unwanted = [name for name in names if name.endswith((".pyc", ".rs", ".toml", ".md")) or "test_" in name]
    assert unwanted == []


def test_the_licences_are_in_it_and_those_of_what_it_brings_along(archive):
    licences = {
        name.partition("/licenses/")[2]: archive.read(name) for name in archive.namelist() if "/licenses/" in name
    }
    vendored = [path.relative_to(ROOT).as_posix() for path in (ROOT / "python").rglob("vendor/*/LICENSE")]
    assert vendored
    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE-APACHE", "LICENSE-MIT", *vendored)}


def test_the_core_needs_no_package(archive):
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = message_from_string(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist", [])
    assert [line for line in required if "extra ==" not in line] == []
    assert any(line.startswith("fastapi") for line in required)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT OR Apache-2.0"


def test_the_extension_is_stripped(extension):
    elffile = pytest.importorskip("elftools.elf.elffile", reason="`make wheel-check` installs what this needs")
    sections = {section.name for section in elffile.ELFFile(io.BytesIO(extension)).iter_sections()}
    assert ".text" in sections
    assert {name for name in sections if name == ".symtab" or name.startswith(".debug")} == set()


def test_the_extension_names_no_folder_of_the_machine(extension):
    assert str(Path.home()).encode() + b"/" not in extension
    assert str(ROOT).encode() not in extension


def test_the_platform_tag_is_true(wheel):
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    said = " ".join(shown.stdout.split())
    print(said)
    # The tag that auditwheel finds in the extension's symbols is one that the wheel's name claims.
    (found,) = [word.strip('".') for word in said.split() if word.strip('".').startswith("manylinux_2_")][:1]
    assert found in wheel.name


def test_the_wheel_runs_on_old_systems(wheel):
    """With zig, which `make wheel` installs, the wheel is linked against an old C library."""
    assert "manylinux_2_17_x86_64" in wheel.name or "manylinux_2_17_aarch64" in wheel.name
