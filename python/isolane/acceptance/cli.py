"""``isolane accept``: the acceptance suite from the command line. It ends with 0 passed, 1 failed, 2 not run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isolane.acceptance.names import TEST_NAMES

DEFAULT = Path("accept.toml")


def add_commands(commands: Any) -> None:
    """Add ``accept`` and ``accept init`` to a parser."""
    accept: argparse.ArgumentParser = commands.add_parser(
        "accept", help="test that a service keeps its users apart", description=__doc__
    )
    accept.add_argument("--config", type=Path, default=DEFAULT, help="how the service is used (default: %(default)s)")
    accept.add_argument("--app", help="module:app to start under uvicorn, instead of app.target of the configuration")
    accept.add_argument("--url", help="a service that runs already, instead of one that is started")
    accept.add_argument(
        "--self", action="store_true", help="test isolane itself in this process; needs no configuration"
    )
    accept.add_argument("--only", action="append", choices=TEST_NAMES, help="run this test; may be given again")
    accept.add_argument(
        "--seed", type=int, default=0, help="makes the same users and order again (default: %(default)s)"
    )
    accept.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON, to standard output without FILE"
    )
    accept.add_argument("--junit", metavar="FILE", help="write XML of JUnit")
    verbs = accept.add_subparsers(dest="verb")
    init = verbs.add_parser("init", help="write a commented accept.toml, filled in from the service's OpenAPI")
    init.add_argument("--app", help="module:app to read the routes of")
    init.add_argument("--factory", action="store_true", help="the target is a function that makes the application")
    init.add_argument("--url", help="a running service, whose /openapi.json is read")
    init.add_argument("--output", type=Path, default=DEFAULT, help="where to write (default: %(default)s)")
    init.add_argument("--force", action="store_true", help="write over a file that is there")


def run(options: argparse.Namespace) -> int:
    """Run the suite, or write a configuration."""
    from isolane.acceptance import running  # noqa: PLC0415 - other commands need nothing of it

    return running.run(options)
