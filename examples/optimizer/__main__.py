"""Starts the example: `python -m examples.optimizer`."""

import argparse
import errno
import os
import socket
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from examples.optimizer.app import create_app
from examples.optimizer.load.process import synthetic_users
from examples.optimizer.operators import operators_of
from examples.optimizer.serving import address, listen, make_server
from examples.optimizer.shared_redis import NoRedisError, shared_redis
from examples.optimizer.workers import common_folder, serve_workers, worker_environment

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
        if options.workers > 1:
            return _serve_many(options, listener)
        path = "the leaking singleton path" if options.legacy else "the isolated path"
        # With a folder and a Redis it may be one of several that were started by themselves.
        shared = options.data_dir is not None and bool(os.environ.get("ISOLANE_REDIS_URL"))
        app = create_app(data_dir=options.data_dir, legacy=options.legacy, shared=shared)
        url = address(listener)
        print(f"Optimizer on {url} ({path}; Ctrl-C stops it)", flush=True)
        print(f"Dashboard for operators: {url}{app.state.optimizer.operations.operators.link}", flush=True)
        # uvicorn raises it again when it has stopped.
        with _users(options, url), suppress(KeyboardInterrupt):
            make_server(app, log_level=options.log_level).run(sockets=[listener])
    return 0


def _users(options: argparse.Namespace, url: str) -> AbstractContextManager[object]:
    return synthetic_users(url, options.load, "--pace", str(options.pace)) if options.load else nullcontext()


def _serve_many(options: argparse.Namespace, listener: socket.socket) -> int:
    """Serve by several workers on one address, which share a folder and a Redis."""
    if options.legacy:
        print("The leaking path is one engine in one process: leave out --workers to see it.", file=sys.stderr)
        return 1
    try:
        with shared_redis() as (redis_url, is_ours), common_folder(options.data_dir) as folder:
            os.environ.update(worker_environment(folder, redis_url))
            url = address(listener)
            redis = (
                f"a Redis that this command started on {redis_url} and stops at its end" if is_ours else "your Redis"
            )
            print(f"Optimizer on {url} ({options.workers} workers on {redis}; Ctrl-C stops all)", flush=True)
            print(f"Dashboard for operators: {url}{operators_of(folder / 'operations').link}", flush=True)
            print("The page says which worker serves a socket, and which one runs a run, by process id.", flush=True)
            with _users(options, url):
                serve_workers(listener, options.workers, log_level=options.log_level)
    except NoRedisError as error:
        print(error, file=sys.stderr)
        return 1
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
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that serve, which share a Redis: ISOLANE_REDIS_URL, REDIS_URL, or one that is started "
        "(default: %(default)s, without one)",
    )
    parser.add_argument("--log-level", default="info", help="of the server (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
