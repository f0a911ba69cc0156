"""Publishers in many threads, while clients read."""

from __future__ import annotations

import asyncio
import threading
import time

from isolane import RunClosed

from tests.faults.site import ended, settled

THREADS = 16
EACH = 150


async def test_sixteen_threads_publish_into_one_run_and_into_runs_of_their_own(proxied) -> None:
    """Whoever had published before another began has the smaller number; nobody's number is somebody else's."""
    site, proxy = proxied
    proxy.chop(700)
    shared = site.run("threads", max_events=10_000, max_run_bytes=4 << 20, max_user_bytes=64 << 20)
    own = [site.run(f"threads-{at}") for at in range(THREADS)]
    tabs = [site.client("threads", "a"), site.client("threads", "b", port=proxy.port)]
    tabs += [site.client(recorder.user, port=proxy.port) for recorder in own]
    runs = {recorder.user: recorder.stream.run for recorder in (*own, shared)}
    following = [asyncio.create_task(tab.follow(ended(runs[tab.user]), seconds=60)) for tab in tabs]
    barrier = threading.Barrier(THREADS)

    def publish(at: int) -> None:
        barrier.wait(20)
        own[at].started()
        for step in range(EACH):
            shared.publish("note", {"thread": at, "step": step})
            own[at].thinking(f"step {step}")
        own[at].completed()

    threads = [threading.Thread(target=publish, args=(at,), daemon=True) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    await settled(lambda: not any(thread.is_alive() for thread in threads), 40)
    for recorder in (shared, *own):
        site.end(recorder)
    await asyncio.gather(*following)
    for tab in tabs:
        await tab.close()
    totals = site.history.check()
    assert shared.stream.head == THREADS * EACH
    assert totals["delivered"] == 2 * THREADS * EACH + THREADS * (EACH + 2)
    for tab in tabs[:2]:
        for at in range(THREADS):
            steps = [each["payload"] for each in tab.messages[shared.stream.run] if each["payload"]["thread"] == at]
            assert [step["step"] for step in steps] == list(range(EACH))


async def test_a_stream_that_ends_while_threads_publish_takes_nothing_after_its_end(proxied) -> None:
    """Each publisher has a number, which every client sees, or is told that the run is closed."""
    site, proxy = proxied
    for attempt in range(5):
        recorder = site.run(f"ends-{attempt}", max_events=100_000, max_run_bytes=64 << 20, max_user_bytes=64 << 20)
        tabs = [site.client(recorder.user, "a"), site.client(recorder.user, "b", port=proxy.port)]
        following = [asyncio.create_task(tab.follow(ended(recorder.stream.run))) for tab in tabs]
        barrier = threading.Barrier(5)
        closed = []

        def publish(recorder=recorder, barrier=barrier, closed=closed) -> None:
            barrier.wait(20)
            try:
                for step in range(20_000):
                    recorder.publish("note", {})
                    time.sleep(0.0005 if step > 50 else 0)
            except RunClosed as error:
                closed.append(error)

        threads = [threading.Thread(target=publish, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        barrier.wait(20)
        await asyncio.sleep(0.01 * attempt)
        site.end(recorder)
        await settled(lambda threads=threads: not any(thread.is_alive() for thread in threads))
        assert len(closed) == 4
        await asyncio.gather(*following)
        for tab in tabs:
            await tab.close()
    site.history.check()
