"""Settings: values, origins, wrong values, and the warning about several workers."""

from __future__ import annotations

import os

import pytest
from fastapi import FastAPI
from isolane import cli
from isolane.fastapi import IsolaneSettings, SettingsConflictError, setup
from isolane.fastapi.workers import worker_count
from pydantic import ValidationError


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch) -> None:

    for variable in list(os.environ):
        if variable.startswith(("ISOLANE_MAX", "ISOLANE_WEBSOCKET", "WEBSOCKET_")):
            monkeypatch.delenv(variable)


def test_the_defaults_are_the_seeds() -> None:
    settings = IsolaneSettings()
    assert settings.max_engines_per_user == 2
    assert settings.engine_timeout_seconds == 300
    assert settings.cleanup_interval == 60
    assert settings.websocket_max_events_per_user == 1000
    assert (settings.permits_per_user, settings.permits_total) == (5, 50)
    assert set(settings.origins().values()) == {"default"}


def test_both_names_of_a_variable_work_and_the_origin_is_told(monkeypatch) -> None:
    monkeypatch.setenv("WEBSOCKET_MAX_EVENTS_PER_USER", "77")
    monkeypatch.setenv("ISOLANE_MAX_ENGINES_PER_USER", "3")
    settings = IsolaneSettings(drain_seconds=1)
    assert (settings.websocket_max_events_per_user, settings.max_engines_per_user) == (77, 3)
    origins = settings.origins()
    assert origins["websocket_max_events_per_user"] == "environment WEBSOCKET_MAX_EVENTS_PER_USER"
    assert origins["max_engines_per_user"] == "environment ISOLANE_MAX_ENGINES_PER_USER"
    assert origins["drain_seconds"] == "argument"
    assert origins["cleanup_interval"] == "default"


def test_one_setting_under_two_names_with_two_values_is_a_conflict(monkeypatch) -> None:
    monkeypatch.setenv("WEBSOCKET_DELIVERY_TIMEOUT", "5")
    monkeypatch.setenv("ISOLANE_WEBSOCKET_DELIVERY_TIMEOUT", "5")
    assert IsolaneSettings().websocket_delivery_timeout == 5
    monkeypatch.setenv("ISOLANE_WEBSOCKET_DELIVERY_TIMEOUT", "6")
    with pytest.raises((SettingsConflictError, ValidationError), match="set twice"):
        IsolaneSettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEBSOCKET_MAX_EVENTS_PER_USER", "many"),
        ("ISOLANE_WEBSOCKET_MAX_EVENTS_PER_USER", "few"),
        ("MAX_ENGINES_PER_USER", "0"),
        ("ISOLANE_WEBSOCKET_PATH", "ws"),
    ],
)
def test_a_wrong_value_names_variable_and_value(monkeypatch, variable, value) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        IsolaneSettings()
    assert [error["loc"] for error in caught.value.errors()] == [(variable,)]
    assert value in str(caught.value)


def test_a_misspelt_variable_is_refused_with_the_right_name(monkeypatch) -> None:
    monkeypatch.setenv("ISOLANE_MAX_ENGINE_PER_USER", "3")
    with pytest.raises(ValidationError, match="did you mean ISOLANE_MAX_ENGINES_PER_USER"):
        IsolaneSettings()


def test_config_prints_every_setting_with_its_origin(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WEBSOCKET_EVENT_TIMEOUT", "9")
    assert cli.main(["config"]) == 0
    printed = capsys.readouterr()
    lines = {line.split()[0]: line for line in printed.out.splitlines()}
    assert lines.keys() == IsolaneSettings.model_fields.keys()
    assert lines["websocket_event_timeout"].split()[1:] == ["9.0", "environment", "WEBSOCKET_EVENT_TIMEOUT"]
    assert printed.err == ""


def test_config_with_a_wrong_value_fails_and_says_which(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WEBSOCKET_EVENT_TIMEOUT", "-9")
    assert cli.main(["config"]) == 1
    assert "WEBSOCKET_EVENT_TIMEOUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "count"),
    [
        (["uvicorn", "app:app"], {}, 1),
        (["uvicorn", "app:app", "--workers", "4"], {}, 4),
        (["gunicorn", "-w", "3"], {}, 3),
        (["uvicorn", "--workers=2"], {}, 2),
        (["uvicorn"], {"WEB_CONCURRENCY": "5"}, 5),
        (["gunicorn"], {"GUNICORN_CMD_ARGS": "--bind :80 --workers 6"}, 6),
        (["uvicorn", "--workers", "many"], {}, 1),
    ],
)
def test_the_number_of_workers_is_read_from_the_server(arguments, environment, count) -> None:
    assert worker_count(arguments, environment) == count


async def test_several_workers_are_warned_of_at_start(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.application.worker_count", lambda: 4)
    isolane = setup(FastAPI(), IsolaneSettings(), lambda _: None)
    with pytest.warns(RuntimeWarning, match="4 worker processes.*route each user"):
        async with isolane.running():
            pass


async def test_progress_is_kept_for_the_event_timeout() -> None:
    isolane = setup(FastAPI(), IsolaneSettings(websocket_event_timeout=7), lambda _: None)
    assert isolane.bridge.config.progress_ttl_seconds == 7


@pytest.mark.parametrize("path", ["events", "/ws"])
def test_the_path_of_event_streams_begins_with_a_slash_and_is_no_other(path) -> None:
    with pytest.raises(ValidationError, match=r"sse_path|SSE_PATH"):
        IsolaneSettings(sse_path=path)
