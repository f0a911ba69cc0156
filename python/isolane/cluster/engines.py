"""The limits of an application that count over all its workers: its engines' slots, and the permits of their steps."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from isolane.cluster.limits import ClusterLimits, Fail, LeaseLoss, OnLost
from isolane.engines.factory import ExecutionEngineFactory

ENGINES, PERMITS = "engines", "permits"


def share_engines(
    limits: ClusterLimits,
    factory: ExecutionEngineFactory,
    *,
    engines: bool = True,
    permits: bool = True,
    total: bool = False,
    fail: Fail = "local",
    on_lost: OnLost = "cancel",
) -> None:
    """Let limits of a factory count over all workers.

    Args:
        limits: what shares them.
        factory: makes the engines.
        engines: whether ``max_engines_per_user`` counts over all workers.
        permits: whether ``per_user`` of its limiter does.
        total: whether ``total`` of its limiter does.
        fail: what holds while the leases cannot be reached.
        on_lost: ``cancel`` ends a run that lost its place, as ``LeaseLost``; ``flag`` sets ``engine.lease_lost``.
    """
    if engines:
        limits.share(factory.slots, ENGINES, on_lost=on_lost, fail=fail, lost=_told(factory, on_lost, is_slot=True))
        factory.ask_other_workers()
    if permits or total:
        limits.share(
            factory.limiter,
            PERMITS,
            user=permits,
            total=total,
            on_lost=on_lost,
            fail=fail,
            lost=_told(factory, on_lost, is_slot=False),
        )


def _told(factory: ExecutionEngineFactory, on_lost: OnLost, *, is_slot: bool) -> Any:
    return partial(_lose, factory, is_slot=is_slot, cancel=on_lost == "cancel")


def _lose(
    factory: ExecutionEngineFactory, loss: LeaseLoss, *, is_slot: bool, cancel: bool
) -> Coroutine[Any, Any, bool]:
    return factory.lose(loss.limit, loss.user_id, loss.permit_fence, is_slot=is_slot, cancel=cancel)
