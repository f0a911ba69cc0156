"""The pytest plugin in projects of its users: each is written to a folder, where a pytest of its own runs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import types
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import isolane_pytest
import pytest


@dataclass
class Outcome:
    outcomes: dict[str, str]
    output: str
    texts: dict[str, str]


AUTO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function"


def run(
    folder: Path, test: str, *arguments: str, ini: str = AUTO, environment: dict[str, str] | None = None
) -> Outcome:
    (folder / "test_it.py").write_text(textwrap.dedent(test))
    (folder / "pytest.ini").write_text(
        f"[pytest]\naddopts = --strict-config --strict-markers -p no:cacheprovider\nfilterwarnings = error\n{ini}\n"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLANE_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--junitxml=out.xml", "test_it.py", *arguments],
        cwd=folder,
        env={**own, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    outcomes, texts = {}, {}
    if (folder / "out.xml").exists():
        for case in ET.parse(folder / "out.xml").iter("testcase"):
            kinds = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
            outcomes[case.get("name")] = "+".join(kinds) or "passed"
            texts[case.get("name")] = "".join(child.text or "" for child in case)
    return Outcome(outcomes, done.stdout + done.stderr, texts)


ASYNC = {
    "auto": (AUTO, "", ()),
    "strict": ("asyncio_mode = strict\nasyncio_default_fixture_loop_scope = function", "@pytest.mark.asyncio", ()),
    "anyio": ("", "@pytest.mark.anyio", ("-p", "no:asyncio")),
}

EVERYTHING = """
import asyncio
import pytest
from isolane import BaseAgent
from isolane.testing import AsyncWsClient, SocketEndedError

@pytest.fixture
def anyio_backend():
    return "asyncio"

class Echo(BaseAgent):
    name = "echo"
    async def execute_with_context(self, context, request, results):
        await context.get_websocket_emitter().notify_agent_thinking(str(request), {"step_number": 1})
        return {"asked": request}

def application(isolane_app):
    from fastapi import Request
    from isolane.fastapi import Ctx, Engine
    isolane_app.registry.register(Echo)
    @isolane_app.app.post("/run")
    async def run(request: Request, ctx: Ctx, engine: Engine):
        result = await engine.execute_agent("echo", await request.json())
        return {"run_id": ctx.run_id, "data": result.result}
    return isolane_app

MARK
async def test_users(two_users, user_factory):
    ann, bob = two_users
    assert ann.user_id != bob.user_id != user_factory("bob").user_id
    context = ann.context()
    assert context.user_id == ann.user_id
    assert ann.context(permissions=None) is not context

MARK
async def test_application(isolane_app, two_users, recorded_events):
    ann, bob = two_users
    async with application(isolane_app) as app:
        assert (await app.post("/run", {"q": 1})).status == 401
        answer = await app.post("/run", {"q": 1}, ann)
        assert answer.status == 200, answer.text
        types = recorded_events.types(ann, answer.json()["run_id"])
        assert types[0] == "agent_started" and types[-1] == "agent_completed", types
        assert recorded_events.of(bob) == []
        async with app.socket(ann) as socket:
            first = await socket.receive_json()
            assert first["type"] == "agent_started"
        with pytest.raises(SocketEndedError):
            async with app.socket():
                pass

MARK
async def test_faults(isolane_app, two_users, fault_injector):
    ann, _ = two_users
    async with application(isolane_app) as app:
        await app.post("/run", {"q": 1}, ann)
        async with app.socket(ann) as socket:
            fault_injector.dropped_socket(socket, after=1)
            await socket.receive()
        async with app.socket(ann) as socket:
            fault_injector.slow_consumer(socket, after=1)
            await socket.receive()
            socket.resume()
            await socket.receive()
        async def work():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return "done"
        steps = [outcome async for outcome in fault_injector.cancel_everywhere(work)]
        assert [step.was_cancelled for step in steps] == [True] * (len(steps) - 1) + [False]
        assert len(steps) > 2 and steps[-1].result == "done"
        assert (await fault_injector.cancel_at(work, 1)).was_cancelled

MARK
@pytest.mark.isolane_isolation(users=3)
async def test_lab(isolation_lab, isolane_app):
    assert len(isolation_lab.users) == 3
    async with application(isolane_app) as app:
        async def work(user):
            return (await app.post("/run", {"note": isolation_lab.canary(user)}, user)).text
        report = await isolation_lab.check(work)
    assert (report.verdict, report.own_seen, report.control) == ("clean", 3, True)

MARK
async def test_clock(manual_clock, two_users):
    from isolane import _core
    before = _core.monotonic()
    manual_clock.advance(60)
    assert _core.monotonic() == before + 60
"""


@pytest.mark.parametrize("mode", sorted(ASYNC))
def test_every_fixture_under(mode, tmp_path):
    ini, mark, arguments = ASYNC[mode]
    done = run(tmp_path, EVERYTHING.replace("MARK", mark), *arguments, ini=ini)
    assert set(done.outcomes.values()) == {"passed"}, done.output
    assert len(done.outcomes) == 5


def test_planted_leaks_are_found_and_clean_neighbours_pass(tmp_path):
    done = run(
        tmp_path,
        """
        import asyncio, pytest
        from isolane import UserExecutionContext
        from isolane.testing import InconclusiveError, IsolationLeakError

        async def test_a_cache_of_the_process(isolation_lab):
            latest = {}
            async def work(user):
                latest["note"] = isolation_lab.canary(user)
                await asyncio.sleep(0)
                return latest["note"], isolation_lab.canary(user)
            with pytest.raises(IsolationLeakError, match="another"):
                await isolation_lab.check(work)
            report = await isolation_lab.run(work)
            assert report.verdict == "leaking"
            assert any(user.user_id in line for user in isolation_lab.users for line in report.crossings)

        async def test_what_the_last_one_left_behind(isolation_lab):
            shelf = []
            async def work(user):
                given = [*shelf, isolation_lab.canary(user)]
                shelf[:] = [isolation_lab.canary(user)]
                return given
            assert (await isolation_lab.run(work)).verdict == "leaking"

        async def test_an_event_of_the_wrong_user(isolation_lab):
            emitters = []
            async def work(user):
                context = user.context()
                emitter = context.get_websocket_emitter()
                emitters.append(emitter)
                await emitter.notify_agent_started("a")
                await emitters[0].notify_agent_thinking(isolation_lab.canary(user), {"step_number": 1})
                await emitter.notify_agent_completed({"note": isolation_lab.canary(user)})
            report = await isolation_lab.run(work, rounds=1)
            assert report.verdict == "leaking", report

        async def test_an_error_that_says_too_much(isolation_lab):
            async def work(user):
                other = next(each for each in isolation_lab.users if each is not user)
                raise ValueError(f"no row for {isolation_lab.canary(other)}")
            assert (await isolation_lab.run(work)).verdict == "leaking"

        async def test_a_container_that_two_contexts_share(isolation_lab):
            shared = {"rows": []}
            kept = []
            async def work(user):
                name = f"{user.user_id}-{len(kept)}"
                context = UserExecutionContext(user.user_id, f"thread-of-{name}", f"run-of-{name}")
                kept.append((context, context.agent_context))
                return isolation_lab.canary(user)
            assert (await isolation_lab.run(work)).verdict == "clean"

        async def test_what_shows_nothing_is_no_proof(isolation_lab):
            async def work(user):
                return "hello"
            with pytest.raises(InconclusiveError, match="own canary"):
                await isolation_lab.check(work)

        async def test_what_fails_is_no_proof(isolation_lab):
            async def work(user):
                raise RuntimeError(isolation_lab.canary(user))
            with pytest.raises(InconclusiveError, match="the work failed"):
                await isolation_lab.check(work)

        async def test_a_blind_detector_is_no_proof(isolation_lab, monkeypatch):
            from isolane.security.contamination import ContaminationDetector
            monkeypatch.setattr(ContaminationDetector, "_is_granted", lambda *_: True)
            async def work(user):
                return isolation_lab.canary(user)
            with pytest.raises(InconclusiveError, match="planted itself was not seen"):
                await isolation_lab.check(work)

        async def test_clean(isolation_lab):
            async def work(user):
                await asyncio.sleep(0)
                return isolation_lab.canary(user)
            report = await isolation_lab.check(work)
            assert (report.users, report.own_seen, report.crossings) == (8, 8, ())
        """,
        ini=AUTO,
    )
    assert set(done.outcomes.values()) == {"passed"}, done.output
    assert len(done.outcomes) == 9


CANARIES = """
    import pytest
    from isolane import TTLCache

    async def leak(two_users, mint):
        ann, bob = two_users
        emitter = bob.context().get_websocket_emitter()
        await emitter.notify_agent_started("a")
        await emitter.notify_agent_thinking(f"ann said {mint(ann)}", {"step_number": 1})

    async def test_fixture_leak(canary, two_users):
        await leak(two_users, canary.of)

    async def test_fixture_clean(canary, two_users):
        ann, bob = two_users
        emitter = ann.context().get_websocket_emitter()
        await emitter.notify_agent_started("a")
        await emitter.notify_agent_thinking(f"I said {canary.of(ann)}", {"step_number": 1})
        canary.assert_clean(ann, canary.of(ann))

    async def test_fixture_asserts(canary, two_users):
        ann, bob = two_users
        with pytest.raises(AssertionError, match=f"canary of {ann.user_id} before"):
            canary.assert_clean(bob, {"rows": [canary.of(ann)]})

    async def test_fixture_expects(canary, two_users):
        with canary.expected_crossing():
            await leak(two_users, canary.of)

    async def test_fixture_expects_in_vain(canary, two_users):
        with pytest.raises(AssertionError, match="nothing here can be trusted"):
            with canary.expected_crossing():
                canary.scan(two_users[0], canary.of(two_users[0]))

    @pytest.mark.isolane_isolation
    async def test_marker_leak(two_users, request):
        import isolane_pytest
        await leak(two_users, isolane_pytest._kit_of(request.node).of)

    async def test_neither(two_users, request):
        import isolane_pytest
        kit = request.node.stash.get(isolane_pytest._KIT, None)
        if kit is not None:
            await leak(two_users, kit.of)
"""


def test_a_canary_that_crosses_fails_the_test(tmp_path):
    done = run(tmp_path, CANARIES, ini=AUTO)
    failed = {name for name, outcome in done.outcomes.items() if outcome != "passed"}
    assert failed == {"test_fixture_leak", "test_marker_leak"}, done.output
    assert "data of one user reached another" in done.texts["test_fixture_leak"]
    assert "canary of ann-" in done.texts["test_fixture_leak"]


def test_with_the_option_every_test_is_looked_at(tmp_path):
    done = run(tmp_path, CANARIES, "--isolane-canary", ini=AUTO)
    failed = {name for name, outcome in done.outcomes.items() if outcome != "passed"}
    assert failed == {"test_fixture_leak", "test_marker_leak", "test_neither"}, done.output


def test_faults_come_or_the_test_fails(tmp_path):
    done = run(
        tmp_path,
        """
        import asyncio, time, pytest
        from isolane.testing import InjectedError, NoMessageError, AsyncWsClient, InMemoryTransport

        def add(a, b):
            return a + b

        async def aadd(a, b):
            return a + b

        def test_second_call(fault_injector):
            failing = fault_injector.failing(add, KeyError("gone"), calls=(2,))
            assert failing(1, 2) == 3
            with pytest.raises(KeyError, match="gone"):
                failing(1, 2)
            assert failing(1, 2) == 3
            assert failing.__name__ == "add"

        async def test_coroutine(fault_injector):
            failing = fault_injector.failing(aadd)
            assert asyncio.iscoroutinefunction(failing)
            with pytest.raises(InjectedError, match="aadd"):
                await failing(1, 2)
            assert await failing(1, 2) == 3

        async def test_slow(fault_injector):
            began = time.monotonic()
            assert await fault_injector.slow(aadd, 0.05)(1, 2) == 3
            assert fault_injector.slow(add, 0.05)(1, 2) == 3
            assert time.monotonic() - began >= 0.09

        async def test_tool(fault_injector, two_users):
            from isolane import UnifiedToolDispatcherFactory
            from isolane.tools import Tool
            tool = fault_injector.failing_tool(Tool.of(add, description="adds"))
            assert (tool.name, tool.description) == ("add", "adds")
            with pytest.raises(InjectedError):
                tool.call(1, 2)

        def test_never_called(fault_injector):
            fault_injector.failing(add)

        def test_called_too_seldom(fault_injector):
            assert fault_injector.failing(add, calls=(3,))(1, 2) == 3

        async def test_done_before(fault_injector):
            async def work():
                return 1
            assert (await fault_injector.cancel_at(work, 50)).result == 1

        async def test_swallowed(fault_injector):
            async def work():
                try:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    return "stubborn"
            outcome = await fault_injector.cancel_at(work, 2)
            assert (outcome.was_cancelled, outcome.result) == (False, "stubborn")

        async def echo(scope, receive, send):
            if scope["type"] == "lifespan":
                raise RuntimeError("none")
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "b"})
            while (message := await receive())["type"] == "websocket.receive":
                for _ in range(3):
                    await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
            assert message["code"] in (1000, 1006), message

        async def test_client():
            async with InMemoryTransport(echo) as transport:
                async with transport.websocket("/x?y=1", subprotocols=["a", "b"], timeout=0.2) as socket:
                    assert socket.accepted_subprotocol == "b"
                    socket.send("hi")
                    assert [await socket.receive() for _ in range(3)] == ["hi"] * 3
                    socket.send(b"raw")
                    assert await socket.receive() == b"raw"
                    socket.stall()
                    await socket.receive(); await socket.receive()
                    socket.send("late")
                    with pytest.raises(NoMessageError, match="raw"):
                        await socket.receive()
                    socket.resume()
                    assert await socket.receive() == "late"
                    assert [message.sent_by for message in socket.transcript][:4] == ["client", "app", "app", "app"]
                async with transport.websocket("/x") as socket:
                    socket.send("hi")
                    await socket.receive()
                    socket.drop()
                    socket.send("gone")

        async def test_an_error_of_the_application_is_seen():
            async def broken(scope, receive, send):
                await receive()
                await send({"type": "websocket.accept"})
                await receive()
                raise ZeroDivisionError
            with pytest.raises(ZeroDivisionError):
                async with AsyncWsClient(broken, "/"):
                    pass
        """,
        ini=AUTO,
    )
    expected = {
        "test_never_called": "error",
        "test_called_too_seldom": "error",
        "test_done_before": "error",
        "test_swallowed": "error",
    }
    assert {name: outcome for name, outcome in done.outcomes.items() if outcome != "passed"} == expected, done.output
    assert len(done.outcomes) == 10
    assert "faults that were asked for and never came: add fails" in done.texts["test_never_called"]


LEGACY = """
    import warnings
    import pytest
    from isolane.migration.deprecation import RemovedInV2Warning, deprecated

    @deprecated("ISO-D003")
    def get_websocket_manager():
        return 1

    def call():
        return get_websocket_manager()

    def test_first():
        call()

    def test_second_from_the_same_line():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()

    def test_modern():
        pass
"""


@pytest.mark.parametrize(
    ("arguments", "environment", "failed"),
    [
        (("-W", "ignore", "--isolane-deprecations=error"), {}, {"test_first", "test_second_from_the_same_line"}),
        (("-W", "ignore", "-W", "error::isolane.migration.deprecation.RemovedInV2Warning"), {}, {"test_first"}),
    ],
)
def test_legacy_calls_can_fail_tests(tmp_path, arguments, environment, failed):
    done = run(tmp_path, LEGACY, *arguments, environment=environment)
    assert {name for name, outcome in done.outcomes.items() if outcome != "passed"} == failed, done.output
    assert len(done.outcomes) == 3


def test_strict_looks_at_what_is_left(tmp_path):
    test = """
        import pytest
        import isolane
        from isolane import default_limiter
        kept = []

        async def test_a_permit_that_is_kept(user_factory):
            kept.append(await default_limiter().acquire(user_factory("ann").user_id))

        async def test_a_permit_that_is_returned(user_factory):
            async with default_limiter().slot(user_factory("ann").user_id):
                pass

        def test_a_run_of_two(two_users):
            ann, bob = two_users
            context = ann.context()
            context.get_websocket_emitter()
            with pytest.raises(isolane.ContextIsolationError):
                bob.context(run_id=context.run_id).get_websocket_emitter()
    """
    done = run(tmp_path, test, "--isolane-strict", ini=AUTO)
    failed = {name for name, outcome in done.outcomes.items() if outcome != "passed"}
    assert failed == {"test_a_permit_that_is_kept", "test_a_run_of_two"}, done.output
    assert "1 permits of the default limiter were not returned" in done.texts["test_a_permit_that_is_kept"]
    assert "saw an object of another user" in done.texts["test_a_run_of_two"]


def test_a_seed_makes_the_same_users_again(tmp_path):
    test = """
        def test_names(user_factory):
            print("NAMES", *(user.user_id.split("-")[1] for user in user_factory.many(3)))
    """

    def names(*arguments):
        done = run(tmp_path, test, "-s", *arguments)
        assert done.outcomes == {"test_names": "passed"}, done.output
        return next(line for line in done.output.splitlines() if "NAMES" in line).split()[-3:], done.output

    def expected(seed):
        numbers = random.Random(seed)
        return [f"{numbers.getrandbits(32):08x}" for _ in range(3)]

    assert names("--isolane-seed=7")[0] == expected(7) != expected(8)
    chosen, output = names("--isolane-seed=random", "-v")
    (seed,) = [line.split("=")[1] for line in output.splitlines() if line.startswith("isolane: --isolane-seed=")]
    assert chosen == expected(int(seed))
    assert "give a number" in run(tmp_path, test, "--isolane-seed=seven").output


def test_processes_of_xdist_have_the_seed_of_the_first():
    def config(seed, **more):
        option = types.SimpleNamespace(isolane_seed=seed)
        return types.SimpleNamespace(option=option, getoption=lambda name: getattr(option, name), **more)

    first = config("random")
    node = types.SimpleNamespace(config=first, workerinput={})
    isolane_pytest.pytest_configure_node(node)
    seed = node.workerinput["isolane_seed"]
    assert isolane_pytest._seed(first) == seed > 0
    assert isolane_pytest._seed(config("random", workerinput={"isolane_seed": seed})) == seed
    assert isolane_pytest._seed(config("random")) != seed, "another one each time"


@pytest.mark.parametrize("arguments", ["users=1"])
def test_a_marker_that_cannot_be_meant_is_refused(tmp_path, arguments):
    done = run(
        tmp_path,
        f"""
        import pytest

        @pytest.mark.isolane_isolation({arguments})
        def test_it():
            pass
        """,
    )
    assert done.outcomes == {}
    assert "isolane_isolation" in done.output


def test_who_does_not_use_it_pays_next_to_nothing(tmp_path):
    done = run(
        tmp_path,
        """
        import sys
        def test_it():
            assert "isolane_pytest" in sys.modules
            assert not [name for name in sys.modules if name == "isolane" or name.startswith("isolane.")]
        """,
        "-W",
        "error",
    )
    assert done.outcomes == {"test_it": "passed"}, done.output


def test_the_plugin_imports_pytest_and_nothing_else():
    program = (
        "import sys, time, pytest; before = set(sys.modules); began = time.perf_counter(); import isolane_pytest;"
        " took = time.perf_counter() - began; print(sorted(set(sys.modules) - before)); print(took)"
    )
    least = 1.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        modules, took = done.stdout.splitlines()
        assert modules == "['isolane_pytest']"
        least = min(least, float(took))
    print(f"importing the plugin takes {least * 1e3:.2f} ms")


OLD_PLUGGY = """
import pytest

def hookimpl(function=None, **options):
    if "wrapper" in options:
        raise TypeError("unexpected keyword argument 'wrapper'")
    return function or (lambda given: given)

pytest.hookimpl = hookimpl
import isolane_pytest

assert not hasattr(isolane_pytest, "pytest_runtest_call")
try:
    isolane_pytest._kit_of(None)
except pytest.UsageError as error:
    print(error)
"""


def test_an_older_pytest_runs_as_ever_until_it_is_asked_for_something():
    done = subprocess.run([sys.executable, "-c", OLD_PLUGGY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pluggy 1.2" in done.stdout


PLANTED_ON_PURPOSE = """
async def test_lab(isolation_lab):
    async def work(user):
        return isolation_lab.canary(user)
    await isolation_lab.check(work)

def test_planted(canary, two_users):
    ann, bob = two_users
    with canary.expected_crossing():
        canary.scan(bob, canary.of(ann))

def test_planted_and_another(canary, two_users):
    ann, bob = two_users
    with canary.expected_crossing():
        canary.scan(bob, canary.of(ann))
    canary.scan(ann, canary.of(bob))
    canary.crossings.clear()
"""


def test_strict_does_not_hold_a_leak_against_a_test_that_was_planted(tmp_path):
    ended = run(tmp_path, PLANTED_ON_PURPOSE, "--isolane-strict")
    assert ended.outcomes == {"test_lab": "passed", "test_planted": "passed", "test_planted_and_another": "failure"}
    assert "content saw an object of another user" in ended.output
