"""Builds the extension and the Rust tests with faults in them, beside the normal builds and never in their place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.python_faults import PYTHON_FAULTS, site_with

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target" / "mutants"
CARGO = ("--profile", "mutants", "--target-dir", str(TARGET))
LOOK = "import json, isolane._core as c; print(json.dumps([c.__file__, c._mutants(), c._mutant()]))"


@dataclass(frozen=True)
class Builds:
    """What the trials run."""

    site: Path
    """Goes first in the path of modules: the package with the extension that has the faults."""
    binaries: dict[str, Path]
    """The Rust tests by name, ``lib`` for those beside the code."""
    breaks: dict[str, str]
    """The faults that the extension knows, and what each breaks."""

    def environment(self, mutant: str = "") -> dict[str, str]:
        """Return the environment of a process that has the fault."""
        if mutant in PYTHON_FAULTS:
            site = site_with(PYTHON_FAULTS[mutant], self.site, TARGET / "python" / mutant)
            return os.environ | {"PYTHONPATH": str(site), "ISOLANE_MUTANT": "", "RUST_BACKTRACE": "0"}
        own = {"PYTHONPATH": str(self.site), "ISOLANE_MUTANT": mutant, "RUST_BACKTRACE": "0"}
        return os.environ | own


def cargo(*arguments: str) -> str:
    """Run cargo with the Python that runs this. Raises ``CalledProcessError`` with cargo's own words on the screen."""
    environment = os.environ | {"PYO3_PYTHON": sys.executable}
    command = ["cargo", *arguments, *CARGO, "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def rust_tests(features: str, *which: str) -> dict[str, Path]:
    """Build Rust tests; return where they are."""
    found = {}
    for line in cargo("test", "--no-run", "--message-format=json", "--features", features, *which).splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            is_library = "lib" in message["target"]["kind"] or "cdylib" in message["target"]["kind"]
            found["lib" if is_library else message["target"]["name"]] = Path(message["executable"])
    return found


def site_of(library: Path) -> Path:
    """Lay the package out with the extension that has the faults."""
    site = TARGET / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "isolane", site / "isolane", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy2(library, site / "isolane" / "_core.abi3.so")
    return site


def build() -> Builds:
    """Build everything.

    Raises ``RuntimeError`` when Python would not load the extension that was built.
    """
    cargo("build", "--lib", "--features", "mutants")
    suffix = "dylib" if sys.platform == "darwin" else "so"
    site = site_of(TARGET / "mutants" / f"libisolane.{suffix}")
    plain = (
        *("audit_log", "flags", "guard_simulation", "lease_desk", "lease_model", "limiter_guarantees"),
        *("limiter_model", "run_log_mirrors", "run_log_model"),
    )
    binaries = rust_tests("mutants", "--lib", *(word for name in plain for word in ("--test", name)))
    binaries |= rust_tests("mutants,shuttle", "--test", "shuttle_limiter", "--test", "shuttle_log")
    builds = Builds(site, binaries, {})
    shown = subprocess.run(
        [sys.executable, "-c", LOOK], env=builds.environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    file, known, active = json.loads(shown.stdout)
    if not Path(file).is_relative_to(site) or active is not None:
        raise RuntimeError(
            f"Python loads {file} with the fault {active}, not what was built; run this from the checkout"
        )
    return Builds(site, binaries, dict(known) | {name: fault.breaks for name, fault in PYTHON_FAULTS.items()})
