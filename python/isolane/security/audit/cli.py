"""``isolane audit``: look at an audit log, prove it, erase a user, wrap its keys anew.

Exit codes: 0 all is well; 1 the log is not what was written; 2 wrong arguments; 3 it cannot be read, written or opened.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from isolane.security.audit.errors import AuditKeyError, AuditLogError, AuditTamperError
from isolane.security.audit.keys import EnvKey, FileKey, KeyProvider
from isolane.security.audit.logger import AuditLogger
from isolane.security.audit.records import TimeRange
from isolane.security.audit.report import security_report
from isolane.security.audit.storage import EncryptedAuditStorage
from isolane.security.errors import AuditUnavailableError

ALTERED = 1
UNUSABLE = 3

DEFAULT_VARIABLE = "ISOLANE_AUDIT_KEY"
AGES = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime(2500, 1, 1, tzinfo=UTC)


def _moment(text: str) -> datetime:
    """Read ISO 8601; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2026-11-22 or 2026-11-22T08:00:00+01:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _provider(variable: str | None, file: Path | None) -> KeyProvider | None:
    if file is not None:
        return FileKey(file)
    if variable is not None:
        return EnvKey(variable)
    return EnvKey(DEFAULT_VARIABLE) if DEFAULT_VARIABLE in os.environ else None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("say why: the record is all that is left")
    return text


def _storage(options: argparse.Namespace) -> EncryptedAuditStorage:
    # A logger makes a log where there is none: nobody is erased, and no key changed, in one that was just made.
    if not (options.directory / "keys").exists() and not any(options.directory.glob("chain-*")):
        raise AuditLogError(f"there is no audit log in {options.directory}; name the folder of EncryptedAuditStorage")
    return EncryptedAuditStorage(options.directory, _provider(options.key_env, options.key_file))


def _existing(options: argparse.Namespace) -> EncryptedAuditStorage:
    """The log, when there is one: what is to be changed in it must not be made first."""
    storage = _storage(options)
    if not storage.exists():
        raise AuditLogError(f"there is no log in {options.directory}")
    return storage


def _say(value: object) -> None:
    """One line of JSON in ASCII: nothing in it reaches the terminal as anything but text."""
    sys.stdout.write(f"{json.dumps(value, default=str)}\n")


def _verify(options: argparse.Namespace) -> int:
    note = options.checkpoint.read_text(encoding="utf-8") if options.checkpoint else None
    verifier = options.verifier.read_text(encoding="utf-8") if options.verifier else None
    storage = _storage(options)
    found = storage.verify(checkpoint=note, verifier=verifier)
    _say(asdict(found))
    if storage.keys is None:
        sys.stderr.write(
            "Without the key no record was opened: a record under the key of another user was not looked for.\n"
        )
    if note is None:
        sys.stderr.write(
            "Without a checkpoint from elsewhere, a log that was cut back with its checkpoints is not found.\n"
        )
    if found.ok and found.signed < found.records:
        sys.stderr.write(
            f"The last records are under no checkpoint yet: {found.records - found.signed} of {found.records}.\n"
        )
    if found.ok:
        return 0
    for chain, seq, problem in found.altered:
        sys.stderr.write(f"ALTERED: chain {chain}, first bad record {seq}: {problem}\n")
    return ALTERED


def _inspect(options: argparse.Namespace) -> int:
    wanted = TimeRange(options.start, options.end)
    records = _existing(options).records(wanted, user_id=options.user)
    for record in itertools.islice(records, options.limit):
        _say(asdict(record) | {"recorded_at": record.recorded_at.isoformat()})
    return 0


def _prove(options: argparse.Namespace) -> int:
    proved = _storage(options).prove(options.seq, chain=options.chain)
    if proved is None:
        sys.stderr.write(
            f"No checkpoint covers a record {options.seq} of chain {options.chain}: there is none, or it is newer than "
            "the last checkpoint.\n"
        )
        return UNUSABLE
    hashes = {
        "leaf": base64.b64encode(proved.leaf).decode(),
        "proof": [base64.b64encode(each).decode() for each in proved.proof],
    }
    _say(asdict(proved) | hashes)
    return 0


def _shred(options: argparse.Namespace) -> int:
    storage = _existing(options)
    user = sys.stdin.readline().rstrip("\r\n") if options.user == "-" else options.user
    if not user:
        raise ValueError("the id of the user is empty: nothing was erased")

    async def shred() -> int:
        async with AuditLogger(storage) as logger:
            return await logger.shred_user(user, options.reason, legal_hold=options.legal_hold)

    destroyed = asyncio.run(shred())
    _say({"keys_destroyed": destroyed, "held": options.legal_hold})
    if not destroyed and not options.legal_hold:
        sys.stderr.write(
            "No key of this user was found: nothing was recorded of this id, or it was erased before. Check the id.\n"
        )
    return 0


def _rotate(options: argparse.Namespace) -> int:
    storage = _existing(options)
    provider = _provider(options.new_key_env, options.new_key_file)
    storage = _storage(options)
    if storage.key() == provider.key():  # type: ignore[union-attr] # the parser requires one
        raise AuditKeyError("the new key is the former one; make another with `openssl rand -base64 32`")

    async def rotate() -> None:
        async with AuditLogger(storage) as logger:
            await logger.rotate_kek(provider)  # type: ignore[arg-type] # the parser requires one

    asyncio.run(rotate())
    _say({"rotated": True})
    return 0


def _report(options: argparse.Namespace) -> int:
    report = security_report(_storage(options), TimeRange(options.start, options.end))
    _say(report.as_dict())
    return 0 if report.verification.ok else ALTERED


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``audit`` and what is below it."""
    audit = commands.add_parser("audit", help="look at an audit log, prove it, erase a user, wrap its keys anew")
    below = audit.add_subparsers(dest="audit_command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = below.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        parser.add_argument("directory", type=Path, help="the log's directory")
        keys = parser.add_mutually_exclusive_group()
        keys.add_argument(
            "--key-env", metavar="NAME", help=f"variable with the key of keys ({DEFAULT_VARIABLE} if it is set)"
        )
        keys.add_argument("--key-file", metavar="FILE", type=Path, help="file with it, mode 0600")
        return parser

    def add_times(parser: argparse.ArgumentParser, start: datetime, end: datetime) -> None:
        parser.add_argument(
            "--from", dest="start", type=_moment, default=start, metavar="TIME", help="ISO 8601, UTC by default"
        )
        parser.add_argument(
            "--to", dest="end", type=_moment, default=end, metavar="TIME", help="the moment after the last"
        )

    verify = add("verify", _verify, "verify every record; exit 1 and name the first bad one if the log was altered")
    verify.add_argument("--checkpoint", metavar="FILE", type=Path, help="a checkpoint that was kept elsewhere")
    verify.add_argument("--verifier", metavar="FILE", type=Path, help="the verifier key that was kept elsewhere")

    inspect = add("inspect", _inspect, "print records, one line of JSON each")
    add_times(inspect, AGES, NEVER)
    inspect.add_argument("--user", metavar="ID", help="records of this user alone")
    inspect.add_argument("--limit", type=_count, metavar="N", help="at most so many")

    prove = add("prove", _prove, "prove that a record is in the log")
    prove.add_argument("seq", type=_count, help="the record's number")
    prove.add_argument("--chain", type=_count, default=1, help="the chain's number (1)")

    shred = add("shred-user", _shred, "destroy the keys of a user; the log must not be open elsewhere")
    shred.add_argument(
        "user", help="the user's id; - reads it from standard input, where no list of processes shows it"
    )
    shred.add_argument("--reason", type=_reason, required=True, help="why, for the record; it must not name the user")
    shred.add_argument("--legal-hold", action="store_true", help="destroy nothing, and record that")

    rotate = add("rotate-key", _rotate, "wrap all keys with another key of keys; the log must not be open elsewhere")
    new = rotate.add_mutually_exclusive_group(required=True)
    new.add_argument("--new-key-env", metavar="NAME", help="variable with the new key of keys")
    new.add_argument("--new-key-file", metavar="FILE", type=Path, help="file with it, mode 0600")

    now = datetime.now(UTC)
    report = add(
        "report", _report, "say what was recorded in a time (the last 24 hours); exit 1 if the log was altered"
    )
    add_times(report, now - timedelta(days=1), now)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        command: Callable[[Any], int] = options.run
        return command(options)
    except AuditTamperError as error:
        sys.stderr.write(f"ALTERED: chain {error.chain}, first bad record {error.seq}: {error}\n")
        return ALTERED
    except (AuditLogError, AuditUnavailableError, OSError, UnicodeDecodeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return UNUSABLE
