"""Real Redis servers on the loopback, which tests start, stop, kill, freeze and empty as they like.

```python
with RedisServer(folder) as server:
    server.url
    server.kill()
    server.start()
```

Without ``redis-server`` the fixtures skip, and fail where ``ISOLANE_REQUIRE_ALL=1``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis

MISSING = "redis-server is not on PATH: what is tested here is not tested (apt-get install redis-server)"
START_SECONDS = 30.0


def program() -> str:
    """Where the server is; skips loudly, or fails, without one."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


def free_port() -> int:
    """A port that nobody listens on; below 55 536, since a node of a cluster takes another one 10 000 above."""
    for _ in range(200):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        if port >= 55_000:
            port -= 20_000
        with socket.socket() as sock, socket.socket() as bus:
            try:
                sock.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port
    raise RuntimeError("no free port was found")


class RedisServer:
    """One server. It listens on the same port whenever it is started.

    Args:
        folder: for its data, and for what it says.
        options: further ones, such as ``"--appendonly", "yes"``.
        keep: whether its data outlives a kill: each write is on disk before it is answered.
    """

    def __init__(self, folder: Path, *options: str, keep: bool = False, port: int = 0) -> None:
        self.folder = folder
        self.options = options
        self.keep = keep
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> Self:
        """Start it, and wait until it answers. With ``keep`` it has the data of before."""
        if self.is_running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            self.port = self.port or free_port()
            kept = ["--appendonly", "yes", "--appendfsync", "always"] if self.keep else ["--appendonly", "no"]
            command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *kept]
            command += ["--dir", str(self.folder), "--daemonize", "no", *self.options]
            with (self.folder / "server.log").open("ab") as log:
                # Of a group of its own: what stops the tests by a key does not reach it.
                self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            self.frozen = False
            if self._answers():
                return self
            # Somebody took the port.
            self.kill()
            self.port = 0
        raise RuntimeError((self.folder / "server.log").read_text(encoding="utf-8", errors="replace")[-2000:])

    def _answers(self) -> bool:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.is_running:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                if client.info("server")["process_id"] == self.process.pid:
                    client.ping()
                    return True
            time.sleep(0.02)
        return False

    def client(self, **options: Any) -> redis.Redis:
        """A client for the test itself."""
        options = {"socket_timeout": 10, "socket_connect_timeout": 10, **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def do(self, *command: Any) -> Any:
        """Send one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def _signal(self, number: int) -> None:
        if self.is_running:
            os.kill(self.process.pid, number)

    def stop(self) -> None:
        """Let it end in order."""
        self.thaw()
        self._signal(signal.SIGTERM)
        self._gone()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._signal(signal.SIGKILL)
        self._gone()

    def _gone(self) -> None:
        if self.process is not None:
            self.process.wait(timeout=START_SECONDS)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            self._signal(signal.SIGCONT)
            self.frozen = False

    def restart(self, *, empty: bool = True) -> None:
        """Kill it and start it again, with its data only if it keeps them and is not to be empty."""
        self.kill()
        if empty:
            for path in self.folder.iterdir():
                if path.name != "server.log":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def flush(self) -> None:
        """Delete all data, scripts included."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def replica(self, folder: Path, *options: str) -> RedisServer:
        """Start a server that follows this one, and wait until it does."""
        other = RedisServer(folder, "--replicaof", "127.0.0.1", str(self.port), *options).start()
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with other.client() as client:
                if client.info("replication").get("master_link_status") == "up":
                    return other
            time.sleep(0.02)
        raise RuntimeError("the replica did not find its primary")

    def promote(self) -> None:
        """Make a replica the primary."""
        with self.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")


class RedisNodes:
    """A Redis Cluster of primaries, without replicas unless they are asked for."""

    def __init__(self, folder: Path, nodes: int = 3, *, replicas: int = 0) -> None:
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
        )
        self.primaries = nodes
        self.replicas = replicas
        self.servers = [RedisServer(folder / f"node-{n}", *options) for n in range(nodes * (1 + replicas))]

    @property
    def url(self) -> str:
        return self.servers[0].url

    @property
    def urls(self) -> str:
        """All of them, with commas."""
        return ",".join(server.url for server in self.servers)

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()

    def _join(self) -> None:
        first = self.servers[0]
        share = 16_384 // self.primaries
        for n, server in enumerate(self.servers[: self.primaries]):
            last = 16_383 if n == self.primaries - 1 else (n + 1) * share - 1
            server.do("CLUSTER", "ADDSLOTSRANGE", n * share, last)
            server.do("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for server in self.servers[1:]:
            server.do("CLUSTER", "MEET", "127.0.0.1", first.port)
        self._wait(lambda server: len(str(server.do("CLUSTER", "NODES")).split("\\n")) > len(self.servers))
        for n, server in enumerate(self.servers[self.primaries :]):
            server.do("CLUSTER", "REPLICATE", self.servers[n % self.primaries].do("CLUSTER", "MYID"))
        # One that never had its primary's data is not promoted.
        self._wait(lambda server: not self._lags(server))
        self._wait(lambda server: "cluster_state:ok" in str(server.do("CLUSTER", "INFO")))
        self._wait(lambda server: len(server.do("CLUSTER", "SLOTS")) == self.primaries)

    @staticmethod
    def _lags(server: RedisServer) -> bool:
        with server.client() as client:
            follows = client.info("replication")
        return follows["role"] == "slave" and follows["master_link_status"] != "up"

    def _wait(self, holds: Any) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(redis.RedisError):
                if all(holds(server) for server in self.servers):
                    return
            time.sleep(0.05)
        raise RuntimeError("the nodes did not find each other")

    def owner(self, key: str) -> RedisServer:
        """The server that has a key."""
        slot = self.servers[0].do("CLUSTER", "KEYSLOT", key)
        alive = next(server for server in self.servers if server.is_running)
        for first, last, primary, *_ in alive.do("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == primary[1])
        raise LookupError(key)

    def flush(self) -> None:
        for server in self.servers[: self.primaries]:
            server.flush()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the tests of a module. Whoever harms it heals it, or uses ``fresh_redis``."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def clean_redis(redis_server: RedisServer) -> RedisServer:
    """The module's server, without data."""
    redis_server.thaw()
    redis_server.start()
    redis_server.flush()
    return redis_server


@pytest.fixture
def fresh_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may do what it likes to it."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def redis_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    """A cluster of three nodes for the tests of a module."""
    with RedisNodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes
