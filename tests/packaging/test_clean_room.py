"""A wheel in an environment without Rust and without the source tree."""

from __future__ import annotations

import json
import shutil
import statistics

HEAVY = ("fastapi", "pydantic", "pydantic_settings", "starlette", "sqlite3", "multiprocessing", "isolane.testing")
"""What `import isolane` is not to load."""

MEASURE = """
import json, sys, time
begun = time.perf_counter(); import asyncio, dataclasses, typing
standard = time.perf_counter(); held = set(sys.modules); import isolane
ended = time.perf_counter()
print(json.dumps({"standard": (standard - begun) * 1e3, "isolane": (ended - standard) * 1e3, "file": isolane.__file__,
                  "modules": sorted(sys.modules), "new": len(set(sys.modules) - held)}))
"""


MOST_NEW = 225
"""Modules that `import isolane` may load beside asyncio, dataclasses and typing: 184 on CPython 3.11."""


def test_there_is_no_rust_and_no_source_tree(core_room):
    path = core_room.environment()["PATH"]
    assert [name for name in ("cargo", "rustc", "rustup", "cc", "maturin") if shutil.which(name, path=path)] == []
    assert shutil.which("python", path=path) is not None
    assert core_room.run("-c", "import isolane; print(isolane.__file__)").stdout.startswith(str(core_room.folder))


def test_the_core_stands_alone(core_room):
    listed = json.loads(core_room.run("-m", "pip", "list", "--format=json", "--disable-pip-version-check").stdout)
    assert {one["name"] for one in listed} - {"pip", "setuptools"} == {"isolane"}
    core_room.run("-m", "pip", "check")


def test_the_extra_is_named_where_it_is_missing(core_room):
    done = core_room.run("-c", "try:\n  import isolane.fastapi\nexcept ImportError as error:\n  print(error)")
    assert "isolane[fastapi]" in done.stdout


def test_the_core_runs_the_quickstart(core_room, quickstart):
    program = core_room.folder / "core.py"
    program.write_text(quickstart["core.py"], encoding="utf-8")
    core_room.run("-X", "dev", "-W", "error", program)


def test_importing_loads_nothing_that_it_does_not_need(core_room):
    found = json.loads(core_room.run("-c", MEASURE).stdout)
    loaded = set(found["modules"])
    assert "isolane._core" in loaded
    assert loaded & set(HEAVY) == set()
    # Those that nobody thought of: time is a figure of the machine, this one is not.
    assert found["new"] <= MOST_NEW


def test_the_extra_is_not_loaded_before_it_is_asked_for(fastapi_room):
    """With the extra installed, `import isolane` still leaves it alone."""
    loaded = set(json.loads(fastapi_room.run("-c", MEASURE).stdout)["modules"])
    assert loaded & set(HEAVY) == set()
    asked = fastapi_room.run("-c", "import sys, isolane.fastapi; print('fastapi' in sys.modules)")
    assert asked.stdout.strip() == "True"


def test_import_time(core_room, interpreter, import_times):
    core_room.run("-c", MEASURE)  # writes the bytecode
    runs = [json.loads(core_room.run("-c", MEASURE).stdout) for _ in range(15)]
    best = {part: min(run[part] for run in runs) for part in ("isolane", "standard")}
    typical = statistics.median(run["isolane"] for run in runs)
    import_times[interpreter.version] = (best["isolane"], typical, best["standard"])
