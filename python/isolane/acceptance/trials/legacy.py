"""Older clients: they connect as they always did, and find in each message what they look for."""

from __future__ import annotations

from dataclasses import replace

from isolane.acceptance.executor import transcripts
from isolane.acceptance.records import Transcript
from isolane.acceptance.results import TestResult
from isolane.acceptance.trials import Bench
from isolane.acceptance.trials.websocket import judge_events


async def legacy_compatibility(bench: Bench, result: TestResult) -> None:
    """Have users with older clients run at the same time, and look for the keys that those clients read."""
    if bench.target.capabilities.legacy:
        result.skipped = bench.target.capabilities.legacy
        return
    async with bench.executor.users(min(3, bench.load.users), "legacy", connected=False) as users:
        for session in users:
            await session.connect(legacy=True)
        bench.executor.note_runs(await bench.executor.together(users), users, result)
        received = transcripts(users)
    for transcript in received:
        result.add_check("messages read as an older client does", len(bench.target.shape.events(transcript)))
        for problem in bench.target.legacy_faults(transcript):
            result.add_failure(problem)
    judge_events(received, bench.target.shape, result)
    bench.isolation.judge(received, result)
    planted = _without_keys(received[0]) if received else None
    seen = planted is not None and bool(bench.target.legacy_faults(planted))
    result.add_control("a message without the keys that older clients read", seen=seen)
    result.set_success("older clients received what they read")


def _without_keys(transcript: Transcript) -> Transcript:
    copy = transcript.copy()
    for number, receipt in enumerate(copy.receipts):
        value = receipt.value
        if receipt.channel in {"frame", "stream"} and isinstance(value, dict):
            copy.receipts[number] = replace(receipt, data='{"type": "agent_started"}')
    return copy
