"""Names that a test counts by: taken before the cap of their label is reached.

A process tells the first 100 names of a label apart. The modules of a test run are imported before its first test, so
what a module reserves at import is among them, however many names the tests before it use.
"""

from __future__ import annotations

from isolane._core import metric

_SERIES = {
    "agent": lambda name: metric("isolane_runs_total").labels(name, "completed"),
    "tool": lambda name: metric("isolane_tool_calls_total").labels(name, "ok"),
    "flag": lambda name: metric("isolane_flag_evaluations_total").labels(name, "off", "default"),
    "symbol": lambda name: metric("isolane_legacy_calls_total").labels(name),
    "rule": lambda name: metric("isolane_alerts_total").labels(name, "firing"),
}


def reserve(*names: str, label: str | None = None) -> tuple[str, ...]:
    """Take the names for agents and tools, or for another label: ``agent``, ``tool``, ``flag``, ``symbol``, ``rule``.

    The metrics have a series of zero for each afterwards. Returns the names.
    """
    for touch in [_SERIES[label]] if label else [_SERIES["agent"], _SERIES["tool"]]:
        for name in names:
            touch(name)
    return names
