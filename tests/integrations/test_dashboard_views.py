"""What the dashboard says of users and runs, and that it names nobody, on a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time

import httpx
import pytest
from isolane import UserExecutionContext
from isolane._core import user_pseudonym
from isolane.observability.alerts import AlertManager
from isolane.observability.dashboard.parts import to_json
from isolane.observability.dashboard.views import shown_id
from isolane.security.contamination import ContaminationDetector
from isolane.security.quarantine import Quarantine

from tests.support.dashboard_service import ANN, BOB, OPERATOR, READER, SECRET, bearer, make_app
from tests.support.metric_names import reserve
from tests.support.server import serving

reserve("dash_look", "dash_break", "dash_tool")

VIEWS = (
    *("snapshot.json", "users.json", "runs.json", "rollout.json", "isolation.json", "audit.json", "alerts.json"),
    *("session.json", "users.json?q=ann", "runs.json?q=ann", "runs.json?state=all&limit=10000"),
)


@pytest.fixture(scope="module")
def app():
    return make_app(contamination=ContaminationDetector(quarantine=Quarantine()))


@pytest.fixture(scope="module")
def client(app):
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}/dashboard/", timeout=60) as client:
        yield client


def look(client: httpx.Client, path: str, name: str = READER):
    answer = client.get(path, headers=bearer(name))
    assert answer.status_code == 200, answer.text
    return answer.json()


def run(client: httpx.Client, name: str, agent: str = "dash_look", thread: str | None = None, **request) -> str:
    headers = bearer(name) | ({"X-Thread-ID": thread} if thread else {})
    return client.post(f"../run/{agent}", json=request, headers=headers).json()["run_id"]


def line_of(client: httpx.Client, name: str) -> dict:
    wanted = user_pseudonym(name)
    return next(user for user in look(client, f"users.json?q={wanted}")["users"] if user["user"] == wanted)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_user_is_shown_with_what_is_held_for_them(client) -> None:
    done = threading.Thread(target=run, args=(client, BOB), kwargs={"pause": 1.5})
    done.start()
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        users = look(client, f"users.json?q={user_pseudonym(BOB)}")["users"]
        if users and users[0]["longest_step"] and users[0]["permits"]:
            break
        time.sleep(0.02)
    (bob,) = users
    assert (bob["name"], bob["engines"], bob["permits"], bob["runs_active"], bob["waiting"]) == (None, 1, 1, 1, 0)
    assert bob["longest_step"]["agent"] == "dash_look"
    assert 0 < bob["longest_step"]["seconds"] < 60
    assert bob["bytes"] >= bob["event_bytes"] > 0
    seen = set()
    while done.is_alive():
        overview = look(client, "snapshot.json")
        # Runs are of the process, in which other tests may have left some.
        seen.add((overview["runs"]["active"] > 0, overview["engines"], overview["permits"]["active"]))
        time.sleep(0.1)
    assert (True, 1, 1) in seen
    done.join()
    bob = line_of(client, BOB)
    assert (bob["engines"], bob["permits"], bob["runs_active"], bob["longest_step"]) == (0, 0, 0, None)


def test_a_run_is_shown_as_a_tree_with_its_timings(client) -> None:
    run_id = run(client, ANN, pause=0.05)
    shown = look(client, f"runs/{run_id}.json")
    assert (shown["state"], shown["agent"], shown["user"]) == ("completed", "dash_look", user_pseudonym(ANN))
    agent, tool = shown["tree"]
    assert (agent["kind"], agent["parent"], agent["state"], agent["events"]) == ("agent", None, "completed", 5)
    assert (tool["kind"], tool["parent"], tool["name"], tool["events"]) == ("tool", agent["span"], "dash_tool", 2)
    # uvloop counts in milliseconds.
    assert 0.045 <= agent["seconds"] <= shown["seconds"]
    assert agent["start"] <= tool["start"] <= agent["start"] + agent["seconds"]
    listed = look(client, f"runs.json?q={run_id}")
    assert (listed["total"], listed["runs"][0]["run"], listed["runs"][0]["events"]) == (1, run_id, 5)


def permits_of(client: httpx.Client, name: str) -> list[dict]:
    runs = look(client, f"runs.json?state=active&user={user_pseudonym(name)}")["runs"]
    trees = [look(client, f"runs/{each['run']}.json")["tree"] for each in runs]
    return [step for tree in trees for step in tree if step["kind"] == "permit"]


def test_a_run_shows_the_permit_that_it_waits_for_and_the_one_that_it_holds(app, client) -> None:
    slots = [app.state.isolane.limiter.slot_nowait(BOB) for _ in range(50)]
    # The user is named in the id of the run, which is shown without.
    thread = f"thread-of-{ANN}-9"
    waiting = threading.Thread(target=run, args=(client, ANN), kwargs={"pause": 0.5, "thread": thread})
    began = time.monotonic()
    waiting.start()
    seen = []
    try:
        while not seen and time.monotonic() < began + 2:
            seen = permits_of(client, ANN)
        (permit,) = seen
        assert (permit["state"], permit["parent"]) == ("waiting", None)
        assert 0 <= permit["seconds"] <= time.monotonic() - began
    finally:
        for slot in slots:
            slot.release()
    while waiting.is_alive() and not any(permit["state"] == "running" for permit in seen):
        seen = permits_of(client, ANN)
    assert [permit["state"] for permit in seen] == ["running"]
    waiting.join()


def test_a_run_that_failed_says_the_class_of_its_error_and_nothing_of_its_text(client) -> None:
    before = look(client, "snapshot.json")["runs"]["failed"]
    run_id = run(client, ANN, "dash_break")
    answer = client.get(f"runs/{run_id}.json", headers=bearer(READER))
    assert SECRET not in answer.text
    (step,) = answer.json()["tree"]
    assert (step["state"], step["error"]) == ("failed", "ValueError")
    assert answer.json()["state"] == "failed"
    # The overview is made once a second.
    limit = time.monotonic() + 3
    while look(client, "snapshot.json")["runs"]["failed"] != before + 1:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert line_of(client, ANN)["errors"] >= 1


def test_lists_are_filtered_ordered_and_cut(client) -> None:
    for _ in range(3):
        run(client, ANN)
    run(client, BOB)
    ann = user_pseudonym(ANN)
    only = look(client, f"runs.json?user={ann}&state=ended&limit=2")
    assert only["total"] >= 3
    assert len(only["runs"]) == 2
    assert {each["user"] for each in only["runs"]} == {ann}
    latest = [each["started_at"] for each in look(client, "runs.json?state=ended&limit=50")["runs"]]
    assert latest == sorted(latest, reverse=True)
    assert look(client, f"runs.json?state=active&user={ann}")["total"] == 0
    found = look(client, f"users.json?q={ann[:10]}")
    assert [user["user"] for user in found["users"]] == [ann]
    by_bytes = [user["bytes"] for user in look(client, "users.json?sort=bytes")["users"]]
    assert by_bytes == sorted(by_bytes, reverse=True)
    # Those with runs under way come first.
    by_runs = [(user["runs_active"], user["runs_total"]) for user in look(client, "users.json?sort=runs")["users"]]
    assert by_runs == sorted(by_runs, reverse=True)


@pytest.mark.parametrize(
    "path", ["users.json?sort=name", "users.json?limit=0", "users.json?limit=x", "runs.json?state=x"]
)
def test_what_cannot_be_asked_for_is_refused_with_a_reason(client, path) -> None:
    answer = client.get(path, headers=bearer(READER))
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("run_id", ["run-of-nobody", "../users", "%00", "a/b"])
def test_a_run_that_is_not_there_is_not_found(client, run_id) -> None:
    assert client.get(f"runs/{run_id}.json", headers=bearer(READER)).status_code in {200, 404}
    assert client.get("runs/run-of-nobody.json", headers=bearer(READER)).status_code == 404


def test_a_user_in_quarantine_is_shown_as_such(app, client) -> None:
    run(client, BOB)
    quarantine = app.state.isolane.contamination.quarantine
    quarantine.quarantine(BOB, "a test")
    try:
        assert line_of(client, BOB)["quarantined"] is True
        assert look(client, "isolation.json")["quarantined"] == 1
    finally:
        quarantine.release(BOB, by="a test", reason="it is over")
    assert line_of(client, BOB)["quarantined"] is False


def test_who_waits_for_a_permit_is_shown_as_throttled(app, client) -> None:
    limiter = app.state.isolane.limiter
    slots = [limiter.slot_nowait(BOB) for _ in range(50)]
    waiting = threading.Thread(target=run, args=(client, BOB))
    waiting.start()
    try:
        limit = time.monotonic() + 2
        while not (bob := line_of(client, BOB))["throttled"] and time.monotonic() < limit:
            time.sleep(0.02)
        assert (bob["throttled"], bob["waiting"], bob["permits"]) == (True, 1, 50)
    finally:
        for slot in slots:
            slot.release()
        waiting.join()
    assert line_of(client, BOB)["throttled"] is False


def test_the_overview_has_all_that_the_page_reads(client) -> None:
    overview = look(client, "snapshot.json")
    assert overview["schema"] == 1
    assert overview["violations"] | {"last_at": None} == overview["violations"] | {"last_at": None}
    assert set(overview) == {
        *("permissions", "schema", "at", "process", "violations", "refused_attempts", "users", "contexts", "runs"),
        *("engines", "permits", "sockets", "events", "latency", "errors_per_minute", "memory_bytes", "loop", "alerts"),
        *("health", "series"),
    }
    assert set(overview["series"]) == {"t", "events_per_second", "runs_active", "event_p99", "lag", "waiting"}
    assert len({len(values) for values in overview["series"].values()}) == 1
    assert set(overview["latency"]) == {"event_p50", "event_p99", "run_p50", "run_p95"}


def test_an_alert_that_goes_on_is_shown_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr("isolane.observability.dashboard.stream.EVERY_SECONDS", 0.0)
    manager = AlertManager([])
    app = make_app(alerts=manager)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}/dashboard/") as client:
        assert look(client, "alerts.json") == {"configured": True, "alerts": [], "history": []}
        manager.raise_alert("dash_alert", severity="high", summary="too much of it", value=3.0, threshold=2.0)
        (alert,) = look(client, "alerts.json")["alerts"]
        assert (alert["rule"], alert["severity"], alert["state"]) == ("dash_alert", "high", "firing")
        assert (alert["value"], alert["threshold"], alert["summary"]) == (3.0, 2.0, "too much of it")
        assert {"unit", "since", "action"} <= set(alert)
        (again,) = look(client, "snapshot.json")["alerts"]
        assert again | {"at": ""} == alert | {"at": ""}


def test_history_is_there_from_the_start_of_the_application_and_bounded(monkeypatch) -> None:
    monkeypatch.setattr("isolane.observability.dashboard.history.KEPT", 2)
    with serving(make_app()) as port:
        # Nobody has looked so far.
        time.sleep(3.3)
        shown = httpx.get(f"http://127.0.0.1:{port}/dashboard/snapshot.json", headers=bearer(READER)).json()["series"]
    assert len(shown["t"]) == 2
    assert 0.9 < shown["t"][1] - shown["t"][0] < 10
    assert time.time() - shown["t"][1] < 10


# -- nobody is named ---------------------------------------------------------------------------------------------------


def everything(client: httpx.Client, name: str) -> str:
    texts = [client.get(path, headers=bearer(name)).text for path in VIEWS]
    runs = look(client, "runs.json?limit=200", name)["runs"]
    texts += [client.get(f"runs/{each['run']}.json", headers=bearer(name)).text for each in runs]
    with client.stream("GET", "stream", headers=bearer(name)) as stream:
        texts.append(next(line for line in stream.iter_lines() if line.startswith("data:")))
    return "\n".join(texts)


def test_no_answer_names_a_user_until_one_is_revealed_to_who_asked(app, client) -> None:
    # The application puts the user into ids of its own.
    named = f"thread-of-{ANN}-7"
    run_id = run(client, ANN, thread=named)
    assert ANN in run_id
    run(client, ANN, "dash_break", thread=named)
    for name in (READER, OPERATOR):
        seen = everything(client, name)
        assert ANN not in seen
        assert BOB not in seen
        assert SECRET not in seen
        assert f"thread-of-{user_pseudonym(ANN)}-7" in seen
    ann = user_pseudonym(ANN)
    headers = bearer(OPERATOR) | {"X-Isolane-CSRF": look(client, "session.json", OPERATOR)["permissions"]["csrf"]}
    answer = client.post("actions/reveal", json={"user": ann, "reason": "INC-7"}, headers=headers)
    assert answer.json() == {"user": ann, "name": ANN}
    # The control: it would have been found.
    assert ANN in everything(client, OPERATOR)
    assert line_of(client, ANN)["name"] is None
    assert ANN not in everything(client, READER)
    (shown,) = look(client, f"users.json?q={ann}", OPERATOR)["users"]
    assert shown["name"] == ANN
    assert [user["user"] for user in look(client, f"users.json?q={ANN[:8]}", OPERATOR)["users"]] == [ann]
    (event,) = app.state.records.named("dashboard_reveal")
    assert (event.user_id, event.data["by"], event.data["why"]) == (ANN, OPERATOR, "INC-7")


@pytest.mark.parametrize("user", ["0" * 12, ANN, "", "x" * 100])
def test_nobody_is_revealed_by_a_guess(client, user) -> None:
    headers = bearer(OPERATOR) | {"X-Isolane-CSRF": look(client, "session.json", OPERATOR)["permissions"]["csrf"]}
    answer = client.post("actions/reveal", json={"user": user}, headers=headers)
    assert answer.status_code in {404, 422}


def test_a_figure_that_is_none_does_not_take_the_page_with_it() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"no browser reads {name}")

    held = {"value": float("inf"), "series": [float("nan"), 1.5], "told": {"least": -float("inf")}, "many": (1, 2)}
    read = json.loads(to_json(held), parse_constant=refuse)
    assert read == {"value": None, "series": [None, 1.5], "told": {"least": None}, "many": [1, 2]}


@pytest.mark.parametrize(
    ("user", "run_id", "shown"),
    [
        ("7", "run-7-17-71", "run-{}-17-71"),
        ("7", "7", "{}"),
        ("7", "é7_7", "é7_{}"),
        ("ab", "run-cab", "run-cab"),
        ("éé", "runéé1", "run{}1"),
        ("ann-01", "runofann-012", "runof{}2"),
        ("ann-01", "run-7", "run-7"),
    ],
)
def test_a_run_is_found_by_the_id_that_the_core_shows(user, run_id, shown) -> None:
    context = UserExecutionContext(user, "thread", run_id)
    assert shown_id(context) == shown.format(user_pseudonym(user))


def test_a_search_finds_nothing_that_is_not_shown(client) -> None:
    run(client, ANN, thread=f"thread-of-{ANN}-8")
    assert look(client, f"runs.json?q={ANN}")["total"] == 0
    assert look(client, f"users.json?q={ANN}")["total"] == 0
    assert look(client, "runs.json?q=thread-of-")["total"] >= 1


# -- many --------------------------------------------------------------------------------------------------------------


async def fill(factory, users: int, runs: int) -> None:
    for user in range(users):
        for number in range(runs):
            context = UserExecutionContext(f"crowd-{user:05}", f"thread-{number}", f"crowd-run-{user:05}-{number}")
            async with factory.user_execution_scope(context) as engine:
                await engine.execute_agent_pipeline(["dash_look"], {})


def test_a_thousand_users_with_ten_thousand_runs_are_shown_at_once(capsys) -> None:
    app = make_app()
    users, runs = 1_000, 10
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}/dashboard/", timeout=60) as client:
        asyncio.run(fill(app.state.isolane.factory, users, runs))
        gc.collect()
        lines = []
        for path in (
            *("snapshot.json", "users.json?limit=100", "users.json?sort=longest&limit=1000", "users.json?q=zz"),
            *("runs.json", "runs.json?limit=10000", "runs.json?q=crowd-run-00999", "runs/crowd-run-00500-5.json"),
        ):
            took = []
            for _ in range(5):
                began = time.perf_counter()
                answer = client.get(path, headers=bearer(READER))
                took.append((time.perf_counter() - began) * 1e3)
            assert answer.status_code == 200, path
            lines.append(f"{path:44} {sorted(took)[2]:7.1f} ms {len(answer.content) / 1e3:9.1f} kB")
        counted = look(client, "runs.json?limit=10000&q=crowd-run-")
        assert counted["total"] == len(counted["runs"]) == users * runs
        most = look(client, "users.json?limit=1000&sort=runs")["users"]
        at_rest = [user["runs_total"] for user in most if not user["runs_active"]]
        assert at_rest[0] >= runs
        assert at_rest == sorted(at_rest, reverse=True)
        assert look(client, "runs.json?q=crowd-run-00999")["total"] == runs
    with capsys.disabled():
        print(f"\n{users} users, {users * runs} runs, whole request with httpx, median of 5:")
        print("\n".join(lines))
    # Nothing of it stays for the tests that come after.
    assert json.dumps(lines)
