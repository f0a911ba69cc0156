"""The rollout of a migration in an application: its flags, kept up to date, and the guard that watches over them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from isolane._core import FlagSnapshot, install_flags, installed_flags
from isolane.events.ticker import Ticker
from isolane.fastapi.dependencies import get_context
from isolane.fastapi.scope import request_scope
from isolane.fastapi.settings import IsolaneSettings
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.flags import RunModes as Modes
from isolane.migration.flags.sources import EnvironmentSource, FlagNews, NewsKind
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane
    from isolane.migration.guard import RolloutGuard

logger = logging.getLogger("isolane.fastapi")

GUARD_SECONDS = 1.0
"""How often the guard may take a step of its ladder."""

NO_ROLLOUT = (
    "no flags are set up: give setup(rollout=MigrationFeatureFlags(...)), or name a file in ISOLANE_FLAGS_FILE, and "
    "start the application"
)


class Rollout:
    """The flags of an application from its start to its end; ``app.state.isolane.rollout``.

    Attributes:
        flags: what decides.
        guard: what rolls back, or ``None``.
    """

    def __init__(
        self, flags: MigrationFeatureFlags, guard: RolloutGuard | None = None, audit: AuditSink | None = None
    ) -> None:
        self.flags = flags
        self.guard = guard
        self._audit = audit
        self._ticker = Ticker(GUARD_SECONDS, lambda _: guard.tick() if guard is not None else None)
        self._before: Any = None
        self._listens: Any = None

    def start(self, isolane: Isolane) -> None:
        """Load the flags, watch their source, and have each context from now on keep its decisions."""
        self._listens = self.flags.watcher.add_listener(self._told)
        self.flags.watcher.start()
        self._before = installed_flags()
        install_flags(self.flags.engine)
        if self.guard is not None:
            self.guard.attach(isolane)
            self._ticker.start()

    def refuse_without_plane(self) -> None:
        """Refuse flags that are to lie on a plane, where there is none.

        Raises:
            TypeError: they are.
        """
        if callable(getattr(self.flags.source, "bind", None)):
            raise TypeError(
                "the flags are to be shared on Redis, and no Redis is known: set ISOLANE_REDIS_URL, or give "
                "setup(redis=...)"
            )

    async def stop(self) -> None:
        """Watch no more. Contexts that were made keep their decisions."""
        self._ticker.stop()
        if self.guard is not None:
            self.guard.detach()
        if self._listens is not None:
            self._listens()
            self._listens = None
        await self.flags.watcher.stop()
        # Another application of this process may have installed its own since.
        if installed_flags() is self.flags.engine:
            install_flags(self._before)
        self._before = None

    def figures(self) -> dict[str, Any]:
        """Return revision, whether it is stale and why, and what is rolled back."""
        engine = self.flags.engine
        return {**self.flags.watcher.figures(), "flags": engine.flags(), "rolled_back": sorted(engine.latched())}

    def _told(self, news: FlagNews) -> None:
        if self._audit is None or news.kind is NewsKind.FRESH:
            return
        changed = news.kind is NewsKind.CHANGED
        event = SecurityEvent(
            name="rollout_changed" if changed else "rollout_stale",
            audit_class=AuditClass.ADMIN,
            severity=Severity.INFO if changed else Severity.WARNING,
            data={"revision": news.revision, "flags": list(news.flags), "message": news.message},
        )
        try:
            self._audit.record(event)
        except AuditUnavailableError:
            # A roll-back does not wait for a disk.
            logger.exception("a change of the flags is in force and not in the audit log")


def rollout_of(
    settings: IsolaneSettings,
    flags: MigrationFeatureFlags | None,
    guard: RolloutGuard | None,
    audit: AuditSink | None,
) -> Rollout | None:
    """Return what ``setup`` was given, or what the environment names, or ``None``.

    Raises:
        TypeError: there is a guard and nothing for it to guard.
        ValueError: the guard was made with other flags.
    """
    if flags is None and settings.flags_shared:
        from isolane.cluster.flags import SharedFlagSource  # noqa: PLC0415 - nobody else pays for it

        flags = MigrationFeatureFlags(SharedFlagSource(settings.flags_file), required=False)
    if flags is None and (settings.flags_file or EnvironmentSource.is_configured()):
        # A file that is broken when a process is started again must not keep it from starting: nobody has a flag then.
        flags = MigrationFeatureFlags(EnvironmentSource(flags_file=settings.flags_file), required=False)
    if flags is not None:
        if getattr(guard, "engine", flags.engine) is not flags.engine:
            raise ValueError(
                "guard= was made with other flags than the application decides by, so that its roll-backs would take a "
                "flag from nobody: make it with those of rollout=, as in RolloutGuard(flags) and setup(rollout=flags, "
                "guard=guard)"
            )
        return Rollout(flags, guard, audit)
    if guard is not None:
        raise TypeError("guard= needs the flags that it rolls back: pass rollout=MigrationFeatureFlags(...) as well")
    return None


async def get_flags(conn: HTTPConnection) -> FlagSnapshot:
    """The decisions of the request's run: made when they are first asked for, and the same until its end."""
    snapshot: FlagSnapshot | None = (await get_context(conn)).flags
    if snapshot is None:
        raise RuntimeError(NO_ROLLOUT)
    return snapshot


async def get_modes(conn: HTTPConnection) -> Modes:
    """What the decisions of the request's run say of execution and delivery."""
    context = await get_context(conn)
    rollout = request_scope(conn).isolane.rollout
    if rollout is None:
        raise RuntimeError(NO_ROLLOUT)
    return rollout.flags.modes(context)


Flags = Annotated[FlagSnapshot, Depends(get_flags)]
RunModes = Annotated[Modes, Depends(get_modes)]
