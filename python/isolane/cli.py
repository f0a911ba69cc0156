"""The command ``isolane``.

``config``: the settings in force and where each came from. ``audit``: the audit log. ``rollout``: the flags of a
migration. ``migrate``: tools that move a code base. ``accept``: the acceptance suite against an application.
``alerts``: the rules of alerts for Prometheus.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from isolane._core import __version__
from isolane.acceptance import cli as accept
from isolane.migration.codemod import cli as migrate
from isolane.migration.flags import cli as rollout
from isolane.observability import cli as alerts
from isolane.security.audit import cli as audit

AREAS = {"audit": audit, "rollout": rollout, "migrate": migrate, "accept": accept, "alerts": alerts}
"""What each command belongs to: ``add_commands`` declares its arguments, ``run`` does it."""


def show_config() -> int:
    """Print name, value and origin of each setting."""
    try:
        from isolane.fastapi.settings import IsolaneSettings, SettingsConflictError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        # The core works without the extra.
        print(error, file=sys.stderr)
        return 1
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        settings = IsolaneSettings()
    except (ValidationError, SettingsConflictError) as error:
        print(f"The settings are not valid:\n{error}", file=sys.stderr)
        return 1
    origins = settings.origins()
    rows = [(name, str(getattr(settings, name)), origins[name]) for name in origins]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="isolane", description="Per-user isolation for AI agents behind FastAPI.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("config", help="print each setting, its value and where it came from")
    for area in AREAS.values():
        area.add_commands(commands)
    options = parser.parse_args(arguments)
    chosen = AREAS.get(options.command)
    return chosen.run(options) if chosen is not None else show_config()


if __name__ == "__main__":
    raise SystemExit(main())
