"""``ContaminationDetector``: is there anything in this that is not the user's?"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from isolane._core import (
    Scanner,
    Sighting,
    UserExecutionContext,
    _install_scanner,
    _note_violation,
    _uninstall_scanner,
    leak_probability,
)
from isolane.security.errors import ResponseWithheldError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.findings import (
    BOUNDARIES,
    Collected,
    ContaminationReport,
    ContaminationViolation,
    ScanCoverage,
    ScanMode,
)
from isolane.security.quarantine import Quarantine

if TYPE_CHECKING:
    from isolane.security.streams import StreamGuard

logger = logging.getLogger("isolane.security")

Whose = UserExecutionContext | str | None
"""A context, the id of a user, or ``None`` for nobody in particular, to whom all of it is somebody else's."""

HOOKED = frozenset({"ws_out", "error", "cache_get", "cache_put", "tool_in", "tool_out"})
"""Boundaries of isolane's own that ask the installed detector by themselves."""

MAX_REMEMBERED = 10_000

TIERS = ("owner_tag", "canary", "secret")
"""By what a sighting is recognised, the most certain first."""


class AllowsReading(Protocol):
    """Says who may see whose data, as ``Grants`` does."""

    def allows(self, owner: str, reader: str) -> bool:
        """Return whether the reader may see data of the owner."""


def user_of(context: Whose) -> str | None:
    """Return the id of the user; a child context has that of the context above it."""
    return context.user_id if isinstance(context, UserExecutionContext) else context


class ContaminationDetector:
    """Finds data of one user on its way to another, and keeps it from getting there.

    It knows three things for certain: objects of isolane's that say whose they are, signed canaries, and secrets that
    were registered as a user's. It knows nothing of other data, and its reports say how much it has seen.

    Args:
        scan_points: the mode of each boundary, or one mode for all. Default: ``observe`` everywhere.
        key: 32 random bytes that the processes of a service share, so that each knows the canaries of the others.
            Default: a key of this process alone.
        grants: asked first whether the reader may see the owner's data; what cannot be asked is not allowed.
        audit: records each violation, as class ``isolation``.
        quarantine: takes the users that a violation concerns, where it is enforced.
        on_violation: called with each report that has violations, such as the guard of a rollout.

    Raises:
        ValueError: for an unknown boundary or mode, or a key of another length.
    """

    def __init__(
        self,
        scan_points: Mapping[str, str] | str = ScanMode.OBSERVE,
        *,
        key: bytes | None = None,
        grants: AllowsReading | None = None,
        audit: AuditSink | None = None,
        quarantine: Quarantine | None = None,
        on_violation: Callable[[ContaminationReport], object] | None = None,
    ) -> None:
        self._modes = _modes(scan_points)
        self._shown_modes = MappingProxyType({name: mode.value for name, mode in self._modes.items()})
        self.scanner = Scanner(key)
        self.grants = grants
        self.audit = audit
        self.quarantine = quarantine
        self.on_violation = on_violation
        self._listeners: tuple[Callable[[ContaminationReport, str | None], object], ...] = ()
        self._first_seen: OrderedDict[tuple[str, str | None], float] = OrderedDict()
        self._violations = 0
        self._withheld = 0
        self._granted = 0
        self._hook_errors = 0
        self._installed = False
        self._asked: frozenset[str] = frozenset()

    # -- what is looked for ----------------------------------------------------------------------------------------

    def mint(self, user: Whose) -> str:
        """Make a canary of the user: 37 characters for the data of a synthetic user, never for that of a real one."""
        return self.scanner.mint(_required(user))

    def register_secret(self, user: Whose, value: str) -> int:
        """Look for a value that only this user should ever see: a key, an address, the id of a session.

        Kept as the keyed hashes of its pieces that are hard to guess; returns how many those are. A value that a second
        user registers is shared from then on and says nothing. Kept until ``forget_user``.

        Raises:
            ValueError: no piece has 64 bits, or the value is longer than 256 bytes.
            BudgetExceeded: the user has 1 000 secrets, or the process 100 000.
        """
        return self.scanner.register(_required(user), value)

    def forget_user(self, user_id: str) -> int:
        """Let go of everything that is held of a user. Returns how many secrets that were."""
        for pair in [pair for pair in self._first_seen if pair[1] == user_id]:
            del self._first_seen[pair]
        return self.scanner.forget(user_id)

    def holds(self, user_id: str) -> bool:
        """Return whether anything is held of a user."""
        return self.scanner.holds(user_id) or any(seen_by == user_id for _, seen_by in self._first_seen)

    def rotate_key(self, key: bytes | None = None) -> None:
        """Make canaries with another key from now on. Those of the key before are still known, older ones no more."""
        self.scanner.rotate(key)

    def note_inbound(self, context: Whose, value: Any) -> int:
        """Note what a user brought: pasted, uploaded, or fetched from outside by a tool or a model.

        What is somebody else's in it is no leak of ours when this user sees it again: it is reported once, as a prior
        exposure. Returns how much of that was new.
        """
        return self.scanner.note_inbound(_required(context), value)

    # -- looking ---------------------------------------------------------------------------------------------------

    def mode(self, boundary: str) -> ScanMode:
        """Return what a scan point does. Raises ``ValueError`` for an unknown one."""
        try:
            return self._modes[boundary]
        except KeyError:
            raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}; got {boundary!r}") from None

    def set_mode(self, boundary: str, mode: str) -> None:
        """Change what a scan point does, from the next look on."""
        self.mode(boundary)
        self._modes[boundary] = ScanMode(mode)
        self._shown_modes = MappingProxyType({name: mode.value for name, mode in self._modes.items()})
        if self._installed:
            self.install()

    def check_sync(self, context: Whose, result: Any, *, boundary: str = "http_out") -> ContaminationReport:
        """Look into a value, and respond to what is found. Never raises for what it finds: see ``guard``.

        Looks into texts, bytes, containers with their keys, dataclasses, models of pydantic, exceptions with what
        caused them, closures, and the attributes of other objects: 64 levels deep, 100 000 values.
        """
        mode = self.mode(boundary)
        collected = Collected()
        if mode is not ScanMode.OFF:
            try:
                collected.add(self.scanner.scan(user_of(context), result, boundary))
            except Exception as error:  # noqa: BLE001 - whatever a value raises when it is looked into
                self._failed(error, collected)
        return self._judge(user_of(context), boundary, collected)

    async def detect_data_contamination(
        self, context: Whose, result: Any, *, boundary: str = "http_out"
    ) -> ContaminationReport:
        """Look into a value, and respond to what is found.

        An async iterator is read to its end, so what it had is gone: to pass it on, use ``stream`` or ``passing``.
        """
        if not isinstance(result, AsyncIterable):
            return self.check_sync(context, result, boundary=boundary)
        guard = self.stream(context, boundary)
        try:
            async for item in result:
                guard.look(item)
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(error, guard.collected)
        return guard.report()

    def guard(self, value: Any, *, boundary: str, context: Whose) -> Any:
        """Return the value if it may pass, for what takes a function: a dispatcher of tools, a client of a cache.

        Raises:
            ResponseWithheldError: it has data of another user, or could not be looked at, and the boundary enforces.
        """
        if self.check_sync(context, value, boundary=boundary).withheld:
            raise ResponseWithheldError(boundary)
        return value

    def db_row(self, row: Any, context: Whose) -> Any:
        """Return a row of a database if it may pass: ``guard`` at the boundary ``db_row``."""
        return self.guard(row, boundary="db_row", context=context)

    def foreign_spans(self, text: str, user_id: str) -> list[tuple[int, int]]:
        """Return where a text has canaries and secrets of others, in characters.

        ``DataSanitizer(references=detector)`` asks it. What was granted, and what the user brought, is not foreign.
        Nothing is recorded, and nobody is put into quarantine: what is taken out goes to nobody.
        """
        spans = [self._span(text, sighting) for sighting in self._foreign_in(text, user_id)]
        rest, end = "", 0
        for start, stop in sorted(spans):
            rest += text[end : max(end, start)] + "\n"
            end = max(end, stop)
        # What is written in another form may not be where it was seen: then all of the text goes.
        return [(0, len(text))] if spans and self._foreign_in(rest + text[end:], user_id) else spans

    def stream(self, context: Whose, boundary: str) -> StreamGuard:
        """Look at what comes in pieces, without missing what is cut in two."""
        from isolane.security.streams import StreamGuard  # noqa: PLC0415 - which needs this module

        self.mode(boundary)
        return StreamGuard(self, context, boundary)

    async def passing(self, context: Whose, items: AsyncIterable[Any], *, boundary: str) -> AsyncIterator[Any]:
        """Pass the items of an async iterator on, each after a look at it.

        Raises:
            ResponseWithheldError: as ``StreamGuard.feed``; nothing more is passed on then.
        """
        guard = self.stream(context, boundary)
        try:
            async for item in items:
                yield guard.feed(item)
        finally:
            guard.close()

    def sweep(self) -> ContaminationReport:
        """Check that every scan point that is on would see something: the report has no violations of its own.

        A control is made for each. Of those where isolane asks by itself the detector must be installed as well, or
        have been until ``uninstall``; whether the application asks at the others is not known here.
        """
        collected = Collected(own=1, scanned_bytes=1)
        enabled = [boundary for boundary, mode in self._modes.items() if mode is not ScanMode.OFF]
        unasked = HOOKED.difference(self._asking())
        return self._report("http_out", collected, (), (), granted=0, checked=enabled, unasked=unasked)

    def _asking(self) -> frozenset[str]:
        """Return which of isolane's own boundaries ask this detector, or did until it was uninstalled."""
        return self._asked | {name for name in HOOKED if self.scanner.is_asked(name)}

    # -- installing ------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Have isolane's own boundaries ask: publishing and writing events, errors in them, caches, and calls of tools.

        One detector is asked at a time: this one takes the place of another.
        """
        enabled = [name for name in sorted(HOOKED) if self._modes[name] is not ScanMode.OFF]
        _install_scanner(self.scanner, self._on_sightings, enabled)
        self._installed = True
        self._asked = frozenset()

    def uninstall(self) -> None:
        """Have them ask nobody, unless another detector took the place."""
        self._asked = self._asking()
        _uninstall_scanner(self.scanner)
        self._installed = False

    def add_listener(self, listener: Callable[[ContaminationReport, str | None], object]) -> Callable[[], None]:
        """Call a function with each report that has violations, and who was to see it. Returns what takes it away."""
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    def _on_sightings(self, boundary: str, user_id: str, sightings: list[Sighting] | None) -> bool:
        """Judge what a boundary of the core saw; ``None`` when it could not look. Returns whether it is withheld."""
        collected = Collected(sightings or [], scanned_bytes=1)
        if sightings is None:
            self._failed(RuntimeError("a value could not be looked into"), collected)
        return self._judge(user_id, boundary, collected).withheld

    # -- judging ---------------------------------------------------------------------------------------------------

    def _foreign_in(self, text: str, user_id: str) -> list[Sighting]:
        sightings = self.scanner.look(user_id, text)
        return [each for each in sightings if not each.is_prior and not self._is_granted(each, user_id)]

    @staticmethod
    def _span(text: str, sighting: Sighting) -> tuple[int, int]:
        start, stop = sighting.offset, sighting.offset + sighting.length
        if text.isascii():
            return min(start, len(text)), min(stop, len(text))
        raw = text.encode("utf-8", "surrogatepass")
        before, through = (raw[:place].decode("utf-8", "ignore") for place in (start, stop))
        return len(before), len(through)

    def _failed(self, error: Exception, collected: Collected) -> None:
        self.scanner.note_error()
        collected.error = type(error).__name__
        logger.error("something could not be looked into: %s", type(error).__name__)

    def _is_granted(self, sighting: Sighting, reader: str | None) -> bool:
        return self._grants_allow(sighting.owner_user_id, reader)

    def _grants_allow(self, owner: str | None, reader: str | None) -> bool:
        if self.grants is None or owner is None or reader is None:
            return False
        try:
            return self.grants.allows(owner, reader) is True
        except Exception:
            logger.exception("the grants could not be asked, so nothing is allowed")
            return False

    def _seen(self, sighting: Sighting, user_id: str | None) -> float:
        pair = (sighting.evidence_id, user_id)
        if pair not in self._first_seen and len(self._first_seen) >= MAX_REMEMBERED:
            self._first_seen.popitem(last=False)
        return self._first_seen.setdefault(pair, time.time())

    def _judge(self, user_id: str | None, boundary: str, collected: Collected) -> ContaminationReport:
        granted, prior, violations, owners = 0, [], [], set()
        for sighting in collected.sightings:
            if self._is_granted(sighting, user_id):
                granted += 1
                continue
            record = ContaminationViolation.of(sighting, boundary, self._seen(sighting, user_id))
            if sighting.is_prior:
                prior.append(record)
            else:
                violations.append(record)
                owners.add(sighting.owner_user_id)
        self._granted += granted
        report = self._report(boundary, collected, tuple(violations), tuple(prior), granted=granted)
        if report.withheld:
            self._withheld += 1
        if violations:
            self._respond(report, {user for user in (*owners, user_id) if user is not None}, user_id)
        return report

    def _report(
        self,
        boundary: str,
        collected: Collected,
        violations: tuple[ContaminationViolation, ...],
        prior: tuple[ContaminationViolation, ...],
        *,
        granted: int,
        checked: list[str] | None = None,
        unasked: frozenset[str] = frozenset(),
    ) -> ContaminationReport:
        planted, deliveries, works = self.scanner.standing()
        enforces = self._modes[boundary] is ScanMode.ENFORCE
        controls = {
            name: works and name not in unasked and self._modes[name] is not ScanMode.OFF
            for name in checked or [boundary]
        }
        coverage = ScanCoverage(
            planted=planted,
            observed_own=collected.own,
            scan_points=self._shown_modes,
            scanned_bytes=collected.scanned_bytes,
            complete=collected.complete,
            controls=controls,
            deliveries=deliveries,
        )
        return ContaminationReport(
            boundary=boundary,
            violations=violations,
            coverage=coverage,
            leak_probability_upper_bound=leak_probability(deliveries, self._violations + bool(violations)),
            prior_exposures=prior,
            withheld=enforces and (bool(violations) or collected.error is not None),
            granted=granted,
            error=collected.error,
        )

    # -- responding ------------------------------------------------------------------------------------------------

    def _respond(self, report: ContaminationReport, users: set[str], user_id: str | None) -> None:
        """Count, record, quarantine and tell, each whatever the one before came to."""
        self._violations += 1
        # Once for each report, by what is most certain of what it found.
        _note_violation(report.boundary, min((one.tier for one in report.violations), key=TIERS.index))
        logger.error("isolation violation at the %s boundary", report.boundary)
        enforces = self._modes[report.boundary] is ScanMode.ENFORCE
        steps: list[Callable[[], object]] = []
        if self.audit is not None and report.boundary != "audit":
            event = SecurityEvent(
                name="isolation_violation",
                audit_class=AuditClass.ISOLATION,
                user_id=user_id,
                severity=Severity.CRITICAL,
                data=report.as_data(),
            )
            audit = self.audit
            steps.append(lambda: audit.record(event))
        if self.quarantine is not None and enforces:
            quarantine = self.quarantine
            steps += [lambda user=user: quarantine.quarantine(user, "isolation_violation") for user in sorted(users)]  # type: ignore[misc]
        if self.on_violation is not None:
            tell = self.on_violation
            steps.append(lambda: tell(report))
        steps += [lambda listener=listener: listener(report, user_id) for listener in self._listeners]  # type: ignore[misc]
        for step in steps:
            try:
                step()
            except Exception:
                self._hook_errors += 1
                logger.exception("a response to an isolation violation failed; the others go on")

    def figures(self) -> dict[str, Any]:
        """Return counts: ``violations`` (reports with any), ``withheld``, ``granted``, ``errors`` and more.

        ``hook_errors`` are responses that failed, such as an audit log that takes no records; ``boundaries`` has of
        each scan point ``deliveries``, ``bytes``, ``own`` and ``foreign``; ``leak_probability_upper_bound`` is never 0.
        """
        figures = self.scanner.figures()
        deliveries = self.scanner.standing()[1]
        return {
            **figures,
            "violations": self._violations,
            "withheld": self._withheld,
            "granted": self._granted,
            "hook_errors": self._hook_errors,
            "deliveries": deliveries,
            "leak_probability_upper_bound": leak_probability(deliveries, self._violations),
        }

    def __repr__(self) -> str:
        return f"<ContaminationDetector {self._violations} violations>"


def _modes(given: Mapping[str, str] | str) -> dict[str, ScanMode]:
    wanted = dict.fromkeys(BOUNDARIES, given) if isinstance(given, str) else dict(given)
    unknown = sorted(set(wanted) - set(BOUNDARIES))
    if unknown:
        raise ValueError(f"scan_points has {', '.join(unknown)}; known are {', '.join(BOUNDARIES)}")
    modes = {}
    for name in BOUNDARIES:
        try:
            modes[name] = ScanMode(wanted.get(name, ScanMode.OBSERVE))
        except ValueError:
            raise ValueError(f"the mode of {name} must be off, observe or enforce, got {wanted[name]!r}") from None
    return modes


def _required(user: Whose) -> str:
    found = user_of(user)
    if found is None:
        raise TypeError("this needs a user: pass the context, or the id of the user")
    return found
