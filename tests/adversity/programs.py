"""Programs that are run in a process of their own, since they fork, exit or might crash."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code (negative: killed by that signal), and what it wrote."""

    code: int
    out: str
    err: str


def run(program: str, *, options: tuple[str, ...] = (), timeout: float = 60) -> Ended:
    """Run a program with this interpreter, with warnings as errors and the fault handler on."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", *options, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)
