"""Scenarios of flags: sources that are followed, a provider that is asked, a rollout in an application."""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from isolane import EnvironmentSource, FileSource, MigrationFeatureFlags, OpenFeatureSource, installed_flags
from isolane._core import install_flags
from isolane.fastapi.rollout import Rollout, get_flags, get_modes
from isolane.fastapi.scope import STATE_KEY, RequestScope
from isolane.openfeature import IsolaneProvider
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from tests.adversity.auth_scenarios import connection
from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

FOLDER = tempfile.mkdtemp(prefix="isolane-flags-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
PATH = Path(FOLDER) / "flags.json"
ON = {"schema": 1, "revision": 1, "flags": {"modern_execution": {"rollout": 100_000}}}


def file_source(source: type[Any] = FileSource, **options: Any) -> Any:
    PATH.write_text(json.dumps(ON), encoding="utf-8")
    # So soon that the scenario comes to an end within its turns.
    return source(**({"path": PATH} if source is FileSource else {"environ": {}, "flags_file": PATH}), **options)


@uses("FileSource.watch", "EnvironmentSource.watch", "FlagWatcher.stop")
async def files_are_followed(world: World) -> None:
    for source in (FileSource, EnvironmentSource):
        watcher = MigrationFeatureFlags(file_source(source, poll_seconds=1e-9)).watcher
        watcher.start()
        try:
            await ticks(4)
            assert watcher.engine.is_on("modern_execution", world.user)
        finally:
            await watcher.stop()
    await EnvironmentSource({}).watch(lambda: None)


@uses("OpenFeatureSource.watch")
async def a_vendor_is_followed(world: World) -> None:
    api.set_provider_and_wait(InMemoryProvider({"modern_execution": InMemoryFlag("on", {"on": True})}))
    watcher = MigrationFeatureFlags(OpenFeatureSource(api.get_client())).watcher
    watcher.start()
    try:
        await ticks(3)
        assert watcher.engine.is_on("modern_execution", world.user)
    finally:
        await watcher.stop()
        # The handlers stay as long as the task takes to end, and no longer.
        api.clear_providers()


@uses("Rollout.stop", "get_flags", "get_modes")
async def an_application_has_a_rollout(world: World) -> None:
    flags = MigrationFeatureFlags(file_source(poll_seconds=1e-9))
    world.isolane.rollout = rollout = Rollout(flags)
    rollout.start(world.isolane)
    scope = RequestScope(world.isolane)
    conn = connection(world, **{STATE_KEY: scope})
    try:
        assert (await get_flags(conn)).is_on("modern_execution")
        await ticks(2)
        assert (await get_modes(conn)).is_modern
    finally:
        try:
            await scope.close()
        finally:
            world.isolane.rollout = None
            try:
                await rollout.stop()
            finally:
                if installed_flags() is flags.engine:
                    install_flags(None)


@uses()
async def a_provider_is_asked(world: World) -> None:
    api.set_provider_and_wait(IsolaneProvider(MigrationFeatureFlags(ON)))
    client = api.get_client()
    try:
        await asyncio.sleep(0)
        assert await client.get_boolean_value_async("modern_execution", False, EvaluationContext(world.user))
        assert await client.get_string_value_async("modern_execution", "no", EvaluationContext(world.user)) == "no"
    finally:
        api.clear_providers()
