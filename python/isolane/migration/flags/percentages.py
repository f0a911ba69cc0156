"""The three values by which the older design configures a rollout, as a document of flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from isolane._core import FlagConfigError

MODERN_FLAG = "modern_execution"
"""The flag of those who run the modern way."""
HYBRID_FLAG = "hybrid_websocket_mode"
"""The flag of those who do not, and whose events take both ways."""

MODERN_PERCENTAGE = "modern_execution_rollout_percentage"
ENTERPRISE_ROLLOUT = "enterprise_modern_execution_rollout"
HYBRID_ENABLED = "hybrid_websocket_mode_enabled"
NAMES = (MODERN_PERCENTAGE, ENTERPRISE_ROLLOUT, HYBRID_ENABLED)

_FULL = 100_000


def document(values: Mapping[str, Any], revision: int = 1) -> str:
    """The document that means the same as the three values.

    Args:
        values: Percentages from 0 to 100, also with a fraction; `True` is 100 and `False` is 0. Left out is 0 for
            `modern_execution_rollout_percentage` and `hybrid_websocket_mode_enabled`; without
            `enterprise_modern_execution_rollout` users of the tier `enterprise` are as all others.
        revision: Of the document.

    Raises:
        FlagConfigError: A name is not one of the three, or a value no percentage.
    """
    for name in values:
        if name not in NAMES:
            raise _refused(f"/{name}", "this value is not known", f"Known are: {', '.join(NAMES)}")
    everybody = _hundred_thousandths(MODERN_PERCENTAGE, values.get(MODERN_PERCENTAGE, 0))
    modern: dict[str, Any] = {"rollout": everybody}
    if ENTERPRISE_ROLLOUT in values:
        enterprise = _hundred_thousandths(ENTERPRISE_ROLLOUT, values[ENTERPRISE_ROLLOUT])
        if everybody < _FULL:
            # At 100 % everybody is modern, whatever is said of some.
            modern["rules"] = [{"if": {"tier": ["enterprise"]}, "rollout": enterprise}]
    hybrid = {"rollout": _hundred_thousandths(HYBRID_ENABLED, values.get(HYBRID_ENABLED, 0))}
    return json.dumps({"schema": 1, "revision": revision, "flags": {MODERN_FLAG: modern, HYBRID_FLAG: hybrid}})


def _hundred_thousandths(name: str, value: Any) -> int:
    if isinstance(value, bool):
        return _FULL if value else 0
    if not isinstance(value, int | float) or not 0 <= value <= 100:  # noqa: PLR2004 - percent
        raise _refused(f"/{name}", f"{value!r} is no percentage", "Write a number from 0 to 100, or true or false")
    exact = round(value * 1000)
    if abs(exact - value * 1000) > 1e-6:  # noqa: PLR2004 - what floats lose
        raise _refused(f"/{name}", f"{value!r} is between two steps", "The smallest step is 0.001")
    return exact


def _refused(path: str, problem: str, fix: str) -> FlagConfigError:
    message = f"{path}: {problem}. {fix}"
    return FlagConfigError(message, path, problem, fix)
