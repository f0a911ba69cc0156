"""Alerts of security, and where they go."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from isolane.security.events import Severity

logger = logging.getLogger("isolane.security")

LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.HIGH: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
}

QUEUE = 1000
TRIES = 3
FIRST_RETRY_SECONDS = 0.5
AGAIN = frozenset({408, 429})
"""Answers by which the receiver asks for the same later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAlert:
    """Something that a person should look at.

    Attributes:
        rule: the name of the rule that found it.
        severity: how bad it is.
        summary: what it means, in a sentence without anybody's data.
        subject: a pseudonym of the user it is about, or ``None``: ``SecurityMonitor.pseudonym`` gives the same for the
            same user as long as the process lives. An id never leaves the process in an alert.
        count: how many events made it.
        suppressed: how many alerts of the same rule and subject were held back since the last one.
        at: when, aware, in UTC.
    """

    rule: str
    severity: Severity
    summary: str
    subject: str | None = None
    count: int = 1
    suppressed: int = 0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def in_a_line(self) -> str:
        """Return it as a line of a log."""
        return f"{self.rule}: {self.summary} ({self.count} events, subject {self.subject or 'none'})"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "summary": self.summary,
            "subject": self.subject,
            "count": self.count,
            "suppressed": self.suppressed,
            "at": self.at.isoformat(),
        }


class AnyAlert(Protocol):
    """What a log and a webhook take: a ``SecurityAlert``, or an alert of ``isolane.observability``."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""

    def in_a_line(self) -> str:
        """Return it as a line of a log."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""


@runtime_checkable
class AlertSink(Protocol):
    """Takes alerts to where somebody sees them."""

    def send(self, alert: SecurityAlert) -> None:
        """Take an alert without waiting for a network."""


class LoggingAlertSink:
    """Writes alerts to a logger, ``isolane.security`` unless another is given, at the level of their severity."""

    def __init__(self, target: logging.Logger | None = None) -> None:
        self._logger = target if target is not None else logger

    def send(self, alert: AnyAlert) -> None:
        """Log the alert; its fields are in the record's ``alert`` as well."""
        self._logger.log(LEVELS[alert.severity], "%s", alert.in_a_line(), extra={"alert": alert.to_dict()})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that moves is a mistake to be mended, not an address to send alerts to."""

    def redirect_request(self, *_: Any) -> None:
        return None


class WebhookAlertSink:
    """Posts each alert as JSON to an address, from a thread of its own that starts with the first alert.

    At most 1000 alerts wait; further ones are dropped and counted. A failed post is tried 3 times, unless the answer
    says that the request was wrong (4xx other than 408 and 429). Redirects are not followed.

    Args:
        url: an ``https`` address, or ``http``.
        headers: sent with each request, for example an authorisation.
        secret: signs each body: ``X-Isolane-Signature: sha256=`` and the HMAC-SHA-256 in hexadecimal.
        timeout: seconds for one try. Default: 5.

    Raises:
        ValueError: the address is neither ``http`` nor ``https``, has a password or what is no address in it, a header
            has a line break, or the time is not positive.
        TypeError: the secret is no bytes.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: bytes | None = None,
        timeout: float = 5.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a webhook's address begins with https:// or http:// and names a host")
        if "@" in parts.netloc:
            raise ValueError("a webhook's address has no user and password: send them in headers=")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("a webhook's address is ASCII without spaces: percent-encode what is not")
        for name, value in (headers or {}).items():
            if not (name + value).isprintable():
                raise ValueError(f"the header {name!r} of a webhook has a line break or another control character")
        if secret is not None and not isinstance(secret, bytes):
            raise TypeError("the secret of a webhook is bytes: encode it")
        if not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, got {timeout}")
        self._url = url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._secret = secret
        self._timeout = timeout
        self._waiting: queue.Queue[AnyAlert | None] = queue.Queue(QUEUE)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._stopping = threading.Event()
        self.sent = 0
        """Alerts that the address has taken."""
        self.failed = 0
        """Alerts that it did not take."""
        self.dropped = 0
        """Alerts that found the queue full, or the sink closed."""

    def send(self, alert: AnyAlert) -> None:
        """Queue the alert."""
        with self._lock:
            if self._stopping.is_set():
                self.dropped += 1
                return
            self._start()
            try:
                self._waiting.put_nowait(alert)
            except queue.Full:
                self.dropped += 1

    def close(self, timeout: float = 10.0) -> None:
        """Post what waits, for ``timeout`` seconds at most, and take no more. What is left then counts as dropped."""
        with self._lock:
            thread = self._thread if self._pid == os.getpid() else None
            if not self._stopping.is_set() and thread is not None:
                self._stopping.set()
                # A full queue ends by itself: the thread looks whether it is to stop after each alert.
                try:
                    self._waiting.put_nowait(None)
                except queue.Full:
                    logger.debug("a webhook's queue is full while it is closed")
            self._stopping.set()
        if thread is not None:
            thread.join(timeout)
        with self._lock:
            while True:
                try:
                    left = self._waiting.get_nowait()
                except queue.Empty:
                    break
                self.dropped += left is not None

    def reopen(self) -> None:
        """Take alerts again after ``close``, as an application does that is started a second time."""
        with self._lock:
            self._stopping.clear()

    def _start(self) -> None:
        # A thread does not live on in a forked process, nor is what waited for it its own.
        if self._thread is not None and self._pid == os.getpid() and self._thread.is_alive():
            return
        if self._thread is not None and self._pid != os.getpid():
            self._waiting = queue.Queue(QUEUE)
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="isolane webhook", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            alert = self._waiting.get()
            if alert is None:
                return
            try:
                sent = self._post(json.dumps(alert.to_dict()).encode())
            except Exception as error:  # noqa: BLE001 - the next alert is posted whatever became of this one
                # Its text may have the address in it, and that a token.
                logger.warning("a webhook for alerts took none: %s", type(error).__name__)
                sent = False
            if sent:
                self.sent += 1
            else:
                self.failed += 1
            if self._stopping.is_set() and self._waiting.empty():
                return

    def _post(self, body: bytes) -> bool:
        headers = dict(self._headers)
        if self._secret is not None:
            headers["X-Isolane-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        # The scheme was checked when the sink was made.
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310
        for attempt in range(TRIES):
            try:
                with self._opener.open(request, timeout=self._timeout):
                    return True
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"status {error.code}"
                if error.code < 500 and error.code not in AGAIN:  # noqa: PLR2004 - HTTP's line between whose mistake it is
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = type(error).__name__
            if attempt + 1 < TRIES and not self._stopping.is_set():
                self._stopping.wait(FIRST_RETRY_SECONDS * 2**attempt)
        # The address may carry a token.
        logger.warning("a webhook for alerts took none: %s", reason)
        return False
