"""The service as a process of this machine: started, looked at, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from isolane.acceptance.app.config import AcceptanceConfig
from isolane.acceptance.target import TargetError

STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOG_LINES = 20
_LOG_BYTES = 64 * 1024


class ServiceProcess:
    """An application under uvicorn, on a free port of the loopback.

    The socket is open before the process starts, so that its port cannot be taken by another.
    """

    def __init__(self, config: AcceptanceConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def ended(self) -> int | None:
        """What it ended with; ``None`` while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TargetError: it ended instead, or does not answer in time; with the last lines of its log.
        """
        config = self._config
        log = self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            listener.set_inheritable(True)
            port = listener.getsockname()[1]
            python_path = os.pathsep.join(filter(None, (str(config.directory), os.environ.get("PYTHONPATH", ""))))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "isolane.acceptance.app.serve",
                config.app,
                str(listener.fileno()),
                *(("factory",) if config.factory else ()),
                cwd=config.directory,
                env={**os.environ, "PYTHONPATH": python_path, **config.env},
                pass_fds=(listener.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = f"http://127.0.0.1:{port}"
        await self._answering(port)

    async def _answering(self, port: int) -> None:
        limit = time.monotonic() + self._config.start_seconds
        while time.monotonic() < limit:
            if self._process is not None and self._process.returncode is not None:
                code = self._process.returncode
                raise TargetError(
                    f"{self._config.app} ended with {code} instead of serving. Its last lines:\n{self.log()}"
                )
            if await _answers(port):
                return
            await asyncio.sleep(_POLL_SECONDS)
        await self.stop()
        raise TargetError(
            f"{self._config.app} did not answer within {self._config.start_seconds:g} s (app.start_seconds)."
            f" Its last lines:\n{self.log()}"
        )

    def log(self) -> str:
        """Return the last lines that it wrote."""
        if self._log is None:
            return "  (nothing)"
        size = os.fstat(self._log.fileno()).st_size
        lines = (
            os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace").splitlines()
        )
        return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (nothing)"

    async def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
            finally:
                # Also where nobody waits any more.
                if process.returncode is None:
                    process.kill()
            await process.wait()

    def close(self) -> None:
        """Let go of its log."""
        if self._log is not None:
            self._log.close()
            self._log = None


async def _answers(port: int) -> bool:
    """Return whether a server answers HTTP there. The port is open before anybody reads it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /isolane-acceptance-is-it-there HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await asyncio.wait_for(reader.read(4), 1.0)) == b"HTTP"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process, where this system shows it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(pid: int) -> int | None:
    """Return how many files and sockets a process has open, where this system shows it."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - the names alone
    except OSError:
        return None
