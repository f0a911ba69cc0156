"""The suite against a real service: it has nothing to say of one without faults, and names each fault it is given."""

from __future__ import annotations

import asyncio
import dataclasses
import re

import httpx
import pytest
from isolane.acceptance import TESTS, Verdict, as_json, as_junit, as_text
from isolane.acceptance.app.session import AppSession
from isolane.acceptance.app.steps import SocketConfig
from isolane.acceptance.running import suite_of

# The fault, the test that must report it, and what it must say.
FAULTS = [
    ("body", "user_isolation", r"leak: \S+ received a canary of \S+ in POST /runs at \$\.related\[\*\]\.note"),
    ("header", "user_isolation", r"canary of \S+ in the headers of POST /runs at \$, written as base64"),
    (
        "pieces",
        "user_isolation",
        r"canary of \S+ in several events text_delta at \$\.payload\.delta, written as pieces",
    ),
    (
        "tokens",
        "user_isolation",
        r"canary of \S+ in several texts of /ws at \$\.choices\[\*\]\.delta\.content, written as pieces",
    ),
    (
        "chunks",
        "user_isolation",
        r"canary of \S+ in several texts of POST /runs at \$\.chunks\[\*\], written",
    ),
    ("breaks_off", "user_isolation", r"leak: \S+ received a canary of \S+ in POST /runs at \$"),
    ("run_id", "user_isolation", r"a run id of \S+ in POST /runs at \$\.previous"),
    ("broadcast_end", "user_isolation", r"canary of \S+ in /ws, event agent_completed at \$\.payload\.result"),
    ("forgets", "user_isolation", r"\S+ never received an own canary, so a foreign one might not be shown either"),
    ("close_reason", "security", r"canary of \S+ in the headers of /ws"),
    ("broadcast", "websocket_isolation", r"foreign event: \S+, agent_started of a run of somebody else over /ws"),
    ("swapped", "websocket_isolation", r"out of order: \S+, agent_thinking has number 2 and came after number 3"),
    ("two_ends", "websocket_isolation", r"doubled: \S+, agent_completed: a second end of one span"),
    ("after_end", "websocket_isolation", r"out of order: \S+, agent_thinking came after the end of its span"),
    ("no_end", "websocket_isolation", r"missing: \S+, the end of a span"),
    ("lost_number", "websocket_isolation", r"missing: \S+, nothing with number 2 came before agent_thinking"),
    ("slow", "performance", r"the mean time of a run of one user is (9|1\d)\d\d\.\d ms"),
    ("late", "performance", r"the 95th percentile of the way of an event is 1\d\d\.\d ms and is beyond the alert"),
    ("refuses_many", "concurrency", r"number of users served at the same time is 3 users and is beyond the alert"),
    ("keeps_sockets", "resource_management", r"more files and sockets are open than before"),
    ("keeps_engines", "resource_management", r"\d+ runs are held 0 s after the last user has gone"),
    ("grows", "resource_management", r"what the process grew by, for each of 3 users is \d\d\.\d MiB"),
    ("fails_for_others", "error_handling", r"was not (harmed was not )?completed|could not run again afterwards"),
    ("error_text", "error_handling", r"canary of \S+ in /ws, event agent_error at \$\.payload\.error"),
    ("no_sign_in", "security", r"not refused: POST /runs without a credential \(HTTP 200\)"),
    ("any_token", "security", r"not refused: POST /runs with a wrong credential \(HTTP 200\)"),
    ("query_token", "security", r"not refused: POST /runs with the credential in the query, as token \(HTTP 200\)"),
    ("reads_of_others", "security", r"not refused: GET /runs/\{run\} of another user's run \(HTTP 200\)"),
    ("open_socket", "security", r"not refused: the socket /ws without a credential \(accepted\)"),
    ("no_payload", "legacy_compatibility", r"agent_started has no /payload, which older clients read, in \d+ messages"),
]
# The others stand for these in a short run: each test has some of them.
LONG = {
    *("header", "run_id", "broadcast_end", "close_reason", "two_ends", "after_end", "lost_number", "slow", "grows"),
    *("keeps_sockets", "fails_for_others", "no_sign_in", "any_token", "query_token", "open_socket"),
}


async def test_a_service_without_faults_passes_all_eight(suite_with) -> None:
    results = await suite_with("")
    assert list(results.failures()) == []
    assert results.success
    assert list(results.results) == list(TESTS)
    for result in results.results.values():
        assert result.verdict is Verdict.PASSED
        assert result.controls
        assert all(one.seen for one in result.controls)
        assert all(result.checks.values())


@pytest.mark.parametrize(
    ("fault", "test", "says"),
    [pytest.param(*row, id=row[0], marks=[pytest.mark.long] if row[0] in LONG else []) for row in FAULTS],
)
async def test_a_fault_is_named_by_its_test(suite_with, fault, test, says) -> None:
    results = await suite_with(fault, test)
    assert not results.success
    told = "\n".join(results.results[test].problems())
    assert re.search(says, told), told


async def test_no_report_shows_a_credential(suite_with, monkeypatch) -> None:
    sessions = []
    right = AppSession.sign_in

    async def noting(self) -> None:
        await right(self)
        sessions.append(self)

    monkeypatch.setattr(AppSession, "sign_in", noting)
    results = await suite_with("any_token", "security", "user_isolation")
    assert not results.success
    reports = as_text(results) + as_json(results) + as_junit(results)
    credentials = [session.values["token"] for session in sessions]
    assert len(credentials) == 5
    canaries = [canary for session in sessions for canary in session.transcript.canaries]
    assert not [one for one in [*credentials, *canaries] if one in reports or one[::-1] in reports]


@pytest.mark.parametrize("fault", ["none", "stream"])
async def test_an_event_stream_is_read_as_a_socket_is(config, running_service, fault) -> None:
    url, pid = running_service
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{url}/fault/{fault}")
    stream = SocketConfig("/events", "sse")
    reading = dataclasses.replace(config, url=url, pid=pid, socket=stream, legacy=None, settle_seconds=0.2)
    results = await suite_of(reading, 5).run_full_acceptance_suite(["user_isolation", "security"])
    told = list(results.failures())
    if fault == "none":
        assert told == []
    else:
        assert any("received a canary of" in text and "in /events, event note at $.note" in text for _, text in told)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("none", ""),
        ("stream_of_tokens", r"canary of \S+ in several texts of POST /streamed-runs at \$, written as pieces"),
        ("never_ends", r"POST /streamed-runs answered nothing \(not to its end within 0\.5 s\)"),
    ],
)
async def test_a_run_that_answers_with_an_event_stream(config, running_service, fault, says) -> None:
    url, pid = running_service
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{url}/fault/{fault}")
    step = dataclasses.replace(config.run, path="/streamed-runs")
    seconds = 0.5 if fault == "never_ends" else 10.0
    streamed = dataclasses.replace(
        config, url=url, pid=pid, run=step, run_seconds=seconds, headers={}, reads=(), socket=None, legacy=None
    )
    told = [text for _, text in (await suite_of(streamed, 5).run_full_acceptance_suite(["user_isolation"])).failures()]
    if says:
        assert any(re.search(says, text) for text in told), told
    else:
        assert told == []


async def test_a_service_that_ends_in_the_midst_is_named_first(config) -> None:
    dying = dataclasses.replace(config, env={"CONTROL_FAULT": "dies"})
    results = await suite_of(dying, 5).run_full_acceptance_suite(["user_isolation", "security"])
    for result in results.results.values():
        assert result.problems()[0].startswith("the service ended with 3:")


async def test_a_body_that_is_too_large_is_not_passed_over(suite_with, monkeypatch) -> None:
    monkeypatch.setattr("isolane.acceptance.app.http.MAX_BYTES", 40)
    result = (await suite_with("", "user_isolation")).results["user_isolation"]
    assert any("are too large to be looked at to their end" in text for text in result.problems())


async def test_a_suite_that_is_cancelled_stops_the_service(config) -> None:
    for until in (lambda target: target._process._process is not None, lambda target: bool(target._run_ids)):
        suite = suite_of(config, 5)
        task = asyncio.create_task(suite.run_full_acceptance_suite(["error_handling"]))
        process = None
        while not until(suite.target):
            await asyncio.sleep(0.01)
        process = suite.target._process._process
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert process.returncode is not None
        assert asyncio.all_tasks() == {asyncio.current_task()}
