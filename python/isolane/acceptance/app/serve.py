"""What ``isolane accept`` starts as a process: an application on an open socket, or a description of it."""

from __future__ import annotations

import importlib
import json
import socket
import sys
from typing import Any


def serve(target: str, descriptor: int, *, factory: bool) -> None:
    """Serve ``module:app`` with uvicorn on the socket with the given descriptor."""
    import uvicorn  # noqa: PLC0415 - nothing else of the package needs it

    config = uvicorn.Config(target, factory=factory, log_level="warning", access_log=False, workers=1)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def describe(target: str, *, factory: bool) -> dict[str, Any]:
    """Return what an application says of its routes: its OpenAPI document, and the paths of its WebSockets."""
    module, _, name = target.partition(":")
    app: Any = importlib.import_module(module)
    for part in (name or "app").split("."):
        app = getattr(app, part)
    if factory:
        app = app()
    kinds = {"WebSocketRoute", "APIWebSocketRoute"}
    sockets = [
        route.path for route in getattr(app, "routes", ()) if kinds & {kind.__name__ for kind in type(route).__mro__}
    ]
    openapi = app.openapi() if hasattr(app, "openapi") else {}
    return {"openapi": openapi, "sockets": sockets}


def main() -> None:
    """Take the arguments: the target, a descriptor or ``describe``, and ``factory`` or nothing."""
    target, what, *rest = sys.argv[1:]
    factory = "factory" in rest
    if what == "describe":
        # What the application prints while it is imported comes before this line.
        sys.stdout.write("\n" + json.dumps(describe(target, factory=factory)) + "\n")
    else:
        serve(target, int(what), factory=factory)


if __name__ == "__main__":
    main()
