"""The application under uvicorn, on a socket that is bound before anything else happens."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

_START_SECONDS = 30.0
_POLL_SECONDS = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def address(listener: socket.socket) -> str:
    """The URL under which a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: FastAPI, *, log_level: str = "info") -> uvicorn.Server:
    """A server with one worker: lanes and logs live in one process."""
    return uvicorn.Server(uvicorn.Config(app, log_level=log_level, workers=1))


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application from a thread of its own while the block runs; gives its URL."""
    with listen("127.0.0.1", 0) as listener:
        server = make_server(app, log_level="warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="optimizer-server")
        thread.start()
        try:
            _await_start(server, thread)
            yield address(listener)
        finally:
            server.should_exit = True
            thread.join()


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    waited = 0.0
    while not server.started:
        thread.join(_POLL_SECONDS)
        waited += _POLL_SECONDS
        if not thread.is_alive() or waited > _START_SECONDS:
            raise RuntimeError("The application did not start; its log above says why.")
