"""Commands of the measuring process: a line of JSON each on the standard input, and a line for the answer."""

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Command = Callable[..., Awaitable[dict[str, Any]]]


def too_few_files(wanted: int) -> str:
    """Why this system does not let a process have so many files open, or nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return ""
    return f"{wanted} open files are needed and {hard} are allowed: raise the hard limit (ulimit -Hn)"


def allow_files(wanted: int) -> None:
    """Let this process have so many files open, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def obey(commands: Mapping[str, Command]) -> None:
    """Carry out commands until there are no more."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        job: dict[str, Any] = json.loads(line)
        answer = await commands[job.pop("do")](**job)
        print(json.dumps(answer), flush=True)
