"""MigrationFeatureFlags: the older design's questions, answered by the engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import isolane
import pytest
from isolane import FlagConfigError, FlagSource, FlagText, MigrationFeatureFlags, RunModes, UserContextFactory
from isolane.migration.flags import bucket

USERS = [f"user-{number}" for number in range(400)]


def document(revision: int = 1, **flags: Any) -> str:
    return json.dumps({"schema": 1, "revision": revision, "flags": flags})


class Memory:
    """A source whose text a test replaces."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.error: Exception | None = None

    def read(self) -> FlagText | None:
        if self.error is not None:
            raise self.error
        return None if self.text is None else FlagText(self.text, origin="memory")


async def test_a_quarter_is_modern_and_stays_so_when_it_grows() -> None:
    flags = MigrationFeatureFlags.from_percentages({"modern_execution_rollout_percentage": 25})
    modern = {user for user in USERS if await flags.should_use_modern_execution(user)}
    assert modern == {user for user in USERS if bucket("mm3-mul-v1", "modern_execution", user) < 25_000}
    assert 60 < len(modern) < 140
    more = MigrationFeatureFlags.from_percentages({"modern_execution_rollout_percentage": 50})
    assert modern < {user for user in USERS if await more.should_use_modern_execution(user)}


async def test_tiers() -> None:
    def tier(user: str) -> dict[str, str]:
        return {"tier": "enterprise" if user.startswith("big") else "free"}

    values = {"modern_execution_rollout_percentage": 0, "enterprise_modern_execution_rollout": True}
    flags = MigrationFeatureFlags.from_percentages(values, attributes_of=tier)
    assert await flags.should_use_modern_execution("big-1")
    assert not await flags.should_use_modern_execution("small-1")
    few = MigrationFeatureFlags.from_percentages(
        values | {"enterprise_modern_execution_rollout": 1}, attributes_of=tier
    )
    big = [await few.should_use_modern_execution(f"big-{number}") for number in range(1_000)]
    assert 0 < sum(big) < 40, "one percent is one percent, not everybody"
    held = values | {"modern_execution_rollout_percentage": 100, "enterprise_modern_execution_rollout": False}
    everybody = MigrationFeatureFlags.from_percentages(held, attributes_of=tier)
    assert await everybody.should_use_modern_execution("big-1")


async def test_bridge_modes() -> None:
    values = {"modern_execution_rollout_percentage": 25, "hybrid_websocket_mode_enabled": True}
    flags = MigrationFeatureFlags.from_percentages(values)
    for user in USERS[:50]:
        modern = await flags.should_use_modern_execution(user)
        mode = await flags.get_websocket_bridge_mode(user)
        assert mode == ("modern" if modern else "hybrid")
        context = UserContextFactory.create_context(user)
        execution = "modern" if modern else "legacy"
        assert flags.modes(context) == RunModes(execution, mode, 1)
        assert flags.bridge_mode(context) == flags.bridge_mode(user) == mode
    assert await MigrationFeatureFlags().get_websocket_bridge_mode("ann") == "legacy"


async def test_the_older_names_are_flags_too() -> None:
    everybody, nobody = {"rollout": 100_000}, {"rollout": 0}
    enterprise = {"rollout": 100_000, "rules": [{"if": {"tier": "enterprise"}, "rollout": 100_000}]}
    flags = MigrationFeatureFlags(
        document(
            modern_execution_rollout_percentage=nobody,
            enterprise_modern_execution_rollout=enterprise,
            hybrid_websocket_mode_enabled=everybody,
        ),
        attributes_of=lambda user: {"tier": user},
    )
    assert await flags.get_websocket_bridge_mode("enterprise") == "modern"
    assert await flags.get_websocket_bridge_mode("free") == "hybrid", "its own rollout speaks of enterprise users only"
    flags.load(document(2, modern_execution=nobody, modern_execution_rollout_percentage=everybody))
    assert await flags.get_websocket_bridge_mode("free") == "legacy", "the new name counts where there are both"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"modern_execution_rollout_percentage": 101}, "/modern_execution_rollout_percentage"),
        ({"modern_execution_rollout_percentage": -1}, "/modern_execution_rollout_percentage"),
        ({"modern_execution_rollout_percentage": "25"}, "/modern_execution_rollout_percentage"),
        ({"modern_execution_rollout_percentage": float("nan")}, "/modern_execution_rollout_percentage"),
        ({"modern_execution_rollout_percentage": 0.0005}, "/modern_execution_rollout_percentage"),
        ({"hybrid_websocket_mode_enabled": None}, "/hybrid_websocket_mode_enabled"),
        ({"modern_execution": 5}, "/modern_execution"),
    ],
)
def test_what_is_no_percentage_is_refused(values: dict[str, Any], path: str) -> None:
    with pytest.raises(FlagConfigError) as refused:
        MigrationFeatureFlags.from_percentages(values)
    assert refused.value.path == path


def test_small_percentages_are_exact() -> None:
    flags = MigrationFeatureFlags.from_percentages({"modern_execution_rollout_percentage": 0.001})
    assert flags.decide("modern_execution", "ann").threshold == 1
    exact = MigrationFeatureFlags.from_percentages({"modern_execution_rollout_percentage": 16.3})
    assert exact.decide("modern_execution", "ann").threshold == 16_300


def test_sources() -> None:
    text = document(3, flag={"rollout": 100_000})
    for source in (text, json.loads(text), Memory(text)):
        flags = MigrationFeatureFlags(source)
        assert flags.engine.revision == 3
        assert flags.is_on("flag", "ann")
        assert isinstance(flags.source, FlagSource)
    assert MigrationFeatureFlags(Memory(None)).engine.revision == 0
    with pytest.raises(TypeError, match="source must be"):
        MigrationFeatureFlags(7)  # type: ignore[arg-type]
    with pytest.raises(FlagConfigError):
        MigrationFeatureFlags(Memory("{"))

    async def later(_user: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return {}

    with pytest.raises(TypeError, match="plain function"):
        MigrationFeatureFlags(attributes_of=later)  # type: ignore[arg-type]


def test_a_source_that_fails_leaves_the_last_good_document() -> None:
    source = Memory(document(1, flag={"rollout": 100_000}))
    flags = MigrationFeatureFlags(source)
    assert not flags.refresh(), "nothing has changed"
    source.text = document(2, flag={"rollout": "all"})
    assert not flags.refresh()
    status = flags.status()
    assert (status["revision"], status["is_stale"]) == (1, True)
    assert "/flags/flag/rollout" in status["problem"]
    assert flags.decide("flag", "ann").reason == "STALE"
    source.text = document(1, flag={"rollout": 100_000})
    assert not flags.refresh(), "the same as before"
    assert (flags.status()["is_stale"], flags.status()["problem"]) == (False, "")
    source.error = OSError("gone")
    assert not flags.refresh()
    assert (flags.status()["problem"], flags.status()["is_stale"]) == ("gone", True)
    assert flags.is_on("flag", "ann")
    source.error, source.text = None, document(2, flag={"rollout": 0})
    assert flags.refresh()
    assert (flags.is_on("flag", "ann"), flags.engine.origin) == (False, "memory")
    assert not MigrationFeatureFlags().refresh()


async def test_watching_ends_where_there_is_nothing_to_watch() -> None:
    await MigrationFeatureFlags(document(1)).watch()
    await MigrationFeatureFlags().watch()

    class Watched(Memory):
        async def watch(self, on_change: Any) -> None:
            self.text = document(2)
            on_change()
            await asyncio.Event().wait()

    flags = MigrationFeatureFlags(Watched(document(1)))
    watching = asyncio.create_task(flags.watch())
    await asyncio.sleep(0)
    assert flags.engine.revision == 2
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


def test_status_names_no_user() -> None:
    flags = MigrationFeatureFlags(document(1, flag={"rollout": 2_500, "allow": ["ann-of-the-list"], "stage": "shadow"}))
    flags.engine.quarantine("ben-of-the-list")
    flags.engine.latch("flag", '{"metric": "run_error"}')
    status = flags.status()
    assert status["flags"]["flag"] == {
        "state": "on",
        "rollout_percent": 2.5,
        "algorithm": "mm3-mul-v1",
        "stage": "shadow",
        "rolled_back": '{"metric": "run_error"}',
    }
    assert "of-the-list" not in json.dumps(status)


def test_names_are_imported_when_they_are_asked_for() -> None:
    assert isolane.MigrationFeatureFlags is MigrationFeatureFlags
    assert set(isolane.__all__) <= set(dir(isolane))
    with pytest.raises(AttributeError, match="no attribute 'MigrationFeatureFlag'"):
        _ = isolane.MigrationFeatureFlag
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = isolane.migration.Nothing
