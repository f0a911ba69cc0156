"""Worker processes that share a limit, and what they say: see ``lease_worker``."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.lease_witness import Witness

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0
"""How long anything may take before a test gives up; it says nothing of how long it should."""


class WorkerProcess:
    """One worker."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.row = config["row"]
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.heard: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.lease_worker", json.dumps(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What stops the tests by a key does not reach it first.
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                self.said.put(json.loads(line))
        self.said.put({"closed": True})

    def _read_errors(self) -> None:
        self.errors.extend(self.process.stderr)

    def expect(self, key: str, seconds: float = SECONDS) -> Any:
        """Wait until it says something."""
        for said in self.heard:
            if key in said:
                self.heard.remove(said)
                return said[key]
        until = time.monotonic() + seconds
        while True:
            try:
                said = self.said.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"worker {self.row} did not say {key!r}: {''.join(self.errors)[-3000:]}") from None
            if key in said:
                return said[key]
            if "closed" in said:
                raise AssertionError(
                    f"worker {self.row} ended and had not said {key!r}: {''.join(self.errors)[-3000:]}"
                )
            self.heard.append(said)

    def seen(self) -> list[dict[str, Any]]:
        """What it has said that nobody waited for."""
        while not self.said.empty():
            self.heard.append(self.said.get())
        return list(self.heard)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self.process.wait(SECONDS)

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def end(self) -> dict[str, Any]:
        """Tell it to end. Returns what came of it."""
        self.signal(signal.SIGTERM)
        end = self.expect("end")
        assert self.process.wait(SECONDS) == 0, "".join(self.errors)[-3000:]
        return end

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.thaw()
            self.kill()
        for reader in self._readers:
            reader.join(SECONDS)
        self.process.stdout.close()
        self.process.stderr.close()


class Workers:
    """Several, with a witness of who runs."""

    def __init__(self, folder: Path, url: str, many: int, users: int = 4, **config: Any) -> None:
        path = folder / "witness"
        self.witness = Witness.create(path, many, users)
        self.config = {"url": url, "witness": str(path), "processes": many, "users": users, **config}
        self.all: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.close()
        self.witness.close()

    def start(self, many: int = 1, **config: Any) -> list[WorkerProcess]:
        """Start some more, and wait until they run."""
        new = [WorkerProcess({**self.config, **config, "row": len(self.all) + n}) for n in range(many)]
        self.all += new
        for worker in new:
            worker.expect("ready")
        return new

    def until(self, holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> float:
        """Wait for something. Returns how many seconds it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, f"after {seconds:g} s still not: {what}"
            time.sleep(0.01)
        return time.monotonic() - began


def leases_left(server: Any, prefix: str = "isolane", name: str = "test") -> int:
    """Count the leases that a server has now."""
    with server.client() as client:
        now = client.time()
        now_ms = now[0] * 1000 + now[1] // 1000
        keys = [key for key in client.keys(f"{{{prefix}:lim:{name}}}:*") if not key.endswith(b":fence")]
        return sum(client.zcount(key, f"({now_ms}", "+inf") for key in keys)


def none_left(server: Any, name: str = "test", *, within: float = 0.0) -> bool:
    """Whether there are none, now or within so many seconds.

    What a server that stood still was asked before, it does when it goes on. Nobody knows of that lease: it runs out.
    """
    until = time.monotonic() + within
    while left := leases_left(server, name=name):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return not left
