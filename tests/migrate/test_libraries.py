"""Published versions of public libraries: the scan finds exactly what a reader of them found.

The wheels come from the package index; without a network the tests are skipped, and fail under ISOLANE_REQUIRE_ALL.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from isolane.migration.codemod import RULES, MigrateConfig, scan_paths

LISTS = sorted((Path(__file__).parent / "libraries").glob("*.toml"))
CACHE = Path(__file__).resolve().parents[2] / "target" / "libraries"


def library(name: str, version: str) -> Path:
    """The folder of an unpacked wheel, downloaded once."""
    folder = CACHE / f"{name}-{version}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(CACHE), f"{name}=={version}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )
        if done.returncode != 0:
            reason = f"{name} {version} cannot be downloaded: {done.stderr.strip()[-300:]}"
            if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        (wheel,) = CACHE.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        unpacked = folder.with_suffix(".unpacking")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        unpacked.rename(folder)
        wheel.unlink()
    return folder


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_scan_finds_exactly_what_a_reader_found(path):
    listed = tomllib.loads(path.read_text(encoding="utf-8"))
    root = library(listed["name"], listed["version"])
    report = scan_paths([root], MigrateConfig(root=root))
    assert report.problems == ()
    found = {(one.path, one.line, one.rule) for one in report.findings}
    expected = {(one["file"], one["line"], one["rule"]) for one in listed["finding"]}
    assert sorted(found - expected) == []
    assert sorted(expected - found) == []


def test_the_lists_say_of_each_finding_why_it_is_one():
    assert len(LISTS) == 3
    for path in LISTS:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
        assert listed["explained"].strip()
        for one in listed["finding"]:
            assert one["rule"] in RULES
            assert one["why"].endswith(".")
