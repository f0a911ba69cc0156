"""``isolane rollout``: look at the flags and change them, in a file or on the Redis that workers share.

Exit codes: 0 done; 1 refused: the flag is unknown, off or rolled back; 2 wrong arguments; 3 the file, or the audit log,
cannot be read, written or locked, or is no valid document. With 1 and 3 nothing was changed, unless the text says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isolane._core import FlagConfigError, FlagEngine
from isolane.migration.flags.sources.edits import percent_of
from isolane.migration.flags.sources.environment import FILE_VARIABLE
from isolane.migration.flags.sources.errors import FlagChangeRefusedError, FlagFileError
from isolane.migration.flags.sources.history import FlagChange
from isolane.migration.flags.sources.reading import as_json
from isolane.migration.flags.sources.writer import LOCK_SECONDS, DocumentWriter, FlagWriter
from isolane.migration.flags.status import as_text, condition_of, plain, rollout_status
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, SecurityEvent, Severity

if TYPE_CHECKING:
    from isolane.security.audit import AuditLogger

REFUSED = 1
UNUSABLE = 3

AUDIT_VARIABLE = "ISOLANE_AUDIT_DIR"
SHARED_VARIABLE = "ISOLANE_FLAGS_SHARED"
REDIS_VARIABLE = "ISOLANE_REDIS_URL"
PREFIX_VARIABLE = "ISOLANE_REDIS_PREFIX"
SEVERITIES = {
    "set": Severity.INFO,
    "kill": Severity.CRITICAL,
    "rollback": Severity.HIGH,
    "resume": Severity.WARNING,
}


def _actor() -> str:
    """Who the operating system says it is; not the environment, in which anybody may write anything."""
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _condition(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name.strip() and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no condition such as tier=enterprise")
    return name.strip(), value.strip()


def _is_shared(options: argparse.Namespace) -> bool:
    """Whether the flags lie on Redis: because it was said, or because the workers are configured so."""
    configured = os.environ.get(SHARED_VARIABLE, "").strip().lower() in {"1", "true", "t", "yes", "y", "on"}
    return options.redis is not None or (options.file is None and configured)


def _writer(options: argparse.Namespace) -> DocumentWriter:
    if _is_shared(options):
        url = options.redis or os.environ.get(REDIS_VARIABLE, "")
        if not url:
            raise FlagFileError(
                "no Redis", "neither --redis nor the variable names one", f"set {REDIS_VARIABLE}, or give --redis URL"
            )
        return _on_redis(url, options.redis_prefix)
    if options.file is None and os.environ.get(FILE_VARIABLE):
        options.file = Path(os.environ[FILE_VARIABLE])
    if options.file is None:
        raise FlagFileError(
            "no file of flags", "neither --file nor the variable names one", f"set {FILE_VARIABLE}, or give --file FILE"
        )
    return FlagWriter(options.file, lock_seconds=LOCK_SECONDS)


def _on_redis(url: str, prefix: str) -> DocumentWriter:
    # Only here: a file needs neither.
    from isolane.cluster.flags import SharedFlagWriter, UrlFlagStore  # noqa: PLC0415
    from isolane.cluster.redis import check_url  # noqa: PLC0415

    return SharedFlagWriter(UrlFlagStore(check_url(url), prefix))


@contextlib.contextmanager
def _audit(options: argparse.Namespace) -> Iterator[AuditLogger | None]:
    """The audit log, when one is configured, open for the length of a block."""
    if options.audit is None:
        yield None
        return
    from isolane.security.audit import AuditLogger, EncryptedAuditStorage, EnvKey, FileKey  # noqa: PLC0415

    key = FileKey(options.key_file) if options.key_file else EnvKey(options.key_env or "ISOLANE_AUDIT_KEY")
    logger = AuditLogger(EncryptedAuditStorage(options.audit, key), durability="fsync")
    try:
        yield logger
    finally:
        logger.close()


def _write(options: argparse.Namespace, change: Callable[[DocumentWriter], FlagChange]) -> int:
    """Open the audit log, change the flags, and record it. A log that cannot be opened keeps them from changing."""
    writer = _writer(options)
    with _audit(options) as audit:
        done = change(writer)
        _show(options, writer, done)
        return _record(audit, done)


def _write_at_once(options: argparse.Namespace, change: Callable[[DocumentWriter], FlagChange]) -> int:
    """Change the file, whatever the audit log says, and record it then."""
    writer = _writer(options)
    done = change(writer)
    _show(options, writer, done)
    try:
        with _audit(options) as audit:
            return _record(audit, done)
    except (RuntimeError, OSError, ValueError) as error:
        return _unrecorded(error)


def _record(audit: AuditLogger | None, change: FlagChange) -> int:
    if audit is None:
        return 0
    try:
        audit.record(
            SecurityEvent(
                name=f"rollout_{change.action}",
                audit_class=AuditClass.ADMIN,
                severity=SEVERITIES[change.action],
                data=change.to_dict(),
            )
        )
    except AuditUnavailableError as error:
        return _unrecorded(error)
    return 0


def _unrecorded(error: Exception) -> int:
    sys.stderr.write(f"The change was made, but it is not in the audit log: {plain(error)}\n")
    return UNUSABLE


def _show(options: argparse.Namespace, writer: DocumentWriter, change: FlagChange) -> None:
    if options.json:
        _print_json(change.to_dict() | {"file": str(writer.path)})
        return
    what = f"{change.flag}: {change.summary}" if change.flag else change.summary
    sys.stdout.write(f"{plain(what)}\nrevision {change.revision} of {plain(writer.path)}\n")


def _print_json(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value, default=str)}\n")


def _set(options: argparse.Namespace) -> int:
    done = _write(
        options,
        lambda writer: writer.set_rollout(
            options.flag,
            options.percent,
            actor=options.actor,
            reason=options.reason,
            when=options.when,
            create=options.create,
            turn_on=options.on,
        ),
    )
    if options.when is None:
        _tell_of_rules(options)
    return done


def _tell_of_rules(options: argparse.Namespace) -> None:
    """A rollout of 0 does not take a flag from whom a rule gives it."""
    document = _writer(options).read().document
    held = document["flags"].get(options.flag, {})
    for rule in held.get("rules", []):
        share = percent_of(rule["rollout"])
        sys.stderr.write(f"By a rule that was not changed: {share} of users with {plain(condition_of(rule))}.\n")
    if document.get("kill_switch") is True:
        sys.stderr.write("The kill switch is on: nobody has any flag until `isolane rollout resume`.\n")


def _kill(options: argparse.Namespace) -> int:
    if options.flag is None:
        return _write_at_once(options, lambda writer: writer.kill(actor=options.actor, reason=options.reason))
    return _write_at_once(
        options,
        lambda writer: writer.roll_back(
            options.flag, {}, actor=options.actor, reason=options.reason, create=options.create
        ),
    )


def _resume(options: argparse.Namespace) -> int:
    if options.flag is None:
        return _write(options, lambda writer: writer.unkill(ack=options.ack, actor=options.actor))
    return _write(options, lambda writer: writer.resume(options.flag, ack=options.ack, actor=options.actor))


def _status(options: argparse.Namespace) -> int:
    writer = _writer(options)
    held = writer.read()
    FlagEngine.check(as_json(writer.path, held.document))
    status = rollout_status(writer.path, held)
    if options.json:
        _print_json(status)
    else:
        sys.stdout.write(as_text(status))
    return 0


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``rollout`` and what is below it."""
    rollout = commands.add_parser("rollout", help="look at the flags and change them, in a file or on Redis")
    below = rollout.add_subparsers(dest="rollout_command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = below.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--file", type=Path, default=None, help=f"the file ({FILE_VARIABLE})")
        where.add_argument(
            "--redis",
            metavar="URL",
            nargs="?",
            const="",
            default=None,
            help=f"the flags that workers share there ({REDIS_VARIABLE}; without this with {SHARED_VARIABLE})",
        )
        prefix = os.environ.get(PREFIX_VARIABLE) or "isolane"
        parser.add_argument(
            "--redis-prefix", metavar="NAME", default=prefix, help=f"what keys begin with ({PREFIX_VARIABLE})"
        )
        parser.add_argument("--json", action="store_true", help="print one line of JSON")
        return parser

    def add_writing(parser: argparse.ArgumentParser, *, acknowledged: bool = False) -> None:
        if acknowledged:
            parser.add_argument("--ack", type=_text, required=True, help="what was found, such as INC-123")
            parser.add_argument("--actor", type=_text, required=True, help="who has found it")
        else:
            parser.add_argument("--actor", type=_text, default=_actor(), help="who changes it (the user of the system)")
            parser.add_argument("--reason", default="", help="why, for the history")
        audit = os.environ.get(AUDIT_VARIABLE) or None
        parser.add_argument(
            "--audit",
            metavar="DIR",
            type=Path,
            default=Path(audit) if audit else None,
            help=f"record it in this audit log as well, which must not be open elsewhere ({AUDIT_VARIABLE})",
        )
        keys = parser.add_mutually_exclusive_group()
        keys.add_argument("--key-env", metavar="NAME", help="variable with the log's key of keys (ISOLANE_AUDIT_KEY)")
        keys.add_argument("--key-file", metavar="FILE", type=Path, help="file with it, mode 0600")

    add("status", _status, "print each flag: its share of users, rules, roll-back, and who changed it last")

    share = add("set", _set, "let a share of the users have a flag")
    share.add_argument("flag", type=_text, help="such as modern_execution")
    share.add_argument("percent", help="from 0 to 100, with at most three decimals")
    share.add_argument(
        "--if",
        dest="when",
        metavar="NAME=VALUE",
        type=_condition,
        help="the share of users with this attribute alone, such as tier=enterprise",
    )
    share.add_argument("--create", action="store_true", help="add the flag, and the file, if they are not there")
    share.add_argument("--on", action="store_true", help="also if the flag's state is off")
    add_writing(share)

    kill = add("kill", _kill, "take a flag from everybody until it is resumed; without a flag: all flags")
    kill.add_argument("flag", nargs="?", type=_text, help="which; default: the kill switch of all")
    kill.add_argument("--create", action="store_true", help="also a flag that the environment has, and not the file")
    add_writing(kill)

    resume = add("resume", _resume, "let a flag go on that was rolled back; without a flag: turn the kill switch off")
    resume.add_argument("flag", nargs="?", type=_text, help="which; default: the kill switch of all")
    add_writing(resume, acknowledged=True)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        command: Callable[[Any], int] = options.run
        return command(options)
    except FlagChangeRefusedError as error:
        sys.stderr.write(f"{plain(error)}\n")
        return REFUSED
    except (FlagConfigError, ImportError, RuntimeError, OSError, ValueError) as error:
        sys.stderr.write(f"{plain(error)}\n")
        return UNUSABLE
