"""Checks the example end to end: `python -m examples.optimizer.check`."""

import argparse
import asyncio
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import httpx

from examples.optimizer.app import create_app
from examples.optimizer.check.judge import Expectation, judge
from examples.optimizer.check.logs import make_log, nonce_model
from examples.optimizer.check.servers import worker_processes
from examples.optimizer.check.transcript import transcript
from examples.optimizer.check.user import CheckUser
from examples.optimizer.serving import running
from examples.optimizer.shared_redis import NoRedisError

_NAMES = ("alice", "bob")
_SHOWN_PROBLEMS = 20
_HTTP_SECONDS = 60.0


def main() -> int:
    """Run the check and give the exit code."""
    options = _parse_options()
    # Whoever ends the check ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with _servers(options) as urls:
            mode = "legacy" if options.legacy else "isolated"
            print(f"Two users at once on the {mode} path, {options.rows:,} rows each, {', '.join(urls)}\n", flush=True)
            problems = asyncio.run(_check(urls, rows=options.rows, legacy=options.legacy))
    except NoRedisError as error:
        print(error, file=sys.stderr)
        return 1
    if problems:
        print(f"FAILED: {problems} problem(s)")
        return 1
    print("PASSED: each user received every event of the own run, once and in order, and nothing else")
    return 0


@contextmanager
def _servers(options: argparse.Namespace) -> Iterator[list[str]]:
    """What is checked: an application that runs, one that is started here, or several workers."""
    if options.url:
        yield options.url
    elif options.workers > 1:
        with worker_processes(options.workers) as urls:
            yield urls
    else:
        with running(create_app(legacy=options.legacy)) as url:
            yield [url]


async def _check(urls: Sequence[str], *, rows: int, legacy: bool) -> int:
    """Run both users at the same time and print what came of it; gives the number of problems."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=_HTTP_SECONDS)) for url in urls
        ]
        nonces = [f"{name}-{secrets.token_hex(3)}" for name in _NAMES]
        users = [
            await CheckUser.sign_in(nonce, clients, legacy=legacy, first=number % len(clients))
            for number, nonce in enumerate(nonces)
        ]
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
        if len(urls) > 1 and len(set(user.sockets)) < 2:
            problems.append(f"unproven: the socket of {user.name} stayed with one worker")
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
    if len(user.sockets) > 1:
        print(f"  the socket was with {', then '.join(user.sockets)}")
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
    parser.add_argument(
        "--url", action="append", help="check an application that runs already; again for another worker of it"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="check so many processes, which share a Redis: sockets, runs and questions go to different ones",
    )
    options = parser.parse_args()
    if options.legacy and (options.workers > 1 or len(options.url or ()) > 1):
        parser.error("the legacy path is one engine in one process")
    return options


if __name__ == "__main__":
    sys.exit(main())
