"""Which users run the modern way, and how their events reach them."""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from isolane._core import FlagConfigError, FlagDecision, FlagEngine, FlagSnapshot, UserExecutionContext, install_flags
from isolane.migration.flags.modes import BridgeMode, RunModes
from isolane.migration.flags.percentages import (
    ENTERPRISE_ROLLOUT,
    HYBRID_ENABLED,
    HYBRID_FLAG,
    MODERN_FLAG,
    MODERN_PERCENTAGE,
    NAMES,
    document,
)
from isolane.migration.flags.source import FixedSource, FlagSource, FlagText, WatchedSource
from isolane.migration.flags.sources.file import FileSource
from isolane.migration.flags.sources.watcher import FlagWatcher

AttributesOf = Callable[[str], Mapping[str, str] | None]
"""Answers what rules may look at of a user, such as `{"tier": "enterprise"}`."""


class MigrationFeatureFlags:
    """The rollout of a migration: who runs the modern way, who gets events both ways.

    Args:
        source: Where the document comes from: a `FlagSource`, a document as a mapping or as JSON, or the path of a
            file. A mapping of nothing but the older design's three values is taken as `from_percentages` takes it.
            Without a source every flag is off until `load`.
        attributes_of: Asked with a user's id for what rules look at, on the event loop: a plain function that answers
            at once. By default the source's own, which `OpenFeatureSource` has. When it raises, no rule matches, and
            the decision says `GENERAL`.
        required: Whether a document that cannot be read when the object is made is an error. Otherwise every flag is
            off until one can be read.

    Later documents are tried by `refresh`, and the last good one stays in force.

    Raises:
        FlagConfigError: The first document is not valid, and required.
        TypeError: `attributes_of` is a coroutine function, or the source is of another kind.
    """

    def __init__(
        self,
        source: FlagSource | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        attributes_of: AttributesOf | None = None,
        required: bool = True,
    ) -> None:
        attributes_of = attributes_of or getattr(source, "attributes_of", None)
        if inspect.iscoroutinefunction(attributes_of):
            message = (
                "attributes_of must be a plain function: decisions do not wait. Look the attributes up when the user "
                "signs in, and answer from memory"
            )
            raise TypeError(message)
        self._engine = FlagEngine(attributes_of=attributes_of)
        self._source = _source_of(source)
        self._loaded: FlagText | None = None
        self._problem = ""
        self._reading = threading.Lock()
        if self._source is not None and required:
            self._read(self._source)
        else:
            self.refresh()

    @classmethod
    def from_percentages(
        cls, values: Mapping[str, Any], *, attributes_of: AttributesOf | None = None
    ) -> MigrationFeatureFlags:
        """A rollout by the older design's three values.

        Args:
            values: `modern_execution_rollout_percentage`, `enterprise_modern_execution_rollout` and
                `hybrid_websocket_mode_enabled`: percentages, or `True` for 100.
            attributes_of: Its `tier` says who is `enterprise`.

        Raises:
            FlagConfigError: A name is not one of the three, or a value no percentage.
        """
        return cls(document(values), attributes_of=attributes_of)

    @property
    def engine(self) -> FlagEngine:
        """What decides."""
        return self._engine

    @property
    def source(self) -> FlagSource | None:
        """Where the document comes from."""
        return self._source

    @property
    def problem(self) -> str:
        """Why the source could not be read when it was last read; empty when it could."""
        return self._problem

    @cached_property
    def watcher(self) -> FlagWatcher:
        """What follows the source while an application runs, and tells of changes."""
        return FlagWatcher(self)

    # -- decisions --------------------------------------------------------------------------------------------------

    async def should_use_modern_execution(self, user_id: str) -> bool:
        """Whether this user's next run is executed the modern way. For a run that has begun, ask `modes(context)`."""
        return self._is_modern(self._engine.snapshot(user_id))

    async def get_websocket_bridge_mode(self, user_id: str) -> BridgeMode:
        """How events of this user's next run reach the user: `legacy`, `hybrid` or `modern`."""
        return self.bridge_mode(user_id)

    def decide(self, flag: str, user_id: str | int | None, attributes: Mapping[str, str] | None = None) -> FlagDecision:
        """Whether a flag is on for a user, and why. Never raises and never waits."""
        return self._engine.decide(flag, user_id, attributes)

    def is_on(self, flag: str, user_id: str | int | None, attributes: Mapping[str, str] | None = None) -> bool:
        """Whether a flag is on for a user."""
        return self._engine.is_on(flag, user_id, attributes)

    def bridge_mode(self, user: str | UserExecutionContext) -> BridgeMode:
        """How events reach a user: by the run's own modes for a context, by the flags of now for an id."""
        return self._modes_of(user).bridge

    def modes(self, context: UserExecutionContext) -> RunModes:
        """The modes of a run: what the flags said when its context was made, whatever they say now.

        A context that was made before the engine was installed keeps the flags of the first time that it is asked.
        """
        return self._modes_of(context)

    def _modes_of(self, user: str | UserExecutionContext) -> RunModes:
        engine = self._engine
        snapshot = engine.pin(user) if isinstance(user, UserExecutionContext) else engine.snapshot(user)
        if self._is_modern(snapshot):
            return RunModes("modern", "modern", snapshot.revision)
        return RunModes("legacy", "hybrid" if self._is_hybrid(snapshot) else "legacy", snapshot.revision)

    @staticmethod
    def _is_modern(snapshot: FlagSnapshot) -> bool:
        if MODERN_FLAG in snapshot:
            return snapshot.is_on(MODERN_FLAG)
        # Of the older names, that of enterprise users counts only for those whom the document names.
        enterprise = snapshot.decide(ENTERPRISE_ROLLOUT)
        named = enterprise.step in {"rule", "allow"}
        return (named and enterprise.value) or snapshot.is_on(MODERN_PERCENTAGE)

    @staticmethod
    def _is_hybrid(snapshot: FlagSnapshot) -> bool:
        return snapshot.is_on(HYBRID_FLAG if HYBRID_FLAG in snapshot else HYBRID_ENABLED)

    # -- the document -----------------------------------------------------------------------------------------------

    def install(self) -> MigrationFeatureFlags:
        """Makes every context that is made from now on keep a snapshot of these flags. Returns itself."""
        install_flags(self._engine)
        return self

    def load(self, text: str, origin: str = "", *, force: bool = False) -> int:
        """Puts a document in force, in JSON, and returns its revision.

        Raises:
            FlagConfigError: It is not valid, or older than the one in force and not `force`d. What was in force stays.
        """
        return self._engine.load(text, origin, force=force)

    def refresh(self) -> bool:
        """Reads the source again. Returns whether another document is in force now.

        Does not raise: a document that cannot be read leaves the last one in force, whose decisions say `STALE`;
        `status()` says what is wrong.
        """
        if self._source is None:
            return False
        # A guard reads what it has written in a thread: of two that read at once the later text must win.
        with self._reading:
            before = self._loaded
            try:
                self._read(self._source)
            except (FlagConfigError, OSError, ValueError) as error:
                self._problem = str(error)
                self._engine.set_stale(True)
            return self._loaded is not before

    async def watch(self) -> None:
        """Follows the source until it is cancelled; returns at once when the source does not watch itself."""
        if isinstance(self._source, WatchedSource):
            await self._source.watch(self._on_change)

    def _on_change(self) -> None:
        self.refresh()

    def _read(self, source: FlagSource) -> None:
        found = source.read()
        if found is None:
            return
        if self._loaded is not None and found == self._loaded:
            if self._engine.revision:
                self._problem = ""
                self._engine.set_stale(False)
            return
        self._engine.load(found.text, found.origin)
        self._loaded, self._problem = found, ""

    def status(self) -> dict[str, Any]:
        """What is in force, as data for people and dashboards. Holds no user ids."""
        engine = self._engine
        flags = json.loads(engine.document())["flags"]
        latched = engine.latched()
        return {
            "revision": engine.revision,
            "origin": engine.origin,
            "is_stale": engine.is_stale,
            "problem": self._problem,
            "is_killed": engine.is_killed,
            "quarantined": engine.quarantined,
            "attribute_failures": engine.attribute_failures,
            "flags": {
                name: {
                    "state": flag.get("state", "on"),
                    "rollout_percent": flag.get("rollout", 0) / 1000,
                    "algorithm": flag.get("algorithm", "mm3-mul-v1"),
                    "stage": flag.get("stage"),
                    "rolled_back": latched.get(name),
                }
                for name, flag in flags.items()
            },
        }


def _source_of(source: object) -> FlagSource | None:
    if source is None or isinstance(source, FlagSource):
        return source
    if isinstance(source, Mapping):
        text = document(source) if source and set(source) <= set(NAMES) else json.dumps(dict(source))
        return FixedSource(FlagText(text, origin="a mapping"))
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return FixedSource(FlagText(source, origin="a text"))
    if isinstance(source, str | os.PathLike):
        return FileSource(source)
    message = f"source must be a FlagSource, a mapping, JSON or a path, got {type(source).__name__}"
    raise TypeError(message)
