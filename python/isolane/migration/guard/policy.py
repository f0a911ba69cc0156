"""What a guard accepts, and how fast it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["drain", "abort"]
"""What becomes of runs that are under way at a rollback: they finish, or they are cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPolicy:
    """How one metric is judged. What is ``None`` is as by default.

    Attributes:
        bound: the part that may be bad, from 0.000001 to 0.9. Default: ``run_error`` 0.005, ``slow_run`` 0.02,
            ``slow_event`` 0.01, ``dropped_event`` 0.0005.
        enabled: whether it is watched at all. Default: yes.
        dry_run: whether it is only told and not acted upon. Default: no.
        needs_data: whether the rollout waits for data of it. Default: yes.
        baseline: whether the bound rises to the upper 99 % bound of the legacy cohort. Default: for ``slow_run`` alone.
    """

    bound: float | None = None
    enabled: bool | None = None
    dry_run: bool | None = None
    needs_data: bool | None = None
    baseline: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the default."""
        names = ("bound", "enabled", "dry_run", "needs_data", "baseline")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPolicy:
    """What a guard accepts. Checked when a guard is made of it.

    Attributes:
        alpha: how likely each metric that holds its bound may end the rollout all the same, at each step. Default:
            0.001.
        ladder: the steps, in parts of 100 000 as rollouts have them; the last is 100 000. Default: 100, 1 000, 5 000,
            10 000, 25 000, 50 000 and 100 000, which is 0.1 to 100 %.
        min_samples: observations of each metric that a step needs before the next. Default: 500.
        min_dwell_seconds: how long a step lasts at least. Default: 600.
        slow_run_seconds: a run is slow when it takes longer, what it waited for aside. Default: 2.
        slow_event_seconds: an event is slow when it is handed to a socket later. Default: 0.1.
        metrics: by name, what differs from the default. Nothing about ``isolation_violation`` can be set.
    """

    alpha: float = 1e-3
    ladder: tuple[int, ...] = (100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000)
    min_samples: int = 500
    min_dwell_seconds: float = 600.0
    slow_run_seconds: float = 2.0
    slow_event_seconds: float = 0.1
    metrics: Mapping[str, MetricPolicy] = field(default_factory=dict)

    def to_json(self, mode: Mode = "drain") -> str:
        """Return it as the ``guard`` of a flag in a document."""
        return json.dumps(
            {
                "alpha": self.alpha,
                "ladder": list(self.ladder),
                "min_samples": self.min_samples,
                "min_dwell_seconds": self.min_dwell_seconds,
                "slow_run_seconds": self.slow_run_seconds,
                "slow_event_seconds": self.slow_event_seconds,
                "mode": mode,
                "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            }
        )
