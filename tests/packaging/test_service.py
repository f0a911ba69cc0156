"""The quickstart's service on a real uvicorn, from the wheel, with two users."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from websockets.sync.client import connect


@pytest.fixture
def service(fastapi_room, quickstart, tmp_path):
    """Serve the quickstart's app.py as its text says; yields the port."""
    (tmp_path / "app.py").write_text(quickstart["app.py"], encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [fastapi_room.python, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
        cwd=tmp_path,
        env=fastapi_room.environment(),
    )
    try:
        limit = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_isolane/ready", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "the service has ended"
                assert time.monotonic() < limit, "the service did not start"
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        # uvicorn ends its lifespan, then sends itself the signal that it was sent.
        assert server.wait(40) in {0, -signal.SIGTERM}


def post(port: int, token: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/greet",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_each_user_gets_the_answer_and_the_events_of_their_own_runs(service):
    url = f"ws://127.0.0.1:{service}/ws"
    with (
        connect(url, additional_headers={"Authorization": "Bearer token-of-ann"}) as ann,
        connect(url, additional_headers={"Authorization": "Bearer token-of-bob"}) as bob,
    ):
        status, answer = post(service, "token-of-ann", {"name": "Ann"})
        assert (status, answer["result"]) == (200, "Hello Ann")
        status, other = post(service, "token-of-bob", {"name": "Bob"})
        assert (status, other["result"]) == (200, "Hello Bob")

        for connection, own in ((ann, answer), (bob, other)):
            events = [json.loads(connection.recv(timeout=10)) for _ in range(3)]
            assert [event["type"] for event in events] == ["agent_started", "agent_thinking", "agent_completed"]
            assert {event["run_id"] for event in events} == {own["run_id"]}
            with pytest.raises(TimeoutError):
                connection.recv(timeout=0.3)


def test_nobody_is_refused_with_a_problem_document(service):
    status, problem = post(service, "token-of-nobody", {"name": "X"})
    assert (status, problem["code"]) == (401, "unauthenticated")


def test_the_program_that_watches_prints_the_events(service, fastapi_room, quickstart, tmp_path):
    program = quickstart["watch.py"].replace("127.0.0.1:8000", f"127.0.0.1:{service}")
    (tmp_path / "watch.py").write_text(program, encoding="utf-8")
    watching = subprocess.Popen(
        [fastapi_room.python, "-u", "watch.py", "token-of-ann"],
        cwd=tmp_path,
        env=fastapi_room.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        # A run that began before the socket was open is shown as well, so nothing needs to be waited for.
        assert post(service, "token-of-ann", {"name": "Ann"})[0] == 200
        lines = [watching.stdout.readline().split() for _ in range(3)]
    finally:
        watching.terminate()
        watching.wait(10)
        watching.stdout.close()
    assert [line[0] for line in lines] == ["agent_started", "agent_thinking", "agent_completed"]
