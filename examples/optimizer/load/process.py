"""The synthetic users in a process of their own: what they cost is not the server's to pay."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_END_SECONDS = 10.0


@contextmanager
def synthetic_users(url: str, users: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let so many users work on the server while the block runs. They end with this process, however it ends."""
    command = [sys.executable, "-m", "examples.optimizer.load", "--url", url, "--users", str(users), "--until-closed"]
    with subprocess.Popen([*command, *options], stdin=subprocess.PIPE) as process:  # noqa: S603 - this module, no shell
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
