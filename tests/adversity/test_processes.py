"""Other processes: what was made before a fork belongs to the parent; fresh objects work; contexts do not travel."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import isolane
import pytest
from isolane import UserContextFactory
from isolane._core import EventCursor, emitter_for_user

from tests.adversity.programs import run

MADE_BEFORE = """
import asyncio, gc, os, pickle, sys, threading
import isolane
from isolane import (
    ExecutionEngineFactory, FairLimiter, ForkedProcessError, UserContextFactory, UserExecutionContext,
    WebSocketBridgeFactory, default_limiter, lane_usage, set_default_limiter,
)
from isolane._core import (
    EngineBook, EventCursor, emitter_for_context, emitter_for_user, end_stream, stream_has_ended, user_streams,
)

USER = "ann-of-processes"
ctx = UserContextFactory.create_context(USER, agent_context={"rows": [1]})
child = ctx.create_child_context("below")
emitter = ctx.get_websocket_emitter()
emitter.notify_agent_started("data")
of_user = emitter_for_user(USER, "thread-7")
limiter = FairLimiter(2, 2)
permit = limiter.slot_nowait(USER)
nested = limiter.slot_nowait(USER, ctx=ctx)
process_limiter = default_limiter()
process_permit = process_limiter.slot_nowait(USER)
slot = limiter.slot(USER)
lock = ctx.acquire_execution_lock()
cursor = EventCursor(USER)
cursor.subscribe(ctx.run_id)
factory = ExecutionEngineFactory(limiter=limiter)
engine = asyncio.run(factory.create_for_user(UserContextFactory.create_context(USER)))
"""

IN_THE_CHILD = """
ALSO = {
    "ctx.register_cleanup_callback": lambda: ctx.register_cleanup_callback(print),
    "ctx.bind_session_factory": lambda: ctx.bind_session_factory(print),
    "ctx.add_child_run": lambda: ctx.add_child_run("run-7", "run-8"),
    "ctx.detach": lambda: ctx.detach(),
    "cursor.subscribe": lambda: cursor.subscribe(ctx.run_id),
    "cursor.handle": lambda: cursor.handle('{"t":"sub","s":"run-7"}'),
    "cursor.welcome": lambda: cursor.welcome(1),
    "cursor.ping": lambda: cursor.ping(),
    "permit.__exit__": lambda: permit.__exit__(None, None, None),
}

def refused(calls=None):
    calls = calls or {
        "ctx.create_child_context": lambda: ctx.create_child_context("op"),
        "child.create_child_context": lambda: child.create_child_context("op"),
        "ctx.with_db_session": lambda: ctx.with_db_session(object()),
        "ctx.with_websocket_connection": lambda: ctx.with_websocket_connection("ws-1"),
        "ctx.get_websocket_emitter": ctx.get_websocket_emitter,
        "ctx.verify_isolation": ctx.verify_isolation,
        "ctx.cleanup": ctx.cleanup,
        "ctx.record_run_start": ctx.record_run_start,
        "ctx.acquire_execution_lock": ctx.acquire_execution_lock,
        "ctx.record_run_success": lambda: ctx.record_run_success("run-7"),
        "ctx.get_database_session": ctx.get_database_session,
        "emitter.publish": lambda: emitter.publish("mine"),
        "emitter.notify": lambda: emitter.notify_agent_completed(1),
        "emitter.close_open": lambda: emitter.close_open("x"),
        "emitter.cleanup": emitter.cleanup,
        "of_user.publish": lambda: of_user.publish("mine", run_id="run-7"),
        "limiter.acquire": lambda: limiter.acquire(USER),
        "limiter.slot": lambda: limiter.slot(USER),
        "limiter.slot_nowait": lambda: limiter.slot_nowait(USER),
        "limiter.try_slot": lambda: limiter.try_slot(USER),
        "slot.__aenter__": slot.__aenter__,
        "lock.__aenter__": lock.__aenter__,
        "permit.release": permit.release,
        "nested.release": nested.release,
        "cursor.read": cursor.read,
        "cursor.read_asgi": cursor.read_asgi,
        "cursor.wait": cursor.wait,
        "end_stream": lambda: end_stream(ctx),
        "emitter_for_context": lambda: emitter_for_context(ctx),
        "set_default_limiter": lambda: set_default_limiter(limiter),
        "create_for_user": lambda: asyncio.run(factory.create_for_user(UserContextFactory.create_context(USER))),
        "execute_agent": lambda: asyncio.run(engine.execute_agent(Agent)),
    }
    allowed = []
    for name, call in calls.items():
        try:
            call()
        except ForkedProcessError as error:
            assert "before a fork" in str(error) and "Make a new one" in str(error)
        except Exception as error:
            if not isinstance(error.__cause__, ForkedProcessError):
                allowed.append(name)
        else:
            allowed.append(name)
    return allowed


class Agent(isolane.BaseAgent):
    async def execute_with_context(self, context, request):
        async with context.acquire_execution_lock():
            await context.get_websocket_emitter().notify_agent_thinking("hm")
        return os.getpid()


def fresh_objects_work():
    # The same user and the same run id: nothing of the parent's lane is here.
    assert lane_usage(USER) is None and user_streams(USER) == []
    fresh = UserContextFactory.create_context(USER, run_id=ctx.run_id)
    assert fresh.get_websocket_emitter().publish("mine") == 1
    reader = EventCursor(USER)
    reader.subscribe(fresh.run_id)
    assert len(reader.read()) == 2
    own = FairLimiter(1, 1)
    with own.slot_nowait(USER):
        assert own.try_slot(USER) is None
    assert default_limiter() is not process_limiter
    assert default_limiter().stats()["running"] == 0

    async def run():
        made = ExecutionEngineFactory()
        other = UserContextFactory.create_context(USER)
        async with made.user_execution_scope(other) as new:
            result = await new.execute_agent(Agent)
            assert result.success and result.result == os.getpid(), result
        assert await other.cleanup() == ()
        await made.shutdown()

    asyncio.run(run())


def everything_is_dropped():
    # Nothing is returned to the parent, and nothing crashes, in whatever order things go.
    for name in ("permit", "nested", "process_permit", "process_limiter", "engine", "factory", "slot", "lock", "cursor",
                 "emitter", "of_user", "child", "ctx", "limiter"):
        del globals()[name]
        gc.collect()


def child_main():
    fresh_objects_work()
    assert refused() == [], refused()
    everything_is_dropped()
"""

PARENT_AFTERWARDS = """
def parent_is_as_before():
    assert limiter.stats()["running"] == 2 and limiter.stats(USER)["running"] == 2
    assert process_limiter.stats()["running"] == 1
    assert permit.held and permit.release() and nested.release() and process_permit.release()
    assert limiter.stats()["running"] == 0 and process_limiter.stats()["running"] == 0
    assert factory.get_factory_metrics()["engines_active"] == 1
    asyncio.run(factory.shutdown(0))
    assert lane_usage(USER)["connections"] == 1
    assert emitter.notify_agent_completed(1) is not None
    texts = [text for text in cursor.read() if ctx.run_id in text]
    assert any("agent_completed" in text for text in texts)
    assert "mine" not in "".join(texts)
    assert asyncio.run(closed()) == ()

async def closed():
    return await ctx.cleanup()
"""


def test_a_child_of_os_fork_uses_nothing_of_its_parent() -> None:
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + PARENT_AFTERWARDS
        + """
pid = os.fork()
if not pid:
    try:
        child_main()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
parent_is_as_before()
"""
    )
    assert ended.code == 0, ended.err


def test_the_check_of_forks_finds_what_is_allowed() -> None:
    """The positive control: without the guard the same calls are allowed, and are named."""
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + """
allowed = refused()
assert "limiter.try_slot" in allowed and "emitter.publish" in allowed and "ctx.verify_isolation" in allowed, allowed
"""
    )
    assert ended.code == 0, ended.err


def test_more_that_a_child_must_not_use() -> None:
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + """
pid = os.fork()
if not pid:
    print(refused(ALSO), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    )
    assert ended.out.strip() == "[]"


def test_a_child_that_exits_by_itself_returns_nothing() -> None:
    """With the interpreter's whole end: destructors of what belongs to the parent run in the child."""
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + PARENT_AFTERWARDS
        + """
pid = os.fork()
if not pid:
    kept = fresh_objects_work()
    sys.exit(3)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 3, status
parent_is_as_before()
"""
    )
    assert ended.code == 0, ended.err


def test_a_fork_while_other_threads_work_hangs_nobody() -> None:
    """No lock of the core is held at the moment of a fork, whatever the other threads do."""
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + """
over = False
def work(number):
    own = UserContextFactory.create_context(f"{USER}-{number}")
    while not over:
        below = own.create_child_context("op")
        below.get_websocket_emitter().publish("mine", {"x": "y" * 500})
        held = limiter.try_slot(f"{USER}-{number}")
        EventCursor(f"{USER}-{number}").read()
        below.verify_isolation()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
try:
    for _ in range(25):
        pid = os.fork()
        if not pid:
            try:
                fresh_objects_work()
                assert refused() == []
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
finally:
    over = True
    for thread in threads:
        thread.join()
""",
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("generations", [1, 3])
def test_a_fork_of_a_fork(generations) -> None:
    ended = run(
        MADE_BEFORE
        + IN_THE_CHILD
        + f"""
def descend(left):
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        fresh_objects_work()
        assert refused() == []
        code = descend(left - 1) if left > 1 else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(code)

assert descend({generations}) == 0
assert permit.release()
"""
    )
    assert ended.code == 0, ended.err


MULTIPROCESSING = """
import multiprocessing, sys

def target(queue, user):
    import asyncio, os
    import isolane
    from isolane import ExecutionEngineFactory, FairLimiter, UserContextFactory
    from isolane._core import EventCursor

    class Agent(isolane.BaseAgent):
        async def execute_with_context(self, context, request):
            await context.get_websocket_emitter().notify_agent_thinking("hm")
            return request

    async def work():
        ctx = UserContextFactory.create_context(user)
        cursor = EventCursor(user)
        async with ExecutionEngineFactory(limiter=FairLimiter(1, 1)).user_execution_scope(ctx) as engine:
            assert (await engine.execute_agent(Agent, 7)).result == 7
        assert await ctx.cleanup() == ()
        assert any("agent_completed" in text for text in cursor.read())
        return isolane.UnifiedIDManager.generate_request_id()

    queue.put([asyncio.run(work()) for _ in range(50)])

if __name__ == "__main__":
    import isolane
    mine = [isolane.UserContextFactory.create_context("ann") for _ in range(10)]
    emitters = [ctx.get_websocket_emitter() for ctx in mine]
    context = multiprocessing.get_context({method!r})
    queue = context.Queue()
    processes = [context.Process(target=target, args=(queue, "ann")) for _ in range(2)]
    for process in processes:
        process.start()
    ids = [name for _ in processes for name in queue.get(timeout=50)]
    for process in processes:
        process.join(50)
        assert process.exitcode == 0, process.exitcode
    own = [isolane.UnifiedIDManager.generate_request_id() for _ in range(50)]
    assert len(set(ids + own)) == 150, "an id was made twice"
    assert [emitter.publish("mine") for emitter in emitters] == [1] * 10
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_of_every_kind_work(method, tmp_path) -> None:
    """`spawn` and `forkserver` import the main module again, so it has to be a file."""
    program = tmp_path / "workers.py"
    program.write_text(MULTIPROCESSING.replace("{method!r}", repr(method)), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_objects_do_not_travel_and_say_why(new_user) -> None:
    user = new_user()
    ctx = UserContextFactory.create_context(user, agent_context={"secret": "of-the-user"})
    with pytest.raises(TypeError, match=r"cannot be pickled.*to_dict\(\)") as caught:
        pickle.dumps(ctx)
    assert "of-the-user" not in str(caught.value)
    with pytest.raises(TypeError, match=r"cannot be deep-copied.*create_child_context"):
        copy.deepcopy(ctx)
    limiter = isolane.FairLimiter()
    things = [limiter, limiter.slot(user), limiter.slot_nowait(user), EventCursor(user), ctx.get_websocket_emitter()]
    for thing in [*things, emitter_for_user(user, "thread-7")]:
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(thing)
    # What describes a context does.
    assert pickle.loads(pickle.dumps(ctx.to_dict())) == ctx.to_dict()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_context_given_to_a_worker_is_refused_before_it_leaves(method) -> None:
    ended = run(
        f"""
        import multiprocessing
        import isolane
        ctx = isolane.UserContextFactory.create_context("ann")
        pool = multiprocessing.get_context({method!r}).Pool(1) if {method!r} == "fork" else None
        try:
            if pool:
                pool.apply(print, (ctx,))
            else:
                multiprocessing.get_context("spawn").Process(target=print, args=(ctx,)).start()
        except TypeError as error:
            assert "cannot be pickled" in str(error), error
        else:
            raise SystemExit("it was sent")
        finally:
            if pool:
                pool.close()
                pool.join()
        """,
        options=("-W", "ignore"),
    )
    assert ended.code == 0, ended.err
