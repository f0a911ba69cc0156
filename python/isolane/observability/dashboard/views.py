"""What the dashboard shows, as JSON-like values. No user's id, payload or text is in any of it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from isolane._core import (
    UserExecutionContext,
    __version__,
    isolation_violations,
    lane_stats,
    loop_account,
    run_counts,
    run_view,
    runs_view,
    user_pseudonym,
    users_view,
)
from isolane.fastapi.application import Isolane
from isolane.observability.dashboard.history import History
from isolane.observability.dashboard.parts import (
    changes_of,
    crossings,
    flag_view,
    gauge,
    iso,
    positive_controls,
    refused_attempts,
    violations,
    writer_of,
)
from isolane.security.findings import BOUNDARIES

SCHEMA = 1
LEAST_ID = 3
"""In bytes. A shorter id of a user is looked for in other ids only where it stands alone, as the core does."""
SHOWN_ALERTS = 20
STARTED = datetime.now(UTC)


def shown_id(context: UserExecutionContext) -> str:
    """Return the id of a context's run as it is shown: without the id of the user."""
    user = context.user_id
    run_id: str = context.run_id
    if user not in run_id:
        return run_id
    if len(user.encode()) >= LEAST_ID:
        return run_id.replace(user, user_pseudonym(user))
    alone = rf"(?<![^\W_]){re.escape(user)}(?![^\W_])"
    return re.sub(alone, user_pseudonym(user), run_id)


class Views:
    """Everything that is shown of one application.

    Args:
        isolane: the application's.
        history: its last minutes.
    """

    def __init__(self, isolane: Isolane, history: History) -> None:
        self.isolane = isolane
        self.history = history
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._verified: dict[str, Any] | None = None

    # -- overview ----------------------------------------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """What is shown at first, without who may do what."""
        isolane, history = self.isolane, self.history
        lanes, limiter, runs = lane_stats(), isolane.limiter.stats(), run_counts()
        alerts = self.alerts()["alerts"]
        failed = runs["failed"] + runs["partial"] + runs["lost"]
        return {
            "schema": SCHEMA,
            "at": datetime.now(UTC).isoformat(),
            "process": {
                "pid": os.getpid(),
                "started_at": STARTED.isoformat(),
                "version": __version__,
                "instance": self.worker,
            },
            "violations": violations(),
            "refused_attempts": refused_attempts(),
            "users": max(0, lanes["lanes"] - lanes["idle"]),
            "contexts": gauge("isolane_contexts_active") or 0,
            "runs": {
                "active": runs["running"],
                "completed": runs["completed"],
                "failed": failed,
                "cancelled": runs["cancelled"],
            },
            "engines": isolane.factory.get_factory_metrics()["engines_active"],
            "permits": {"active": limiter["running"], "limit": limiter["total"], "waiting": limiter["queued"]},
            "sockets": len(isolane.deliveries),
            "events": {
                "published": lanes["events_published"],
                "sent": lanes["events_sent"],
                "dropped": lanes["events_failed"] + lanes["events_shed"] + lanes["events_forgotten"],
                "per_second": history.events_per_second,
            },
            "latency": {name: history.pace.get(name) for name in ("event_p50", "event_p99", "run_p50", "run_p95")},
            "errors_per_minute": history.errors_per_minute,
            "memory_bytes": lanes["bytes"],
            "loop": {"lag_seconds": isolane.lag.recent, "blocks": loop_account()["blocks"]},
            "alerts": alerts,
            "health": self._health(),
            "series": history.series(),
        }

    def _health(self) -> dict[str, Any]:
        isolane = self.isolane
        failed: list[str] = []
        reasons: list[str] = []
        if violations()["total"]:
            failed.append("data of one user was found where another's is; see Isolation")
        if isolane.draining:
            reasons.append("the service is shutting down and starts no more runs")
        status = isolane.bridge.health.status
        if status is not None:
            reasons += status.reasons
        audit = getattr(isolane.audit, "health", None)
        if audit is not None:
            state = str(getattr(audit(), "status", "ok"))
            if state != "ok":
                reasons.append(f"the audit log is {state}")
        if isolane.rollout is not None and isolane.rollout.flags.watcher.is_stale:
            reasons.append("the flags could not be read; the former ones stay in force")
        word = "failed" if failed else "degraded" if reasons else "ok"
        return {"status": word, "reasons": failed + reasons}

    # -- users and runs ----------------------------------------------------------------------------------------------

    def users(self, sort: str, limit: int, text: str, names: Mapping[str, str]) -> str:
        """Return users as JSON, those with the most first.

        Raises:
            ValueError: they cannot be sorted by this.
        """
        isolane = self.isolane
        quarantine = getattr(isolane.contamination, "quarantine", None)
        limits = getattr(isolane.memory, "limits", None)
        return users_view(
            sort,
            limit,
            text,
            engines=[isolane.factory._book],  # noqa: SLF001 - its counts by user are for nobody else
            limiters=[isolane.limiter],
            throttle_bytes=getattr(limits, "cleanup_bytes", None),
            quarantined={user_pseudonym(user) for user in quarantine.users()} if quarantine is not None else set(),
            names=dict(names),
        )

    def runs(self, state: str, user: str, limit: int, text: str) -> str:
        """Return runs as JSON, those that go on in front.

        Raises:
            ValueError: there is no such state.
        """
        return runs_view(state, user, limit, text, self.worker)

    def run(self, run_id: str) -> str | None:
        """Return one run as JSON, or ``None``."""
        engines = self.isolane.factory._engines.values()  # noqa: SLF001 - the same
        contexts = (engine.context for engine in engines)
        root = next((context._lineage[0] for context in contexts if shown_id(context) == run_id), None)  # noqa: SLF001
        return run_view(run_id, self.worker, [self.isolane.limiter], root)

    # -- rollout -----------------------------------------------------------------------------------------------------

    def rollout(self) -> dict[str, Any]:
        """What the flags of the application say, who changed them, and how its guard stands."""
        rollout = self.isolane.rollout
        if rollout is None:
            return {"configured": False, "revision": 0, "stale": False, "flags": [], "changes": []}
        engine = rollout.flags.engine
        figures = rollout.flags.watcher.figures()
        document = json.loads(engine.document())
        latched = engine.latched()
        names = {*document.get("flags", {}), *latched}
        guard = rollout.guard
        return {
            "configured": True,
            "revision": figures["revision"],
            "stale": figures["stale"],
            "problem": figures["problem"],
            "changed_at": iso(figures["changed_at"]),
            "killed": engine.is_killed,
            "quarantined": engine.quarantined,
            "persisted": writer_of(self.isolane) is not None,
            "flags": [
                flag_view(name, document.get("flags", {}).get(name, {}), latched.get(name), guard)
                for name in sorted(names)
            ],
            "changes": changes_of(document),
        }

    # -- isolation ---------------------------------------------------------------------------------------------------

    def isolation(self) -> dict[str, Any]:
        """Each boundary with what it checked and found, and the proof that it would find something."""
        isolane = self.isolane
        detector = isolane.contamination
        boundaries: dict[str, dict[str, Any]] = {}

        def line(name: str) -> dict[str, Any]:
            return boundaries.setdefault(
                name, {"boundary": name, "checks": 0, "violations": 0, "refused": 0, "mode": None}
            )

        for name, found in crossings().items():
            line(name).update(checks=found.checks, violations=found.violated, refused=found.refused)
        for name, many in isolation_violations().items():
            held = line(name)
            held["violations"] = max(held["violations"], many)
        answer: dict[str, Any] = {
            "violations": violations(),
            "refused_attempts": refused_attempts(),
            "positive_controls": positive_controls(),
            "detector": None,
            "last_sweep": None,
            "quarantined": 0,
        }
        if detector is not None:
            figures = detector.figures()
            for name, seen in figures["boundaries"].items():
                held = line(name)
                held["checks"] = max(held["checks"], seen["deliveries"])
                held |= {"bytes": seen["bytes"], "own": seen["own"], "foreign": seen["foreign"]}
            for name in BOUNDARIES:
                line(name)["mode"] = detector.mode(name).value
            answer["detector"] = {
                name: figures[name]
                for name in (
                    *("violations", "withheld", "granted", "errors", "hook_errors", "deliveries", "secrets"),
                    "leak_probability_upper_bound",
                )
            }
            if detector.quarantine is not None:
                answer["quarantined"] = len(detector.quarantine.users())
        probe = isolane.probe
        if probe is not None and probe.last is not None:
            last = probe.last
            answer["last_sweep"] = {
                "verdict": last.verdict,
                "users": last.users,
                "own": last.own,
                "foreign": last.foreign,
                "controls": last.controls,
                "seconds": last.seconds,
                "error": last.error,
                "rounds": probe.rounds,
                "inconclusive": probe.inconclusive,
                "interval_seconds": probe.interval,
            }
        answer["boundaries"] = sorted(boundaries.values(), key=lambda held: (-held["violations"], held["boundary"]))
        return answer

    # -- audit -------------------------------------------------------------------------------------------------------

    def audit(self) -> dict[str, Any]:
        """How the audit log is."""
        audit = self.isolane.audit
        health = getattr(audit, "health", None)
        answer: dict[str, Any] = {
            "configured": audit is not None,
            "can_verify": callable(getattr(getattr(audit, "storage", None), "verify", None)),
            "status": None,
            "size": None,
            "checkpoint": None,
            "lost": {},
            "last_verify": self._verified,
        }
        if health is None:
            return answer
        held = health()
        for name in ("status", "reason", "queued", "spilled", "written", "unkeyed", "chain"):
            answer[name] = getattr(held, name, None)
        answer["lost"] = {str(name): many for name, many in dict(getattr(held, "lost", {})).items()}
        answer["size"] = answer["written"]
        answer["checkpoint"] = gauge("isolane_audit_checkpoint_size")
        return answer

    def note_verified(self, result: dict[str, Any]) -> None:
        """Keep what the last verification found."""
        self._verified = result

    # -- alerts ------------------------------------------------------------------------------------------------------

    def alerts(self) -> dict[str, Any]:
        """The alerts that go on, and the latest that there were."""
        manager = getattr(self.isolane, "alerts", None)
        if manager is None:
            return {"configured": False, "alerts": [], "history": []}
        return {
            "configured": True,
            "alerts": [alert.to_dict() for alert in manager.active],
            "history": [alert.to_dict() for alert in list(manager.history)[-SHOWN_ALERTS:][::-1]],
        }
