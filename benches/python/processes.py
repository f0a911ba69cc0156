"""A measured process beside the measuring one: its own interpreter, and its own core where there are two."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from benches.python.machine import ROOT


def cores() -> list[int]:
    """The cores that this process may run on; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def core_option(number: int) -> list[str]:
    """The option that keeps a child on a core of its own, when there is more than one."""
    found = cores()
    return ["--core", str(found[number % len(found)])] if len(found) > 1 else []


def stay_on(core: int | None) -> None:
    """Run on this core only."""
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Run on a core of its own meanwhile, when there is more than one."""
    found = cores()
    if len(found) < 2:
        yield
        return
    stay_on(found[number % len(found)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, found)


class Child:
    """A Python module in a process of its own, which answers in lines."""

    def __init__(self, module: str, options: Sequence[str] = ()) -> None:
        self.module = module
        command = [sys.executable, "-m", module, *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """Its next line. Raises `RuntimeError` when it has ended instead."""
        if self.process.stdout is None:
            raise RuntimeError(f"{self.module} has no output")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with {self.process.wait()}")
        return line

    def tell(self, do: str, **how: Any) -> None:
        """Have it do something."""
        if self.process.stdin is None:
            raise RuntimeError(f"{self.module} takes no commands")
        print(json.dumps({"do": do, **how}), file=self.process.stdin, flush=True)

    def answer(self, seconds: float = 120.0) -> dict[str, Any]:
        """What it answers. It is killed when that takes too long, which raises `RuntimeError`."""
        watch = threading.Timer(seconds, self.process.kill)
        watch.start()
        try:
            answer: dict[str, Any] = json.loads(self.line())
        finally:
            watch.cancel()
        return answer

    def ask(self, do: str, **how: Any) -> dict[str, Any]:
        """Have it do something and wait for the answer."""
        self.tell(do, **how)
        return self.answer()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
