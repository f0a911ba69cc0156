"""Faults of the package's Python: lines that are replaced in a copy of it, one fault at a time.

The package itself knows nothing of them. A line that has changed since fails ``tests/python/test_python_faults.py``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PythonFault:
    """A fault of one file."""

    breaks: str
    file: str
    """Within the package."""
    edits: tuple[tuple[str, str], ...]
    """What stands there once, and what is put in its place."""

    def apply(self, package: Path) -> None:
        """Have a copy of the package with this fault. Raises ``ValueError`` when the lines are not there."""
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        for before, after in self.edits:
            if text.count(before) != 1:
                raise ValueError(f"{self.file} has {text.count(before)} times what the fault replaces: {before!r}")
            text = text.replace(before, after)
        path.unlink()
        path.write_text(text, encoding="utf-8")


_AUTH = "security/authentication/"
_LEGACY = "migration/legacy/"
_CODEMOD = "migration/codemod/"
_DASHBOARD = "observability/dashboard/"
_CLUSTER = "cluster/"
_REDIS = "cluster/redis/"
_SCRIPTS = "cluster/redis/scripts/"

PYTHON_FAULTS: dict[str, PythonFault] = {
    "DeprecatedIsNoCoroutine": PythonFault(
        "what is marked as deprecated is no coroutine function any more",
        "migration/deprecation/decorator.py",
        (("decorated.__code__.co_flags & _SUSPENDING", "decorated.__code__.co_flags & 0"),),
    ),
    "MergedLedgersCountTwice": PythonFault(
        "a ledger that went into another and is still there counts twice",
        "migration/deprecation/folder.py",
        (("            texts.pop(name, None)", "            pass"),),
    ),
    "HourOpensGateOfAWeek": PythonFault(
        "the removal gate opens for a ledger that began an hour ago",
        "migration/deprecation/gate.py",
        (("if now - reading.since < needed:", "if False:"),),
    ),
    "NobodyCountedOpensGate": PythonFault(
        "the removal gate opens when nobody has counted",
        "migration/deprecation/gate.py",
        (
            (
                'reasons.append("no worker has counted in the window: set ISOLANE_LEDGER_DIR where the service runs")',
                "pass",
            ),
        ),
    ),
    "LabTrustsItself": PythonFault(
        "the lab does not look whether a leak would be seen",
        "testing/lab.py",
        (("control = self._control()", "control = True"),),
    ),
    "FaultNeedNotCome": PythonFault(
        "a fault that was asked for and never came is no failure",
        "testing/faults.py",
        (("if missing := self.never_came:", "if (missing := self.never_came) is None:"),),
    ),
    "RollbackEventWithoutCode": PythonFault(
        "runs that a rollback cancels do not say so",
        "engines/factory.py",
        (('set_end_code(engine.context.user_id, engine.context.run_id, "rolled_back")', "pass"),),
    ),
    "AbortEndsLegacyRuns": PythonFault(
        "a rollback cancels the runs of the older side as well",
        "engines/factory.py",
        (("[engine for engine in self._numbers if belongs(engine.context)]", "list(self._numbers)"),),
    ),
    "RollbackNotWrittenAgain": PythonFault(
        "a rollback that could not be written is lost with the process",
        "migration/guard/guard.py",
        (("        if self._unwritten is not None:\n            self._persist()\n", ""),),
    ),
    "ToolParametersNotAsked": PythonFault(
        "the detector is not asked about the parameters of a tool",
        "tools/dispatcher.py",
        (('_check_boundary("tool_in", self.user_context.user_id, arguments)', "pass"),),
    ),
    "ToolResultNotAsked": PythonFault(
        "the detector is not asked about what a tool returns",
        "tools/dispatcher.py",
        (('_check_boundary("tool_out", self.user_context.user_id, value)', "pass"),),
    ),
    "CompressedNotRead": PythonFault(
        "what a compressed response says is not looked at",
        "fastapi/contamination.py",
        (("if self._reader is None or self._reader.is_plain:", "if True:"),),
    ),
    "TraceOfWhoeverRuns": PythonFault(
        "a span belongs to whatever is current, also when that is another user's",
        "observability/otel.py",
        (("            if owner == (context.user_id, context.run_id):\n", "            if owner:\n"),),
    ),
    "PlaceOfAnotherUser": PythonFault(
        "a context that is made inside of another user's span stands there",
        "observability/otel.py",
        (("if isinstance(owner, tuple) and owner[0] != user_id:", "if False:"),),
    ),
    "ErrorTextInSpan": PythonFault(
        "a span says what an error says, which may be a user's data",
        "observability/otel.py",
        (
            (
                "            kind = _error_type(error)\n            span.set",
                "            kind = str(error)\n            span.set",
            ),
        ),
    ),
    "CancelledSpanIsError": PythonFault(
        "a span that was cancelled is an error",
        "observability/otel.py",
        (("        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):\n", "        if False:\n"),),
    ),
    "UnknownToolNamed": PythonFault(
        "a span names a tool that there is not, as a model asked for it",
        "tools/dispatcher.py",
        (('tool_name if self.has_tool(tool_name) else "_unknown")\n        try:', "tool_name)\n        try:"),),
    ),
    "TicketReusable": PythonFault(
        "a ticket opens as many sockets as one likes",
        f"{_AUTH}tickets.py",
        (
            ("ticket = self._tickets.pop(digest, None)", "ticket = self._tickets.get(digest)"),
            ("own.remove(digest)", "pass"),
        ),
    ),
    "TicketOfAnyPage": PythonFault(
        "a ticket counts for other pages than the one that asked for it",
        f"{_AUTH}tickets.py",
        (("if held.origin != shown:", "if False:"),),
    ),
    "TicketKeptAsItIs": PythonFault(
        "who reads the memory of the process has the tickets",
        f"{_AUTH}tickets.py",
        (('return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()', "return ticket"),),
    ),
    "OriginPrefixMatches": PythonFault(
        "an origin that begins like an allowed one is allowed",
        f"{_AUTH}origins.py",
        (("if _plain(bare) in self._allowed:", "if any(bare.startswith(one) for one in self._allowed):"),),
    ),
    "AlgorithmOfTheHeader": PythonFault(
        "the token's header chooses the algorithm",
        f"{_AUTH}jws.py",
        (
            ("if algorithm != key.algorithm:", "if False:"),
            ("key.ready, algorithms=[key.algorithm]", "key.ready.key, [jwt.get_unverified_header(token)['alg']]"),
        ),
    ),
    "AudienceNotCompared": PythonFault(
        "a token for another service counts",
        f"{_AUTH}claims.py",
        (("if self.audience not in named or", "if"),),
    ),
    "IssuerPrefixMatches": PythonFault(
        "an issuer that is a part of the right one counts",
        f"{_AUTH}claims.py",
        (('if claims.get("iss") != self.issuer:', 'if str(claims.get("iss")) not in self.issuer:'),),
    ),
    "ExpiryNotNeeded": PythonFault(
        "a token without an end counts for ever",
        f"{_AUTH}claims.py",
        (('raise _RejectedError("no_expiry")', "return subject, 9e9"),),
    ),
    "CriticalHeaderIgnored": PythonFault(
        "an extension that is not understood is passed over",
        f"{_AUTH}jws.py",
        (('if "crit" in header:', "if False:"),),
    ),
    "RotatedTokenCounts": PythonFault(
        "a session's former token still counts",
        f"{_AUTH}sessions.py",
        (("            del self._ids[held.digest]\n", ""),),
    ),
    "SessionNeverIdle": PythonFault(
        "a session that nobody uses lasts",
        f"{_AUTH}sessions.py",
        ((" and now < held.last_seen + self._idle", ""),),
    ),
    "OneFactorIsEnough": PythonFault(
        "a password is two factors",
        f"{_AUTH}roles.py",
        (("if value in _FACTORS}) > 1", "if value in _FACTORS}) > 0"),),
    ),
    "RefreshForAnother": PythonFault(
        "a socket goes on as another user",
        "fastapi/sockets.py",
        (("same = principal.user_id == self.principal.user_id", "same = True"),),
    ),
    "ExpiredSocketGoesOn": PythonFault(
        "a socket outlives its sign-in",
        "fastapi/sockets.py",
        (("        if left <= 0:\n", "        if left <= -1e9:\n"),),
    ),
    "ExpiredStreamGoesOn": PythonFault(
        "an event stream outlives its sign-in",
        "fastapi/sse.py",
        (("            if left <= 0:\n", "            if left <= -1e9:\n"), ("if left > PING_SECONDS:", "if True:")),
    ),
    "LogoutLeavesSockets": PythonFault(
        "sockets stay open when their session ends",
        "fastapi/application.py",
        (("self.logout(session.principal.user_id, session.id)", "pass"),),
    ),
    "LogoutOfEverybody": PythonFault(
        "a logout closes the sockets of other users",
        "fastapi/application.py",
        (("if cursor is None or principal.user_id.strip() != user_id.strip():", "if cursor is None:"),),
    ),
    "TokenInTheAddress": PythonFault(
        "a token in the address is passed over",
        "fastapi/gate.py",
        (("    if token_in_query(conn.query_params.multi_items()):\n", "    if False:\n"),),
    ),
    "OriginNotCompared": PythonFault(
        "any page opens sockets",
        "fastapi/gate.py",
        (("            self._check_origin(conn, credential)\n            ticket", "            ticket"),),
    ),
    "CookieTaken": PythonFault(
        "a cookie counts on sockets where the settings do not say so",
        "fastapi/gate.py",
        (('conn if ambient else _without(conn, b"cookie")', "conn"),),
    ),
    "CredentialSelected": PythonFault(
        "the answer to a handshake carries the credential",
        "fastapi/event_socket.py",
        (("return False, markers[0] if markers else None", "return False, offered[0] if offered else None"),),
    ),
    "AcceptedBeforeDecided": PythonFault(
        "a socket is opened before it is known whose it is",
        "fastapi/event_socket.py",
        (("principal is None and self._may_say_who(conn):", "principal is None:"),),
    ),
    "CommandNotAsked": PythonFault(
        "a command is done though the application says no",
        "fastapi/sockets.py",
        (('and isolane.may_command(self.principal, "cancel", run_id)', ""),),
    ),
    "AlertsNameUsers": PythonFault(
        "alerts, which leave the process, have the ids of users",
        "security/monitor.py",
        (("subject=self.pseudonym(user) if user is not None else None", "subject=user"),),
    ),
    "RulesCountAllUsers": PythonFault(
        "what different users do counts together",
        "security/monitor.py",
        (("user = event.user_id if rule.per_user else None", "user = None"),),
    ),
    "WindowNeverEnds": PythonFault(
        "events that are hours apart make an alert",
        "security/monitor.py",
        ((" or now - window.times[0] > rule.window", ""),),
    ),
    "WebhookFollows": PythonFault(
        "an alert is sent on to where the webhook's address points",
        "security/alerts.py",
        (("build_opener(_NoRedirects)", "build_opener()"),),
    ),
    "EitherConditionCounts": PythonFault(
        "a query passes whose owner is only one of two possibilities",
        "security/queries.py",
        (("part.operator is operators.and_:", "part.operator in (operators.and_, operators.or_):"),),
    ),
    "InnerQueriesPass": PythonFault(
        "a query in a query is not read",
        "security/queries.py",
        (
            (
                "            if isinstance(element, selectable.Select):\n",
                "            if element is statement and isinstance(element, selectable.Select):\n",
            ),
        ),
    ),
    "RowsGivenAway": PythonFault(
        "a change may make a row another user's",
        "security/queries.py",
        (("if name in self.owner_fields and _literal(value) != user_id:", "if False:"),),
    ),
    "RefusalNotRecorded": PythonFault(
        "what a border refuses leaves no trace",
        "security/enforcer.py",
        (
            (
                "        if self.audit is None:\n            return\n        is_breach",
                "        return\n        is_breach",
            ),
        ),
    ),
    "EmergencyStopsAtAnError": PythonFault(
        "an emergency ends with the first step that fails",
        "security/boundary.py",
        (("            _note_failure(error)\n            return None\n", "            raise\n"),),
    ),
    "EmergencyKeepsSockets": PythonFault(
        "sockets of isolated users stay open",
        "security/boundary.py",
        (("self._attempt(failed, close_sockets, user_id, RESYNC) or 0", "0"),),
    ),
    "RunChangesItsMode": PythonFault(
        "the modes of a run are those of now",
        "migration/flags/rollout.py",
        (("snapshot = engine.pin(user) if", "snapshot = engine.snapshot(user.user_id) if"),),
    ),
    "FlagsWrittenInPlace": PythonFault(
        "who reads a file of flags while it is written, or after its writer was killed, has half of it",
        "migration/flags/sources/atomic.py",
        (
            (
                "_write(scratch, data, target)",
                "target.write_bytes(data[:9]), target.write_bytes(data), scratch.touch()",
            ),
            ("scratch.rename(target)", "scratch.unlink()"),
        ),
    ),
    "FlagWritersMeet": PythonFault(
        "of two writers of flags at once one is lost",
        "migration/flags/sources/locking.py",
        (("fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),),
    ),
    "HalfDocumentTaken": PythonFault(
        "a file of flags is read while somebody writes it",
        "migration/flags/sources/file.py",
        (("await self._settle()", "pass"),),
    ),
    "EnvironmentBeforeFile": PythonFault(
        "a roll-back in the file does not reach a process whose environment has the flag",
        "migration/flags/sources/environment.py",
        (('document["flags"] = own | flags', 'document["flags"] = flags | own'),),
    ),
    "ResumedRuleGoesOn": PythonFault(
        "a flag that is resumed is at once what a rule made of it before",
        "migration/flags/sources/edits.py",
        (('for share in (held, *held.get("rules", [])):', "for share in (held,):"),),
    ),
    "LegacyIdMadeUp": PythonFault(
        "users of older code whose id is not known are all one user",
        "migration/agents/identity.py",
        (("        if value.strip().lower() not in FALLBACKS:\n", "        if True:\n"),),
    ),
    "LegacyDataCopiedShallow": PythonFault(
        "a context shares what is nested in the legacy state that it was made of",
        "migration/agents/adapter.py",
        (("        return copy.deepcopy(value)\n", "        return copy.copy(value)\n"),),
    ),
    "LegacyStateOfAnotherTaken": PythonFault(
        "an older agent is handed the state of another user",
        "migration/agents/identity.py",
        (('if not is_left_out(user) and _checked("user_id", user, state) != context.user_id:', "if False:"),),
    ),
    "ReturnedStateNotAsked": PythonFault(
        "a state that an older agent keeps in its class goes to the next user",
        "migration/agents/state.py",
        (
            ("    if left is not state:\n", "    if False:\n"),
            (
                '    elif not is_left_out(owner := read(left, "user_id")) and owner != context.user_id:\n',
                "    elif False:\n",
            ),
        ),
    ),
    "LateTaskIsNobodys": PythonFault(
        "a task that an agent left behind may send to anybody when the run is gone",
        f"{_LEGACY}identity.py",
        (("    return Bound(started_by)\n", "    return outside\n"),),
    ),
    "EndedRunBegunAnew": PythonFault(
        "what is told after a run's end takes the place of its log",
        f"{_LEGACY}hub.py",
        (("not self.runs.has(target, run_id) and has_ended(target, run_id):", "False:"),),
    ),
    "WritePastAttributesLost": PythonFault(
        "a write below a legacy state that cannot be refused is not found either",
        "migration/agents/fingerprint.py",
        (("        return list(dict.fromkeys([*own, *below]))\n", "        return own\n"),),
    ),
    "FrozenStateWritten": PythonFault(
        "a write to a legacy state that was adapted is lost, and nobody is told",
        "migration/agents/frozen.py",
        (("            self.on_write(self.field)\n", "            pass\n"),),
    ),
    "CancelledSpanLeftOpen": PythonFault(
        "the span of an agent that was made by hand has no end when it is cancelled",
        "agents/execution.py",
        (("                emitter.close_open(_reason(left))\n", "                pass\n"),),
    ),
    "StateOfAnotherCallsTools": PythonFault(
        "the host's dispatcher calls tools for the state of another user",
        "compat/unified_tool_dispatcher.py",
        (("        if not self._is_of_this_run(state, run_id):\n", "        if False:\n"),),
    ),
    "LegacySendNotCompared": PythonFault(
        "an older call sends to whomever it names",
        f"{_LEGACY}hub.py",
        (("            if bound.user_id != target:\n", "            if False:\n"),),
    ),
    "LegacySocketOfAnybody": PythonFault(
        "a socket is given to another user than the one who signed in on it",
        f"{_LEGACY}hub.py",
        (("if signed_in is not None and signed_in.strip() != connection.user_id:", "if False:"),),
    ),
    "LegacyBroadcastToAll": PythonFault(
        "every broadcast goes to everybody",
        f"{_LEGACY}hub.py",
        (("        if policy.is_for_all(kind):\n", "        if True:\n"),),
    ),
    "LegacyRefusalNotRecorded": PythonFault(
        "what an older name is refused leaves no trace",
        f"{_LEGACY}refusals.py",
        (("        if self.audit is None:\n            return\n", "        return\n"),),
    ),
    "HybridHandsOverTwice": PythonFault(
        "the older bridge is handed what it has had, when a socket has taken its place",
        f"{_LEGACY}hybrid.py",
        (
            (
                "self._cursor.subscribe(run_id, epochs.get(run_id), self._positions[run_id])",
                "self._cursor.subscribe(run_id)",
            ),
            ("        if number <= self._positions[run_id]:\n", "        if False:\n"),
        ),
    ),
    "EnterprisePercentIsAll": PythonFault(
        "one percent of the enterprise users is all of them",
        "migration/flags/percentages.py",
        (
            (
                "_hundred_thousandths(ENTERPRISE_ROLLOUT, values[ENTERPRISE_ROLLOUT])",
                "_FULL if values[ENTERPRISE_ROLLOUT] else 0",
            ),
        ),
    ),
    "FailedReadIsNotTold": PythonFault(
        "decisions by a document that could not be read anew do not say so",
        "migration/flags/rollout.py",
        (("self._engine.set_stale(True)", "pass"),),
    ),
    "BareNameIsEnough": PythonFault(
        "a class with the last name of the legacy state counts as it, LangChain's among them",
        f"{_CODEMOD}names.py",
        (('return any(name == one or name.endswith(f".{one}") for one in self._by_last[last])', "return True"),),
    ),
    "FixWithoutALook": PythonFault(
        "fixes that somebody has to look at are made without being asked for",
        f"{_CODEMOD}fix/engine.py",
        (('(unsafe or one.fix.safety == "safe")', "True"),),
    ),
    "CommentLost": PythonFault(
        "a fix takes comments out of the source",
        f"{_CODEMOD}fix/engine.py",
        (("if any(lost_comments(target, edit) for edit in edits):", "if False:"),),
    ),
    "ChangedFileOverwritten": PythonFault(
        "what somebody saved after the scan is overwritten by a fix",
        f"{_CODEMOD}fix/files.py",
        (("if path.read_bytes() != source.raw:", "if False:"),),
    ),
    "BaselineByLine": PythonFault(
        "a finding that is known is new again when its line moves",
        f"{_CODEMOD}baseline.py",
        (('" ".join(finding.snippet.split())', "str(finding.line)"),),
    ),
    "UnusedIgnoreIsQuiet": PythonFault(
        "a comment that ignores nothing stays unseen, and ignores what comes later",
        f"{_CODEMOD}suppress.py",
        (("one not in comment.used", "False"),),
    ),
    "FramesNotScanned": PythonFault(
        "the suite does not look into events for canaries of others",
        "acceptance/leaks.py",
        (
            (
                "    value = receipt.value\n    own",
                "    value = '' if receipt.channel == 'frame' else receipt.value\n    own",
            ),
            ("    if value is not receipt.data:", "    if value and value is not receipt.data:"),
        ),
    ),
    "UnseenControlsPass": PythonFault(
        "a test of the suite passes though it did not report what was planted",
        "acceptance/results.py",
        (
            (
                "for one in self.controls if not one.seen]\n        if not",
                "for one in () if not one.seen]\n        if not",
            ),
        ),
    ),
    "BlindUsersPass": PythonFault(
        "a user who was shown no own canary has shown that no foreign one is shown",
        "acceptance/isolation.py",
        (("        if blind:\n", "        if False:\n"),),
    ),
    "RunsOfOthersPass": PythonFault(
        "events of runs of somebody else are a user's own",
        "acceptance/events.py",
        (("if event.run and event.run not in own)", "if False)"),),
    ),
    "ShutDoorsPass": PythonFault(
        "refusals count where nobody is let in",
        "acceptance/trials/security.py",
        (("seen=not control.refused)", "seen=True)"),),
    ),
    "DrainForgetsNothing": PythonFault(
        "where counting began anew, an exporter that pushes is told that something shrank",
        "observability/metrics.py",
        (("if now[0] < before[0] or now[1] < before[1]:", "if False:"),),
    ),
    "MetricsForAnybody": PythonFault(
        "everybody may read the metrics, whatever the application's dependency says",
        "fastapi/metrics.py",
        (("[] if authorize is None else [Depends(authorize)]", "[]"),),
    ),
    "UnusedRequestCosts": PythonFault(
        "a request that uses nothing of isolane counts among those that do",
        "fastapi/middleware.py",
        (("            if held.used:\n", "            if True:\n"),),
    ),
    "RefusedRunIsAnError": PythonFault(
        "a run that got no permit counts as one that failed",
        "engines/engine.py",
        (
            (
                "self.context._record_refusal(name, error)",
                "self.context.record_run_failure(self.context.record_run_start(agent_type=name), error)",
            ),
        ),
    ),
    "LagOfOneMoment": PythonFault(
        "a scrape is told how late the latest timer was, and hardly ever that the loop was held",
        "events/lag.py",
        (("LAG.set(self.recent)", "LAG.set(late)"),),
    ),
    "ForeignRunCountsTwice": PythonFault(
        "a foreign run counts beside what the detector found in it",
        "security/probe.py",
        (("if foreign and not report.violations:", "if foreign:"),),
    ),
    "QueryRefusalNotCounted": PythonFault(
        "a query that was refused is not counted",
        "security/queries.py",
        (('            refused("data_access")\n', ""),),
    ),
    "CallNobodyConnectedCounts": PythonFault(
        "a call to a user who has gone counts as an attempt on another",
        "migration/legacy/refusals.py",
        (
            (
                "if isinstance(error, CrossUserSendError) and error.is_breach:",
                "if isinstance(error, CrossUserSendError):",
            ),
        ),
    ),
    "AlertEndsAtItsThreshold": PythonFault(
        "an alert is over as soon as the value is back at the threshold, and so begins and ends again and again",
        "observability/rules.py",
        (("return self.threshold if self.clear is None else self.clear", "return self.threshold"),),
    ),
    "AlertForgetsToWait": PythonFault(
        "an alert begins at once, however long its value is to be beyond the threshold",
        "observability/alerts.py",
        (("if held or now - state.since >= rule.for_seconds:", "if True:"),),
    ),
    "CooldownForgetsTheAlert": PythonFault(
        "what began within the cooldown and goes on after it is never told",
        "observability/alerts.py",
        (
            (
                "            state.clear_since = None\n            self._remind(state, now, send)\n",
                "            state.clear_since = None\n",
            ),
        ),
    ),
    "OneSinkStopsAlerts": PythonFault(
        "a sink that fails keeps the others from the alert",
        "observability/alerts.py",
        (
            (
                "            return False\n        return True\n\n    def _complain",
                "            raise\n        return True\n\n    def _complain",
            ),
        ),
    ),
    "AlertsForgottenWhenMetricsWereOff": PythonFault(
        "an alert that began while the metrics were off is not shown when they are on again",
        "observability/alerts.py",
        (
            (
                "        self._show()\n        self._send(send)\n        return changes",
                "        if changes:\n            self._show()\n        self._send(send)\n        return changes",
            ),
        ),
    ),
    "WindowOfAWholeLife": PythonFault(
        "figures are of the whole life of the process and not of the last minutes",
        "observability/windows.py",
        (("begin = max(bisect_right(times, monotonic() - seconds) - 1, 0)", "begin = 0"),),
    ),
    "ResetIsNegative": PythonFault(
        "a counter that begins again at zero makes a figure negative",
        "observability/windows.py",
        (("total = so_far + (now if now < before else now - before)", "total = so_far + (now - before)"),),
    ),
    "OwnLimitKeepsOthersOut": PythonFault(
        "a user who waits because of a limit of their own is an alert",
        "observability/rules.py",
        (('                    AtLeast(Level("isolane_permits_active"), Level("isolane_permits_limit")),\n', ""),),
    ),
    "LogsNameTheUser": PythonFault(
        "a line of a log has the user's id where a pseudonym belongs",
        "observability/logs.py",
        (("user_id if raw_user else pseudonym(user_id)", "user_id"),),
    ),
    "SlowRunToldWhenItIsOver": PythonFault(
        "an execution that takes too long is told of when it is over",
        "observability/performance.py",
        (("            self.alert_manager.trigger(news)\n", ""),),
    ),
    "WebhookStaysClosed": PythonFault(
        "an application that is started again has a webhook that takes nothing",
        "security/alerts.py",
        (("            self._stopping.clear()\n", "            pass\n"),),
    ),
    "WaitersAreServed": PythonFault(
        "users who wait for a permit count as served, so that nobody is told that few are",
        "observability/rules.py",
        (('Level("isolane_users_served")', 'Level("isolane_users_active")'),),
    ),
    "RaisedOnceAndForAll": PythonFault(
        "an alert that is raised where nobody looks every so often is told once in the life of the process",
        "observability/alerts.py",
        (('if other.condition == "firing" and now >= other.held_until:', "if False:"),),
    ),
    "BlindnessEndsAlerts": PythonFault(
        "an alert is over when its metrics cannot be read",
        "observability/alerts.py",
        (("            is_sampled = False\n", "            pass\n"),),
    ),
    "LateWatchIsARise": PythonFault(
        "what a counter was before it was watched looks like a rise",
        "observability/windows.py",
        (("NOTHING if isinstance(now, Histogram) else 0.0", "now"),),
    ),
    "HandlersShareTheId": PythonFault(
        "a handler that writes pseudonyms writes the id that another one has written",
        "observability/logs.py",
        (("elif isinstance(ids, _RawIds) and not self._raw_user:", "elif False:"),),
    ),
    "AlertsFlood": PythonFault(
        "a sink is sent as many alerts as there are, all at once",
        "observability/alerts.py",
        (("if len(self._sent_at) == MOST_PER_MINUTE and now - self._sent_at[0] < 60:", "if False:"),),
    ),
    "RefusedIsAViolation": PythonFault(
        "an attempt that was refused counts as data that crossed",
        "security/queries.py",
        (
            ("crossings import checked, refused\n", "crossings import checked, violation\n"),
            ('            refused("data_access")\n', '            violation("data_access", "foreign_object")\n'),
        ),
    ),
    "ScriptsFromAnywhere": PythonFault(
        "the page of the dashboard may run scripts of other origins",
        _DASHBOARD + "assets.py",
        (("script-src 'self'; style-src", "script-src 'self' https:; style-src"),),
    ),
    "CsrfForEver": PythonFault(
        "a token to act on the dashboard counts for ever",
        _DASHBOARD + "access.py",
        (("is_own and 0 <= time.time() - int(at) + 1 <= CSRF_SECONDS", "is_own"),),
    ),
    "DashboardForNobodyInParticular": PythonFault(
        "who the application does not know sees the dashboard",
        _DASHBOARD + "access.py",
        (("    if principal is None or principal is False:\n", "    if False:\n"),),
    ),
    "DashboardByProxy": PythonFault(
        "what comes through a proxy of this machine counts as from this machine",
        _DASHBOARD + "access.py",
        (("if not is_local or is_forwarded or", "if not is_local or"),),
    ),
    "CsrfOfAnother": PythonFault(
        "a token of one principal counts for another",
        _DASHBOARD + "access.py",
        (("csrf\\0{at}\\0{viewer.name}", "csrf\\0{at}"),),
    ),
    "CsrfNotAsked": PythonFault(
        "what is done on the dashboard needs no token",
        _DASHBOARD + "router.py",
        (('if not mount.csrf.is_valid(viewer, request.headers.get(CSRF_HEADER, "")):', "if False:"),),
    ),
    "AnyPageActs": PythonFault(
        "a page of another origin acts on the dashboard",
        _DASHBOARD + "access.py",
        (("    if not is_own:\n", "    if False:\n"),),
    ),
    "AnyAnswerIsYes": PythonFault(
        "an answer of authorize_action that is not True lets somebody act",
        _DASHBOARD + "access.py",
        (("        return answer is True\n", "        return bool(answer)\n"),),
    ),
    "ActsBeforeItRecords": PythonFault(
        "a flag is rolled back before that is recorded",
        _DASHBOARD + "actions.py",
        (
            ("        self._record(command, Severity.HIGH, revision=engine.revision)\n", ""),
            (
                "        persisted, problem = await self._persist(flag, record, command)\n",
                (
                    "        persisted, problem = await self._persist(flag, record, command)\n"
                    "        self._record(command, Severity.HIGH, revision=engine.revision)\n"
                ),
            ),
        ),
    ),
    "RefusalOnDashboardNotRecorded": PythonFault(
        "who was refused on the dashboard is recorded nowhere",
        _DASHBOARD + "actions.py",
        (
            (
                '            "authz_fail",\n            command.viewer',
                '            "authz_tried",\n            command.viewer',
            ),
        ),
    ),
    "RevealedToEverybody": PythonFault(
        "a user who was revealed to one is shown to all who look",
        _DASHBOARD + "actions.py",
        (
            (
                "self._revealed.setdefault(command.viewer.name, OrderedDict())",
                'self._revealed.setdefault("", OrderedDict())',
            ),
            ("        self._revealed.move_to_end(command.viewer.name)\n", ""),
            ("dict(self._revealed.get(viewer.name, {})) if viewer.name else {}", 'dict(self._revealed.get("", {}))'),
        ),
    ),
    "StreamOutlivesPermission": PythonFault(
        "an open dashboard goes on for somebody who may no longer look",
        _DASHBOARD + "stream.py",
        (
            ("                    if now_allowed is None:\n", "                    if False:\n"),
            ("permissions = now_allowed", "permissions = now_allowed or permissions"),
        ),
    ),
    "StreamsUnbounded": PythonFault(
        "any number of dashboards may be open",
        _DASHBOARD + "stream.py",
        (("return self._streams >= MAX_STREAMS", "return False"), ("if self._streams > MAX_STREAMS:", "if False:")),
    ),
    "StreamForEach": PythonFault(
        "everybody who watches is told the permissions of whoever came first",
        _DASHBOARD + "stream.py",
        (('"permissions": dict(permissions)}', '"permissions": self.__dict__.setdefault("own", permissions)}'),),
    ),
    "StreamKeepsServerUp": PythonFault(
        "an open dashboard does not end when the service drains",
        _DASHBOARD + "stream.py",
        (("        return self.isolane.draining\n", "        return False\n"),),
    ),
    "RollbackNotWritten": PythonFault(
        "a rollback of the dashboard is forgotten with the process",
        _DASHBOARD + "actions.py",
        (('                if not held.get("rollback"):\n', "                if False:\n"),),
    ),
    "RollbackGivenUp": PythonFault(
        "a rollback that could not be written counts as written when it is asked for again",
        _DASHBOARD + "actions.py",
        (("is_written = is_rollback_written(engine.document(), flag)", "is_written = already"),),
    ),
    "RollbackWrittenTwice": PythonFault(
        "of two who roll back at once each writes it",
        _DASHBOARD + "actions.py",
        (("            with self._writing:\n", "            with contextlib.nullcontext():\n"),),
    ),
    "RulesNameUsers": PythonFault(
        "the rollout names the users that a rule is about",
        _DASHBOARD + "parts.py",
        ((" and name.lower() not in NAMING", ""),),
    ),
    "RollbackWaitsForDisk": PythonFault(
        "a rollback of the dashboard is in force when the file has it, or never",
        _DASHBOARD + "actions.py",
        (("            engine.latch(flag, json.dumps(record))\n", "            pass\n"),),
    ),
    "AnswerOfWhoLeft": PythonFault(
        "an answer to a caller who left goes to the next one",
        _REDIS + "line.py",
        (
            (
                "            piece, at, _ = self._unanswered.popleft()\n",
                (
                    "            while len(self._unanswered) > 1 and self._unanswered[0][0].call.done:\n"
                    "                self._link.answered(self, *self._unanswered.popleft()[:2], None)\n"
                    "            piece, at, _ = self._unanswered.popleft()\n"
                ),
            ),
        ),
    ),
    "ConnectionMadeByItself": PythonFault(
        "a connection to Redis that was cut is made again by the client library",
        _REDIS + "line.py",
        (("    if not connection.is_connected:\n", "    if False:\n"),),
    ),
    "BusyLoopBlamesRedis": PythonFault(
        "calls that a busy loop was late with count as not answered by Redis",
        _REDIS + "call.py",
        (("        if left <= 0 and self._patience and (", "        if False and ("),),
    ),
    "CallsForRedisUnbounded": PythonFault(
        "any number of calls may wait for a Redis that does not answer",
        _REDIS + "link.py",
        (("if self.held >= MAX_CALLS or self.held_bytes + size > MAX_BYTES:", "if False:"),),
    ),
    "EachCallWaitsForDeadRedis": PythonFault(
        "each call waits for its deadline, though it is known that nobody answers",
        _REDIS + "line.py",
        (
            (
                '        if self.state == "down":\n            self._link.dropped(',
                "        if False:\n            self._link.dropped(",
            ),
        ),
    ),
    "DeadConnectionIsKept": PythonFault(
        "a connection whose other side is gone without a word is kept",
        _REDIS + "line.py",
        (("> STALL_SECONDS:", "> 3_600:"),),
    ),
    "LostHintsStayLost": PythonFault(
        "after a break nobody is told to look for what hints were lost about",
        _REDIS + "subscriber.py",
        (('            elif kind == b"subscribe":\n', "            elif False:\n"),),
    ),
    "CommandObeyedTwice": PythonFault(
        "a command of another worker that comes twice is obeyed twice",
        _CLUSTER + "plane.py",
        (("        if known_by in self._known:\n", "        if False:\n"),),
    ),
    "LostDataNotNoticed": PythonFault(
        "a Redis that lost its data is taken for the same",
        _CLUSTER + "plane.py",
        (("        if was and was != self._life:\n", "        if False:\n"),),
    ),
    "ChildUsesParentsConnection": PythonFault(
        "a forked child writes on its parent's connection to Redis",
        _CLUSTER + "plane.py",
        (
            (
                "        if self._started_in != os.getpid():\n            return PlaneUnavailableError(",
                "        if False:\n            return PlaneUnavailableError(",
            ),
        ),
    ),
    "PasswordOfRedisIsShown": PythonFault(
        "figures and logs have the password of Redis",
        _REDIS + "target.py",
        (("            return shown(self._held)\n", "            return self._held\n"),),
    ),
    "SecondWriterAppends": PythonFault(
        "a worker that does not have a run appends to its log on Redis",
        _SCRIPTS + "log_append.lua",
        (("elseif record and record.w ~= worker then", "elseif false then"),),
    ),
    "FormerLogComesBack": PythonFault(
        "a log that was closed by a peer takes the place of what closed it",
        _SCRIPTS + "log_append.lua",
        ((" or string.find(record.p, epoch, 1, true) then", " then"),),
    ),
    "GapIsStored": PythonFault(
        "what does not follow on what Redis has is appended",
        _SCRIPTS + "log_append.lua",
        (("  local older = record.h < tonumber(ARGV[10])", "  local older = false"),),
    ),
    "LateReaderGetsNoSnapshot": PythonFault(
        "who is behind the snapshot is given what comes after it, and nothing else",
        _SCRIPTS + "log_read.lua",
        (("if upto > position then", "if false then"),),
    ),
    "LiveRunIsClaimed": PythonFault(
        "a run is taken from a worker that says in time that it runs it",
        _SCRIPTS + "run_leases.lua",
        (("  if not held or tonumber(held) > now then return 0 end", "  if not held then return 0 end"),),
    ),
    "SealedForAnyPlace": PythonFault(
        "a sealed event may stand for another one of its user",
        _CLUSTER + "seal.py",
        (
            ("SanitizerCore.seal(self._key, place.encode(), value)", 'SanitizerCore.seal(self._key, b"", value)'),
            ("SanitizerCore.open(self._key, place.encode(), kept)", 'SanitizerCore.open(self._key, b"", kept)'),
        ),
    ),
    "CancelledArrivalStays": PythonFault(
        "a user whose socket was cancelled while it opened is followed for ever",
        _CLUSTER + "logs.py",
        (("                self.leave(user_id)\n                raise\n", "                raise\n"),),
    ),
    "HintsAreNeeded": PythonFault(
        "a worker that hears no hint does not look",
        _CLUSTER + "logs.py",
        (("guest.list_due = now + POLL_SECONDS *", "guest.list_due = now + 3600.0 *"),),
    ),
    "AdoptsAtOnce": PythonFault(
        "after Redis was away the first one back closes the runs of the others",
        _CLUSTER + "logs.py",
        (("time.monotonic() - self._up_since < self._lease:", "False:"),),
    ),
    "EmptiedStaysEmpty": PythonFault(
        "what a run has published is not put again into a Redis that lost it",
        _CLUSTER + "logs.py",
        (
            ("            plane.on_emptied(self._emptied)\n", ""),
            (
                "                    self._rewind(own)\n                elif own.ended",
                "                    pass\n                elif own.ended",
            ),
        ),
    ),
    "LogoutStaysHere": PythonFault(
        "a user who signs out stays signed in on other workers",
        _CLUSTER + "logouts.py",
        (("        self._close(user_id, session_id)", "        pass"),),
    ),
    "TicketOfRedisCountsTwice": PythonFault(
        "a ticket that a worker has redeemed counts on another one",
        _CLUSTER + "tickets.py",
        (("redis.call('DEL', KEYS[1])\n", ""),),
    ),
    "ReleaseStaysHere": PythonFault(
        "who is released on a worker stays in quarantine on the others",
        _CLUSTER + "quarantine.py",
        (("if self._quarantine.follow_release(user_id):", "if False:"),),
    ),
    "SharedCounterFalls": PythonFault(
        "a counter of all workers falls when one counts anew",
        _CLUSTER + "metrics.py",
        (("if last is not None and _count(value) < _count(last):", "if False:"),),
    ),
    "RestartCountsTwice": PythonFault(
        "what was counted before an application was started again counts twice",
        _CLUSTER + "tally.py",
        (("            self._note_taken(self._told[0])", "            pass"),),
    ),
    "SharedAfterTheEnd": PythonFault(
        "limiters of an application that has ended wait for leases that nobody asks for",
        f"{_CLUSTER}limits.py",
        (
            (
                "        self._is_stopped = True\n",
                "        for each in self._shared.values():\n            self._share(each)\n",
            ),
        ),
    ),
    "ZombieGoesOn": PythonFault(
        "a worker whose run was closed by a peer goes on with it",
        _CLUSTER + "logs.py",
        (("        replica.refused(own.key.run, own.key.epoch)\n", ""),),
    ),
}
"""By the names under which the table has them."""


def site_with(fault: PythonFault, site: Path, folder: Path) -> Path:
    """Lay out a copy of a site that has the fault; what is not changed is shared with the site."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(site, folder, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
    fault.apply(folder / "isolane")
    return folder
