"""Commands of the measuring process: a line of JSON each on the standard input, and a line for the answer."""

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Command = Callable[..., Awaitable[dict[str, Any]]]


def allow_sockets(wanted: int) -> None:
    """Let this process have so many files open. Raises `OSError` where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"{wanted} open files are needed and {hard} are allowed: raise the limit (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def obey(commands: Mapping[str, Command]) -> None:
    """Carry out commands until there are no more."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        job: dict[str, Any] = json.loads(line)
        answer = await commands[job.pop("do")](**job)
        print(json.dumps(answer), flush=True)
