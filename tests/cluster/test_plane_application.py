"""The plane in an application: from its settings or a client, told by its probes, and no condition for its start."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
from fastapi import FastAPI
from isolane.fastapi import IsolaneSettings, Principal, setup
from pydantic import ValidationError
from redis.asyncio import Redis

from tests.cluster.support import left, until

SECRET = "kept-to-itself-9"


def application(settings: IsolaneSettings | None = None, **given):
    settings = settings or IsolaneSettings(signal_drain=False, drain_seconds=0.0)
    return setup(FastAPI(), settings, lambda conn: Principal(user_id="ann"), **given)


async def told(isolane) -> tuple[int, dict, dict]:
    ready, health = await isolane.ready(None), await isolane.health(None)
    assert health.status_code == 200
    return ready.status_code, json.loads(ready.body), json.loads(health.body)


async def test_without_a_redis_nothing_is_there(monkeypatch):
    monkeypatch.delenv("ISOLANE_REDIS_URL", raising=False)
    isolane = application()
    assert isolane.plane is None
    async with isolane.running():
        assert await told(isolane) == (200, {"status": "ready"}, {"status": "ok"})
        assert "cluster" not in isolane.introspect()


def test_without_a_redis_nothing_of_it_is_imported():
    code = (
        "import sys\nfrom fastapi import FastAPI\nfrom isolane.fastapi import setup\n"
        "isolane = setup(FastAPI(), authenticate=lambda connection: None)\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'redis' or name.startswith('isolane.cluster')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_the_extra_the_setting_names_it():
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from fastapi import FastAPI\nfrom isolane.fastapi import setup\n"
        "try:\n  setup(FastAPI(), authenticate=lambda connection: None, redis='redis://127.0.0.1:1/0')\n"
        "except ModuleNotFoundError as error:\n  print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("redis ")
    assert "pip install 'isolane[redis]'" in done.stdout


@pytest.mark.parametrize("way", ["variable", "url", "client"])
async def test_a_redis_of_the_settings_or_of_the_application(way, clean_redis, monkeypatch):
    monkeypatch.setenv("ISOLANE_REDIS_URL", clean_redis.url if way == "variable" else "redis://127.0.0.1:1/0")
    client = Redis(host="127.0.0.1", port=clean_redis.port)
    given = {"url": {"redis": clean_redis.url}, "client": {"redis": client}, "variable": {}}[way]
    isolane = application(**given)
    async with isolane.running():
        await until(lambda: isolane.plane.state == "up")
        assert (await told(isolane))[2] == {"status": "ok", "cluster": "up"}
        figures = isolane.introspect()["cluster"]
        assert (figures["state"], figures["processes"]) == ("up", 1)
    assert (isolane.plane.state, left()) == ("down", [])
    # Started again, as test suites do.
    async with isolane.running():
        await until(lambda: isolane.plane.state == "up")
    await client.aclose()


async def test_a_redis_that_is_down_degrades_the_worker_and_stops_nothing(fresh_redis):
    fresh_redis.kill()
    isolane = application(redis=fresh_redis.url)
    async with isolane.running():
        status, ready, health = await told(isolane)
        assert (status, ready["status"], ready["cluster"]) == (200, "degraded", "down")
        assert health == {"status": "ok", "cluster": "down"}
        fresh_redis.start()
        await until(lambda: isolane.plane.state == "up")
        fresh_redis.kill()
        await until(lambda: isolane.plane.state == "down")
        assert (await told(isolane))[1]["cluster"] == "down"


def test_many_workers_without_a_redis_are_warned_and_with_one_are_not(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    monkeypatch.setattr(sys, "argv", ["server"])
    with pytest.warns(RuntimeWarning, match="ISOLANE_REDIS_URL"):
        application()._warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        application(redis="redis://127.0.0.1:1/0")._warn()


def test_the_url_is_shown_without_its_password_everywhere(monkeypatch):
    monkeypatch.setenv("ISOLANE_REDIS_URL", f"rediss://ann:{SECRET}@redis.example:6380/1?password={SECRET}")
    monkeypatch.setenv("ISOLANE_CLUSTER_KEY", SECRET)
    settings = IsolaneSettings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.origins()["redis_url"] == "environment ISOLANE_REDIS_URL"
    done = subprocess.run([sys.executable, "-m", "isolane.cli", "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    assert "rediss://***@redis.example:6380/1 " in done.stdout
    isolane = application(settings)
    assert SECRET not in str(isolane.introspect()) + repr(isolane.plane)


@pytest.mark.parametrize("url", [f"http://ann:{SECRET}@host/0", f"ann:{SECRET}@host", SECRET])
def test_a_url_that_is_none_is_refused_without_being_shown(url, monkeypatch):
    monkeypatch.setenv("ISOLANE_REDIS_URL", url)
    with pytest.raises(ValidationError, match="ISOLANE_REDIS_URL") as refused:
        IsolaneSettings()
    assert SECRET not in str(refused.value)


def test_a_short_key_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("ISOLANE_CLUSTER_KEY", "k3y-of-mine")
    with pytest.raises(ValidationError, match="ISOLANE_CLUSTER_KEY") as refused:
        IsolaneSettings()
    assert "k3y-of-mine" not in str(refused.value)


def test_an_empty_url_is_none(monkeypatch):
    monkeypatch.setenv("ISOLANE_REDIS_URL", "")
    assert IsolaneSettings().redis_url is None
    assert application().plane is None
