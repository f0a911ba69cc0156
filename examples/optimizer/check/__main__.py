"""Checks the example end to end: `python -m examples.optimizer.check`."""

import argparse
import asyncio
import secrets
import sys
from contextlib import AsyncExitStack, nullcontext

import httpx

from examples.optimizer.app import create_app
from examples.optimizer.check.judge import Expectation, judge
from examples.optimizer.check.logs import make_log, nonce_model
from examples.optimizer.check.transcript import transcript
from examples.optimizer.check.user import CheckUser
from examples.optimizer.serving import running

_NAMES = ("alice", "bob")
_SHOWN_PROBLEMS = 20
_HTTP_SECONDS = 60.0


def main() -> int:
    """Run the check and give the exit code."""
    options = _parse_options()
    server = nullcontext(options.url) if options.url else running(create_app(legacy=options.legacy))
    with server as url:
        mode = "legacy" if options.legacy else "isolated"
        print(f"Two users at once on the {mode} path, {options.rows:,} rows each, {url}\n")
        problems = asyncio.run(_check(url, rows=options.rows, legacy=options.legacy))
    if problems:
        print(f"FAILED: {problems} problem(s)")
        return 1
    print("PASSED: each user received every event of the own run, once and in order, and nothing else")
    return 0


async def _check(url: str, *, rows: int, legacy: bool) -> int:
    """Run both users at the same time and print what came of it; gives the number of problems."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=_HTTP_SECONDS))
        nonces = [f"{name}-{secrets.token_hex(3)}" for name in _NAMES]
        users = [await CheckUser.sign_in(nonce, client, legacy=legacy) for nonce in nonces]
        await users[0].set_mode("legacy" if legacy else "isolated")
        listeners = [asyncio.create_task(user.listen()) for user in users]
        await asyncio.gather(*(user.ready() for user in users))
        uploads = [
            await user.upload(make_log(nonce, rows), f"{nonce}.csv") for user, nonce in zip(users, nonces, strict=True)
        ]
        states = await asyncio.gather(*(user.run(upload_id) for user, upload_id in zip(users, uploads, strict=True)))
        reports = [await user.report(user.run_id) for user in users]
        stolen = [await users[1].report(users[0].run_id), await users[0].report(users[1].run_id)]
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    found = 0
    for index, user in enumerate(users):
        other = users[1 - index]
        foreign_marks = (nonces[1 - index], other.run_id)
        problems = judge(user.inbox, Expectation(user.run_id, foreign_marks, streams_end=not legacy))
        problems += _judge_report(reports[index], nonces[index], nonces[1 - index])
        if states[index] != "completed":
            problems.append(f"failed: the run's state is {states[index]}")
        if stolen[1 - index] is not None:
            problems.append(f"foreign report: {user.name} can read the report of {other.name}")
        _print_user(user, problems)
        found += len(problems)
    return found


def _judge_report(report: str | None, own_nonce: str, foreign_nonce: str) -> list[str]:
    if report is None:
        return ["missing: there is no report"]
    text = report.replace("\\", "")
    problems = []
    if nonce_model(own_nonce) not in text:
        problems.append("missing: the report does not name the user's own model")
    if foreign_nonce in text:
        problems.append(f"foreign data: the report names {foreign_nonce}")
    return problems


def _print_user(user: CheckUser, problems: list[str]) -> None:
    entries = list(user.inbox.entries())
    own = sum(entry.message.get("run_id") == user.run_id for entry in entries)
    print(f"{user.name}, run {user.run_id}: {own} own events, {len(entries) - own} foreign")
    for line in transcript(user.inbox, user.run_id):
        print(line)
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(f"  PROBLEM {problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"  PROBLEM and {len(problems) - _SHOWN_PROBLEMS} more")
    print()


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.optimizer.check", description=__doc__)
    parser.add_argument("--legacy", action="store_true", help="check the leaking singleton path, which has to fail")
    parser.add_argument("--rows", type=int, default=200, help="rows of each user's log (default: %(default)s)")
    parser.add_argument("--url", help="check an application that runs already (default: start one)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
