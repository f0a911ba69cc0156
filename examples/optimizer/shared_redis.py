"""What the workers share: the Redis that is named, or one that is started for them and ends with them."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

VARIABLES = ("ISOLANE_REDIS_URL", "REDIS_URL")
PROGRAMS = ("redis-server", "valkey-server")
MISSING = """\
Several workers share what they do through a Redis, and there is no redis-server on this machine. Install it:
  Debian, Ubuntu   sudo apt-get install redis-server
  Fedora           sudo dnf install valkey
  macOS            brew install redis
Or name one that runs: ISOLANE_REDIS_URL=redis://127.0.0.1:6379/0 make demo WORKERS=4
Without WORKERS the example is one process, which needs none."""
# The server ends with whoever holds the other end of the pipe, however that ends.
_WATCH = 'exec 3<&0; "$@" 3<&- & p=$!; (read _ <&3; kill $p) & r=$!; wait $p; kill $r'
_START_SECONDS = 20.0
_END_SECONDS = 10.0
_TRIES = 5


class NoRedisError(RuntimeError):
    """There is none to share; the message says what to do."""


def given_url() -> str | None:
    """The Redis that the environment names."""
    return next((url for name in VARIABLES if (url := os.environ.get(name, "").strip())), None)


@contextmanager
def shared_redis() -> Iterator[tuple[str, bool]]:
    """The URL of the Redis, and whether it was started here: then it is stopped at the end of the block.

    Raises `NoRedisError` where none is named and none can be started.
    """
    if url := given_url():
        yield url, False
        return
    with started_redis() as url:
        yield url, True


@contextmanager
def started_redis() -> Iterator[str]:
    """The URL of a Redis that is there for the block alone. Raises `NoRedisError` where there is no program."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise NoRedisError(MISSING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isolane-redis-")))
        for _ in range(_TRIES):
            port = _free_port()
            process = _start(program, port, folder)
            if _answers(process, port, folder):
                stack.callback(_stop, process)
                yield f"redis://127.0.0.1:{port}/0"
                return
            # Somebody else took the port in between.
            _stop(process)
        said = (folder / "log").read_text(encoding="utf-8", errors="replace")[-1000:]
    raise NoRedisError(f"{program} does not start:\n{said}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _start(program: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """For this machine alone, and with nothing on disk: what is in it ends with the workers."""
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
    watched = ["/bin/sh", "-c", _WATCH, "sh", *command]
    with (folder / "log").open("wb") as log:
        # Of a group of its own: Ctrl-C is for the workers, which still need it while they end.
        return subprocess.Popen(watched, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)  # noqa: S603 - a program that was found, and a constant text


def _answers(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    """Whether it is there, and no other one that has taken the port."""
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"CONFIG GET dir\r\n")
                return folder.name.encode() in connection.recv(4096)
        except OSError:
            time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
