"""Puts users on an example that runs: `python -m examples.optimizer.load --url http://127.0.0.1:8000`."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections import Counter

import httpx

from examples.optimizer.load.plan import Plan, user_names
from examples.optimizer.load.user import SyntheticUser

_HTTP_SECONDS = 60.0


def main() -> int:
    """Keep the users busy until interrupted, or for so many seconds."""
    options = _parse_options()
    counts: Counter[str] = Counter()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_users(options, counts))
    # Whoever read along may have gone first.
    with contextlib.suppress(BrokenPipeError):
        print(_summary(counts), flush=True)
    return 0


async def _serve_users(options: argparse.Namespace, counts: Counter[str]) -> None:
    limits = httpx.Limits(max_connections=options.users + 1, max_keepalive_connections=options.users + 1)
    async with httpx.AsyncClient(base_url=options.url, timeout=_HTTP_SECONDS, limits=limits) as client:
        tasks = [
            asyncio.create_task(SyntheticUser(Plan(name, options.pace, options.trouble), client, counts).live())
            for name in user_names(options.users)
        ]
        tasks.append(asyncio.create_task(_tell(counts, options.tell)))
        if options.until_closed:
            tasks.append(asyncio.create_task(_input_closed()))
        # None of them ends by itself but the one that waits for the parent, and one that is broken.
        done, _ = await asyncio.wait(tasks, timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


async def _input_closed() -> None:
    """Wait until whoever has started this is gone: then its end of the pipe is, too."""
    closed = asyncio.Event()

    def look() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            closed.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), look)
    try:
        await closed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _tell(counts: Counter[str], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        print(_summary(counts), flush=True)


def _summary(counts: Counter[str]) -> str:
    told = ", ".join(f"{count} {what}" for what, count in counts.most_common())
    return f"load: {told or 'no run has ended yet'}"


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.optimizer.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the example runs (default: %(default)s)")
    parser.add_argument("--users", type=int, default=36, help="how many users (default: %(default)s)")
    parser.add_argument(
        "--pace", type=float, default=10.0, help="seconds from one run of a user to the next (default: %(default)s)"
    )
    parser.add_argument(
        "--trouble",
        type=float,
        default=0.05,
        help="share of runs that fail, are cancelled or are too many at once (default: %(default)s)",
    )
    parser.add_argument("--seconds", type=float, help="stop after so long (default: never)")
    parser.add_argument("--tell", type=float, default=60.0, help="seconds between two summaries (default: %(default)s)")
    parser.add_argument("--until-closed", action="store_true", help="stop when standard input is closed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
