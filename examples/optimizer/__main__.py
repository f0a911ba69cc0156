"""Starts the example: `python -m examples.optimizer`."""

import argparse
import errno
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from examples.optimizer.app import create_app
from examples.optimizer.load.process import synthetic_users
from examples.optimizer.serving import address, listen, make_server

_LEGACY_VARIABLE = "OPTIMIZER_LEGACY"


def main() -> int:
    """Serve until interrupted."""
    options = _parse_options()
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        print(
            f"Port {options.port} on {options.host} is taken."
            f" Choose another with --port, for example --port {options.port + 1}, or --port 0 for any free one.",
            file=sys.stderr,
        )
        return 1
    with listener:
        path = "the leaking singleton path" if options.legacy else "the isolated path"
        app = create_app(data_dir=options.data_dir, legacy=options.legacy)
        url = address(listener)
        print(f"Optimizer on {url} ({path}; Ctrl-C stops it)", flush=True)
        print(f"Dashboard for operators: {url}{app.state.optimizer.operations.operators.link}", flush=True)
        users = synthetic_users(url, options.load, "--pace", str(options.pace)) if options.load else nullcontext()
        # uvicorn raises it again when it has stopped.
        with users, suppress(KeyboardInterrupt):
            make_server(app, log_level=options.log_level).run(sockets=[listener])
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.optimizer", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where the users' databases lie (default: a temporary directory)")
    parser.add_argument(
        "--legacy",
        action="store_true",
        default=os.environ.get(_LEGACY_VARIABLE) == "1",
        help=f"start on the leaking singleton path (also: {_LEGACY_VARIABLE}=1)",
    )
    parser.add_argument(
        "--load",
        type=int,
        default=0,
        metavar="USERS",
        help="let so many synthetic users run the agents (default: none)",
    )
    parser.add_argument(
        "--pace", type=float, default=10.0, help="seconds between the runs of a synthetic user (default: %(default)s)"
    )
    parser.add_argument("--log-level", default="info", help="of the server (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
