"""Several workers of the example: uvicorn starts them, one listening socket and one folder are theirs together."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from examples.optimizer.app import create_app
from examples.optimizer.operations import begin_operations

DATA_VARIABLE = "OPTIMIZER_DATA_DIR"
_PREFIX = "isolane-optimizer"


def create_worker() -> FastAPI:
    """The application of one of the workers, made in its process."""
    return create_app(data_dir=Path(os.environ[DATA_VARIABLE]), shared=True)


@contextmanager
def common_folder(data_dir: Path | None) -> Iterator[Path]:
    """The folder of all workers, with what they are to find there. Without `data_dir` it goes at the end."""
    with tempfile.TemporaryDirectory(prefix="isolane-optimizer-") as temporary:
        folder = data_dir or Path(temporary)
        begin_operations(folder / "operations")
        yield folder


def worker_environment(folder: Path, redis_url: str) -> dict[str, str]:
    """What tells a worker where the others are."""
    return {"ISOLANE_REDIS_PREFIX": _PREFIX, **os.environ, DATA_VARIABLE: str(folder), "ISOLANE_REDIS_URL": redis_url}


def serve_workers(listener: socket.socket, count: int, *, log_level: str) -> None:
    """Serve until interrupted. A worker that dies is started again."""
    config = uvicorn.Config(
        "examples.optimizer.workers:create_worker", factory=True, workers=count, log_level=log_level
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Multiprocess(config, sockets=[listener]).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
