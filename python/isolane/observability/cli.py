"""``isolane alerts``: the rules of alerts as a file for Prometheus.

Exit codes: 0 done; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from isolane.observability.rules import as_yaml, default_rules, prometheus_rules
from isolane.observability.thresholds import PerformanceThresholds

WRONG = 2


def _threshold(text: str) -> tuple[str, float]:
    name, sign, value = text.partition("=")
    try:
        if not sign:
            raise ValueError  # noqa: TRY301 - the same answer
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no threshold such as alert_response_time_ms=3000") from None


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    area = commands.add_parser("alerts", help="the rules of alerts")
    steps = area.add_subparsers(dest="step", required=True)
    rules = steps.add_parser("rules", help="print the rules as a file for Prometheus")
    rules.add_argument(
        "--set",
        dest="thresholds",
        metavar="NAME=VALUE",
        type=_threshold,
        action="append",
        default=[],
        help="another threshold, such as alert_response_time_ms=3000; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        thresholds = PerformanceThresholds.of(dict(options.thresholds))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    sys.stdout.write(as_yaml(prometheus_rules(default_rules(thresholds))))
    return 0
