"""How long ``isolane migrate scan`` takes for 1000 files, beside ruff and LibCST on the same ones.

Run by ``python -m benches.migrate``. The files are copies of the installed packages' sources, the same ones each time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import libcst
from isolane.migration.codemod import MigrateConfig, scan_paths

TARGET_SECONDS = 5.0


def sources(count: int) -> list[Path]:
    """The same files of the installed packages on each run; a package twice if there are too few."""
    site = Path(os.__file__).parent / "site-packages"
    here = [Path(path) for path in sys.path if path.endswith("site-packages")]
    found = sorted(
        path for root in (*here, site) if root.is_dir() for path in root.rglob("*.py") if path.stat().st_size
    )
    chosen = random.Random(7).sample(found, min(count, len(found)))
    return (chosen * (count // len(chosen) + 1))[:count]


def best(run: Callable[[], object], rounds: int) -> float:
    """The shortest of some runs: what else the machine does only adds to it."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def libcst_parse(paths: list[Path]) -> None:
    for path in paths:
        try:
            libcst.parse_module(path.read_bytes())
        except libcst.ParserSyntaxError:
            continue


def ruff(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--select",
        "E,F,B,S",
        str(folder),
    ]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, path in enumerate(sources(options.files)):
            shutil.copyfile(path, folder / f"m{number:04}.py")
        paths = sorted(folder.glob("*.py"))
        size = sum(path.stat().st_size for path in paths) / 1e6
        config = MigrateConfig(root=folder)
        print(f"{len(paths)} files, {size:.1f} MB, {os.cpu_count()} processors, the shortest of {options.rounds}")
        rows = [
            ("isolane migrate scan", best(lambda: scan_paths([folder], config, processes=None), options.rounds)),
            ("the same, one process", best(lambda: scan_paths([folder], config, processes=1), options.rounds)),
            ("ruff check, rules E F B S, no cache", best(lambda: ruff(folder), options.rounds)),
            ("libcst.parse_module alone, no rules", best(lambda: libcst_parse(paths), 1)),
        ]
        for label, seconds in rows:
            print(f"{label:<40}{seconds:8.2f} s")
        started = time.process_time()
        scan_paths([folder], config, processes=1)
        print(f"{'processor time of one process':<40}{time.process_time() - started:8.2f} s")
        met = rows[0][1] <= TARGET_SECONDS * options.files / 1000
        print(f"target: {TARGET_SECONDS:.0f} s for 1000 files: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
