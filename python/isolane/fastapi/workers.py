"""How many worker processes the server was started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

FLAGS = ("--workers", "-w")
VARIABLES = ("WEB_CONCURRENCY", "GRANIAN_WORKERS", "UVICORN_WORKERS")


def _flag(arguments: Sequence[str]) -> int | None:
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name not in FLAGS:
            continue
        text = value or (arguments[at + 1] if at + 1 < len(arguments) else "")
        if text.isdigit():
            return int(text)
    return None


def worker_count(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Return the number of workers that the command line or the environment names; 1 when neither does."""
    arguments = sys.argv if arguments is None else arguments
    environment = os.environ if environment is None else environment
    found = _flag(arguments) or _flag(environment.get("GUNICORN_CMD_ARGS", "").split())
    if found is not None:
        return found
    for variable in VARIABLES:
        text = environment.get(variable, "")
        if text.isdigit():
            return int(text)
    return 1


MANY_WORKERS = (
    "isolane runs in {count} worker processes: lanes, limits and event logs live in one process each, so a user's "
    "limits count per process and a WebSocket sees only the runs of its own process. Set ISOLANE_REDIS_URL, through "
    "which workers share them; or run one worker per instance, or route each user to the same worker (by a hash of the "
    "user at the load balancer)."
)
