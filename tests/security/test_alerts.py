"""Alerts over a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest
from isolane.security import alerts
from isolane.security.alerts import SecurityAlert, WebhookAlertSink
from isolane.security.events import Severity

ALERT = SecurityAlert(rule="isolation_violation", severity=Severity.CRITICAL, summary="stopped", subject="abc")


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses it is given, then with 204."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.go_on.wait(10)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - the server's name; a redirect that is followed comes as one

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(alerts, "FIRST_RETRY_SECONDS", 0.001)


def test_an_alert_is_posted_signed_and_without_waiting() -> None:
    with Receiver() as receiver:
        receiver.go_on.clear()
        sink = WebhookAlertSink(receiver.url, headers={"Authorization": "Bearer t"}, secret=b"shared")
        sink.send(ALERT)
        assert (sink.sent, receiver.bodies) == (0, []), "sending waits for nobody"
        receiver.go_on.set()
        sink.close()
    assert (sink.sent, sink.failed, sink.dropped) == (1, 0, 0)
    (body,), (headers,) = receiver.bodies, receiver.headers
    assert json.loads(body) == ALERT.to_dict()
    assert headers["Authorization"] == "Bearer t"
    assert headers["X-Isolane-Signature"] == "sha256=" + hmac.new(b"shared", body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("statuses", "posts", "sent"),
    [
        ((500, 503), 3, 1),
        ((500, 500, 500), 3, 0),
        ((400,), 1, 0),
        ((429,), 2, 1),
        ((302,), 1, 0),
        ((), 1, 1),
    ],
)
def test_what_fails_for_now_is_tried_again_and_what_is_wrong_is_not(statuses, posts, sent) -> None:
    with Receiver(*statuses) as receiver:
        sink = WebhookAlertSink(receiver.url)
        sink.send(ALERT)
        until(lambda: sink.sent + sink.failed == 1)
        sink.close()
    assert (len(receiver.bodies), sink.sent, sink.failed) == (posts, sent, 1 - sent)


def test_an_address_where_nobody_answers_fails_and_its_path_is_not_logged(caplog) -> None:
    with Receiver() as receiver:
        url = receiver.url + "?token=hush"
    sink = WebhookAlertSink(url)
    sink.send(ALERT)
    until(lambda: sink.failed == 1)
    sink.close()
    assert "hush" not in caplog.text
    assert "took none" in caplog.text


def test_an_answer_that_is_none_costs_its_own_alert_alone(caplog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for reply in [b"no HTTP at all\r\n\r\n"] * 3 + [b"HTTP/1.1 204 No Content\r\n\r\n"]:
                peer, _ = server.accept()
                with peer:
                    peer.recv(65_536)
                    peer.sendall(reply)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        sink = WebhookAlertSink(f"http://127.0.0.1:{server.getsockname()[1]}/?token=hush")
        sink.send(ALERT)
        sink.send(ALERT)
        until(lambda: sink.sent + sink.failed == 2)
        sink.close()
        thread.join(10)
    assert (sink.sent, sink.failed) == (1, 1)
    assert "took none: BadStatusLine" in caplog.text
    assert "hush" not in caplog.text


def test_what_could_never_be_posted_is_refused_at_once() -> None:
    for wrong in ({"url": "https://ann:hush@alerts.example/"}, {"url": "https://alerts.example/a b"}):
        with pytest.raises(ValueError, match="webhook's address") as caught:
            WebhookAlertSink(**wrong)
        assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="line break"):
        WebhookAlertSink("https://alerts.example/", headers={"X-Key": "a\r\nX-Other: b"})
    with pytest.raises(TypeError, match="bytes"):
        WebhookAlertSink("https://alerts.example/", secret="text")  # type: ignore[arg-type]


def test_more_than_can_wait_is_dropped_and_counted(monkeypatch) -> None:
    monkeypatch.setattr(alerts, "QUEUE", 3)
    with Receiver() as receiver:
        receiver.go_on.clear()
        sink = WebhookAlertSink(receiver.url)
        sink.send(ALERT)
        until(sink._waiting.empty)
        for _ in range(5):
            sink.send(ALERT)
        assert sink.dropped == 2
        receiver.go_on.set()
        sink.close()
    assert (sink.sent, len(receiver.bodies)) == (4, 4)


def test_a_closed_sink_drops_and_counts() -> None:
    sink = WebhookAlertSink("http://127.0.0.1:9/")
    sink.close()
    sink.send(ALERT)
    sink.close()
    assert sink.dropped == 1


def test_closing_waits_no_longer_than_it_was_told_and_counts_what_is_left() -> None:
    with Receiver() as receiver:
        receiver.go_on.clear()
        sink = WebhookAlertSink(receiver.url)
        for _ in range(4):
            sink.send(ALERT)
        until(lambda: sink._waiting.qsize() == 3)
        sink.close(timeout=0.01)
        assert sink.dropped == 3
        receiver.go_on.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    with Receiver() as receiver:
        sink = WebhookAlertSink(receiver.url)
        sink.send(ALERT)
        until(lambda: sink.sent == 1)
        child = os.fork()
        if child == 0:
            sink.send(ALERT)
            sink.close()
            os._exit(0 if sink.sent == 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sink.close()
    assert len(receiver.bodies) == 2


@pytest.mark.parametrize("url", ["ftp://host/", "host/path", "https://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(url) -> None:
    with pytest.raises(ValueError, match="https://"):
        WebhookAlertSink(url)
    with pytest.raises(ValueError, match="timeout"):
        WebhookAlertSink("https://host/", timeout=0)


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)
