"""Legacy calls: which line made them, how it is told, and that a coroutine function stays one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import isolane
import pytest
from isolane.migration.deprecation import (
    CODES,
    DeprecationLedger,
    IsolaneDeprecationWarning,
    RemovedInV2Warning,
    deprecated,
    deprecated_call,
    legacy_calls,
    set_warn_mode,
)

SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()

# Functions that live in isolane's folder: what a legacy module of the package is to the ledger.
SHIPPED = """
import asyncio
from dataclasses import dataclass
from isolane.migration.deprecation import deprecated, deprecated_call

def getter():
    deprecated_call("getter", "ISO-D003")
    return "manager"

def deep():
    return (lambda: getter())()

@deprecated("ISO-D005")
async def send(text="hi"):
    await asyncio.sleep(0)
    return text

@deprecated("ISO-D005")
async def stream():
    yield 1
    yield 2

@deprecated("ISO-D005")
def counting():
    yield 1

async def undecorated():
    await asyncio.sleep(0)
    deprecated_call("undecorated", "ISO-D005")

class Agent:
    def __init__(self, state=None):
        self._adopt(state)

    def _adopt(self, state):
        deprecated_call("Agent", "ISO-D001")

@dataclass
class State:
    text: str = ""
    def __post_init__(self):
        deprecated_call("State", "ISO-D011")

@deprecated("ISO-D004")
class Bridge:
    def __init__(self, name="bridge"):
        self.name = name

    @deprecated("ISO-D005")
    async def send_to_user(self, user_id):
        return (self.name, user_id)

    @deprecated("ISO-D006")
    def broadcast(self):
        return self.name

    @classmethod
    @deprecated("ISO-D009")
    def make(cls):
        return cls.__name__

    @staticmethod
    @deprecated("ISO-D009")
    async def static(value):
        return value
"""


def _shipped() -> types.ModuleType:
    module = types.ModuleType("isolane.compat.pretended")
    path = Path(isolane.__file__).parent / "compat" / "pretended.py"
    sys.modules[module.__name__] = module  # dataclasses look for it
    exec(compile(SHIPPED, str(path), "exec"), module.__dict__)
    del sys.modules[module.__name__]
    return module


L = _shipped()


def line(marker: str) -> int:
    (found,) = [at for at, text in enumerate(SOURCE, 1) if text.endswith(f"# {marker}")]
    return found


@contextlib.contextmanager
def told(*markers: str):
    """Exactly these lines of this file are told, in any order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    sites = sorted((Path(one.filename).name, one.lineno) for one in caught)
    assert sites == sorted((Path(__file__).name, line(marker)) for marker in markers)
    assert all(issubclass(one.category, RemovedInV2Warning) for one in caught)


# Whose line it is.


def test_a_plain_call_is_the_line_that_makes_it():
    with told("plain", "through another function of isolane"):
        L.getter()  # plain
        L.deep()  # through another function of isolane


def test_the_decorator_and_the_library_are_not_the_caller():
    def retried(function):
        @functools.wraps(function)
        def wrapper():
            return function()  # the application's own decorator

        return wrapper

    cached = functools.lru_cache(lambda: L.getter() + "s")  # cached

    @contextlib.contextmanager
    def manager():
        yield L.getter()  # in a context manager

    with told("the application's own decorator", "cached", "in a context manager", "partial", "sorted"):
        retried(L.getter)()
        cached()
        with manager():
            pass
        functools.partial(L.getter)()  # partial
        sorted([2, 1], key=lambda _: L.getter())  # sorted


def test_who_makes_an_object_is_the_caller_and_not_super():
    class Mine(L.Agent):
        def __init__(self):
            super().__init__({"a": 1})

    class Below(Mine):
        def __init__(self):
            Mine.__init__(self)

    class MyBridge(L.Bridge):
        def __new__(cls):
            return super().__new__(cls)

        def __init__(self):
            super().__init__("mine")

    class Service:
        def __init__(self):
            self.agent = L.Agent()  # made in the constructor of something else

    with told("mine", "below", "bridge", "made in the constructor of something else"):
        Mine()  # mine
        Below()  # below
        assert MyBridge().name == "mine"  # bridge
        Service()


def test_the_class_itself_and_its_copies():
    with told("made", "of a dataclass"):
        bridge = L.Bridge("b")  # made
        L.State()  # of a dataclass
    assert (bridge.name, type(bridge), isinstance(bridge, L.Bridge)) == ("b", L.Bridge, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert copy.deepcopy(bridge).name == "b"
        with pytest.raises(TypeError):
            L.Bridge("a", "b", "c")


async def test_in_async_code_the_call_counts_when_it_is_made():
    async def handler():
        await L.send()  # awaited
        await asyncio.create_task(L.send())  # as a task
        await asyncio.gather(L.send(), L.send())  # gathered
        async with asyncio.TaskGroup() as group:
            group.create_task(L.Bridge.static(1))  # in a group
        await asyncio.wait_for(L.send(), 5)  # with a time limit
        return [value async for value in L.stream()]  # a stream

    with told("awaited", "as a task", "gathered", "in a group", "with a time limit", "a stream"):
        # The second of the line is the same line: told once.
        assert await handler() == [1, 2]


async def test_a_coroutine_without_the_decorator_is_known_while_it_is_awaited():
    with told("awaited without the decorator"):
        await L.undecorated()  # awaited without the decorator
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncio.create_task(L.undecorated())
    # Nobody of the application is on that stack: the loop's line is named, and not the one that runs the loop.
    assert [Path(one.filename).name for one in caught] == ["events.py"]


async def test_in_threads():
    def work():
        return L.getter()  # in a thread

    with told("in a thread"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
        await asyncio.to_thread(work)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncio.to_thread(L.getter)
    assert [Path(one.filename).name for one in caught] == ["thread.py"], "no line of the application is on that stack"


def test_code_without_a_file_is_named_as_the_interpreter_names_it():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec("x = 1\n\ngetter()", {"getter": L.getter})
        eval("getter()", {"getter": L.getter, "__name__": "isolane_of_somebody"})
        exec("getter()", {"getter": L.getter, "__name__": None})
    assert [(one.filename, one.lineno) for one in caught] == [("<string>", 3), ("<string>", 1)]


def test_a_module_is_told_where_it_is_imported(tmp_path, monkeypatch):
    shim = tmp_path / "old_shim.py"
    shim.write_text(
        "from isolane.migration.deprecation import deprecated_call\n"
        f"deprecated_call('old_shim', 'ISO-D011', stacklevel_skip_prefixes=[{str(shim)!r}])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with told("imported"):
        importlib.import_module("old_shim")  # imported


def test_folders_of_the_caller_can_be_passed_over(tmp_path):
    path = tmp_path / "shim.py"
    source = "def shim(call, **options): call('shim', 'ISO-D003', **options)"
    namespace = {}
    exec(compile(source, str(path), "exec"), namespace)
    shim = namespace["shim"]
    with told("passed over"):
        shim(deprecated_call, stacklevel_skip_prefixes=(str(tmp_path),))  # passed over
    with pytest.warns(RemovedInV2Warning) as caught:
        shim(deprecated_call)
    assert [one.filename for one in caught] == [str(path)]


def test_deep_own_stacks_end():
    ledger = DeprecationLedger([str(Path(__file__).parent)])

    def down(levels):
        return ledger.note("a", "ISO-D003") if levels == 0 else down(levels - 1)

    assert down(600).file == "<unknown>"
    assert DeprecationLedger().note("a", "ISO-D003").line == inspect.currentframe().f_lineno


# What is decorated stays what it is.


def test_a_coroutine_function_stays_one():
    bridge_class = L.Bridge
    for function in (L.send, bridge_class.send_to_user, bridge_class.static):
        assert inspect.iscoroutinefunction(function)
        assert asyncio.iscoroutinefunction(function)
    with pytest.warns(RemovedInV2Warning):
        bridge = bridge_class()
    assert inspect.iscoroutinefunction(bridge.send_to_user)
    assert not inspect.iscoroutinefunction(bridge.broadcast)
    assert inspect.isasyncgenfunction(L.stream)
    assert inspect.isgeneratorfunction(L.counting)
    assert str(inspect.signature(bridge.send_to_user)) == "(user_id)"
    assert L.send.__name__ == "send"
    assert "ISO-D005" in L.send.__deprecated__
    assert "ISO-D004" in bridge_class.__deprecated__


async def test_what_is_decorated_does_what_it_did():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = L.Bridge("b")
        assert await bridge.send_to_user("ann") == ("b", "ann")
        assert bridge.broadcast() == "b"
        assert L.Bridge.make() == "Bridge"
        assert await L.Bridge.static(3) == 3
        assert await L.send(text="x") == "x"
        assert list(L.counting()) == [1]


async def test_a_call_that_is_refused_leaves_no_coroutine_behind():
    set_warn_mode("error")
    try:
        with pytest.raises(RemovedInV2Warning, match="ISO-D005"):
            L.send()
    finally:
        set_warn_mode(None)
    # An unawaited coroutine would be a RuntimeWarning, which this suite takes for an error.


def test_codes_and_categories():
    with pytest.raises(KeyError):
        deprecated_call("a", "ISO-D999")
    with pytest.raises(KeyError):
        deprecated("D003")
    with pytest.warns(IsolaneDeprecationWarning) as caught:
        deprecated_call("fetch", "ISO-D003")
    warning = caught[0].message
    assert (warning.symbol, warning.code, warning.instead) == ("fetch", "ISO-D003", CODES["ISO-D003"].instead)
    assert str(warning).endswith("[ISO-D003] deprecations#iso-d003")
    assert issubclass(RemovedInV2Warning, DeprecationWarning)
    assert list(CODES) == [f"ISO-D{number:03}" for number in range(1, len(CODES) + 1)]


# When it is told.


def test_a_line_is_told_once_for_each_set_of_filters():
    for _ in range(2):  # each round is what a test of pytest is: its own filters
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                deprecated_call("round", "ISO-D003")
        assert len(caught) == 1
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RemovedInV2Warning)
            with pytest.raises(RemovedInV2Warning):
                deprecated_call("round", "ISO-D003")
    assert legacy_calls()["round"] == 8


def test_the_mode_is_checked():
    with pytest.raises(ValueError, match="off, summary, always, error"):
        set_warn_mode("loud")


PROGRAM = """
import logging, sys, warnings
logging.basicConfig(format="LOG %(name)s %(levelname)s %(message)s", stream=sys.stdout)
from isolane.migration.deprecation import deprecated_call, legacy_calls
def one():
    deprecated_call("one", "ISO-D003")
def two():
    deprecated_call("two", "ISO-D006")
for _ in range(3):
    one(); one()
two()
print("CALLS", legacy_calls())
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLANE_", "PYTHONWARN"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_by_default_one_line_of_the_log_a_process():
    done = run(PROGRAM)
    logged = [text for text in done.stdout.splitlines() if text.startswith("LOG")]
    assert len(logged) == 1, done
    assert "isolane.migration WARNING legacy calls that isolane 2 removes: 7, from 2 lines" in logged[0]
    assert "one at <string>:6 (6), two at <string>:8 (1)" in logged[0]
    # As PEP 565 says, what __main__ does is shown: once for each line.
    assert done.stderr.count("RemovedInV2Warning") == 2
    assert "CALLS {'one': 6, 'two': 1}" in done.stdout


@pytest.mark.parametrize(("mode", "logged", "warned"), [("off", 0, 0), ("always", 7, 2), ("loud", 2, 2)])
def test_modes(mode, logged, warned):
    done = run(PROGRAM, ISOLANE_WARN=mode)
    assert "CALLS {'one': 6, 'two': 1}" in done.stdout, done.stderr
    assert done.stdout.count("LOG ") == logged
    assert done.stderr.count("RemovedInV2Warning") >= warned
    if mode == "off":
        assert not done.stderr
    if mode == "loud":
        assert "ISOLANE_WARN='loud' is none of off, summary, always, error" in done.stdout


def test_mode_error_raises_each_time_whatever_the_filters_say():
    done = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        from isolane.migration.deprecation import RemovedInV2Warning, deprecated_call, legacy_calls
        raised = 0
        for _ in range(3):
            try:
                deprecated_call("one", "ISO-D003")
            except RemovedInV2Warning:
                raised += 1
        print(raised, legacy_calls())
        """,
        ISOLANE_WARN="ERROR",
    )
    assert done.stdout == "3 {'one': 3}\n", done.stderr


def test_a_process_without_legacy_calls_says_nothing_and_starts_nothing(tmp_path):
    done = run(
        """
        import threading
        import isolane.migration.deprecation
        print(threading.active_count())
        """,
        ISOLANE_LEDGER_DIR=str(tmp_path),
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert not list(tmp_path.iterdir())


def test_a_child_of_a_fork_counts_its_own_calls_only():
    done = run(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from isolane.migration.deprecation import deprecated_call, legacy_calls
        deprecated_call("parent", "ISO-D003")
        if (child := os.fork()) == 0:
            deprecated_call("child", "ISO-D003")
            print(legacy_calls(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(legacy_calls(), flush=True)
        """
    )
    assert done.stdout == "{'child': 1}\n{'parent': 1}\n", done.stderr


def test_many_threads_lose_no_call():
    ledger = DeprecationLedger()

    def work():
        for _ in range(2_000):
            ledger.note("a", "ISO-D003")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ledger.calls(), len(ledger), ledger.symbols()) == (8_000, 1, {"a": 8_000})


@dataclass
class Mixed:
    """Its ``__init__`` has no file, and calls a method of this one."""

    agent: object = None

    def __post_init__(self):
        self.agent = L.Agent()  # from a dataclass


def test_a_dataclass_of_the_application():
    with told("from a dataclass"):
        Mixed()


def test_the_page_has_a_section_for_each_code():
    page = (Path(__file__).resolve().parents[2] / "docs" / "deprecations.md").read_text(encoding="utf-8")
    sections = page.split("\n### ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(CODES)
    for section, code in zip(sections, CODES.values(), strict=True):
        assert code.anchor == f"deprecations#{section.partition(chr(10))[0].lower()}"
        assert f"\nWhat: {code.title}.\n" in section
        assert f"\nInstead: {code.instead}.\n" in section
        assert (f"`{code.rule}`" if code.rule else "the ledger alone") in section


def test_a_class_and_those_below_it_keep_their_signatures():
    @deprecated("ISO-D004")
    class Old:
        def __init__(self, url: str, *, retries: int = 2):
            self.url = url

    class Below(Old):
        def __init__(self, name: str):
            super().__init__(name)

    assert str(inspect.signature(Old)) == "(url: 'str', *, retries: 'int' = 2)"
    assert str(inspect.signature(Below)) == "(name: 'str')"
    assert str(inspect.signature(type("Same", (Old,), {}))) == str(inspect.signature(Old))
