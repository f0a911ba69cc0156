"""The pytest plugin of isolane: fixtures, a marker and options. ``docs/testing.md`` of the project describes them.

It is a package of its own because pytest loads it in every run of every project that has isolane installed: it costs
next to nothing, and `isolane` itself is imported by the first test that uses a fixture of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from isolane.fastapi import IsolaneSettings
    from isolane.testing import (
        CanaryKit,
        EventRecorder,
        FaultInjector,
        IsolationLab,
        LabApplication,
        LabUser,
        ManualClock,
        UserFactory,
    )

MARKER = "isolane_isolation"
LAB_USERS = 8

_NEEDS = "isolane's pytest plugin needs pluggy 1.2 or later, which pytest 8 brings"


def _wraps() -> Callable[..., Any] | None:
    try:
        return pytest.hookimpl(wrapper=True)
    except TypeError:
        return None


_AROUND = _wraps()
"""Marks a hook as one around the others; None where pluggy has none.

There a project that only has isolane installed runs as ever, and a test that asks for something of it is told.
"""


def _require_wrappers() -> None:
    if _AROUND is None:
        raise pytest.UsageError(_NEEDS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("isolane", "per-user isolation")
    group.addoption(
        "--isolane-canary",
        action="store_true",
        help="look for canaries in every test, and fail those in which data of one user reaches another",
    )
    group.addoption(
        "--isolane-seed",
        metavar="NUMBER",
        default="0",
        help="makes the same users and orders again; `random` takes a new one and prints it (default: 0)",
    )
    group.addoption(
        "--isolane-deprecations",
        choices=("off", "summary", "always", "error"),
        help="what a legacy call does, over ISOLANE_WARN: `error` fails the test that makes it",
    )
    group.addoption(
        "--isolane-strict",
        action="store_true",
        help="after every test, fail it if a boundary saw another user's object, contexts of two users share"
        " something, or a permit was not returned",
    )
    group.addoption("--isolane-accept", metavar="CONFIG", help="run isolane's acceptance tests with this accept.toml")
    group.addoption("--isolane-accept-seed", type=int, default=0, help="makes the same users and order again there")


def _seed(config: pytest.Config) -> int:
    given = config.getoption("isolane_seed")
    if given == "random":
        # The processes of pytest-xdist take the one that the first has drawn.
        given = getattr(config, "workerinput", {}).get("isolane_seed") or random.SystemRandom().randrange(1, 1 << 31)
        config.option.isolane_seed = given
    try:
        return int(given)
    except ValueError:
        raise pytest.UsageError(f"--isolane-seed is {given!r}; give a number, or `random`") from None


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what the options ask for."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(users={LAB_USERS}): look for canaries in this test; `isolation_lab` has so many users",
    )
    _seed(config)
    if config.getoption("isolane_deprecations"):
        from isolane_pytest import hooks  # noqa: PLC0415 - only where it is asked for

        config.pluginmanager.register(
            hooks.Deprecations(config.getoption("isolane_deprecations")), "isolane-deprecations"
        )
    if config.getoption("isolane_canary"):
        _require_wrappers()
    if config.getoption("isolane_strict"):
        _require_wrappers()
        from isolane_pytest import hooks  # noqa: PLC0415 - the same

        config.pluginmanager.register(hooks.Strict(), "isolane-strict")
    if config.getoption("isolane_accept"):
        from isolane.acceptance import plugin  # noqa: PLC0415 - the same

        config.pluginmanager.register(plugin, "isolane-accept")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist which seed it is."""
    node.workerinput["isolane_seed"] = _seed(node.config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Print a seed that was not the usual one."""
    seed = _seed(config)
    return f"isolane: --isolane-seed={seed}" if seed else None


_KIT = pytest.StashKey["CanaryKit"]()


def _users_of(item: pytest.Item) -> int | None:
    """The number of users that the marker asks for, or None without it."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return None
    _require_wrappers()
    if marker.args or set(marker.kwargs) - {"users"}:
        raise pytest.UsageError(f"{MARKER} takes users=, such as @pytest.mark.{MARKER}(users={LAB_USERS})")
    users = marker.kwargs.get("users", LAB_USERS)
    if not isinstance(users, int) or users < 2:  # noqa: PLR2004 - one user has nobody to leak to
        raise pytest.UsageError(f"{MARKER}(users={users!r}): at least 2")
    return users


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker that cannot be meant before anything runs."""
    for item in items:
        _users_of(item)


def _kit_of(item: pytest.Item) -> CanaryKit:
    _require_wrappers()
    if (kit := item.stash.get(_KIT, None)) is None:
        from isolane.testing.canaries import CanaryKit  # noqa: PLC0415 - imports isolane

        kit = item.stash[_KIT] = CanaryKit()
    return kit


def planted(item: pytest.Item) -> int:
    """How many crossings a test, or the lab for it, has planted on purpose."""
    kit = item.stash.get(_KIT, None)
    return 0 if kit is None else kit.planted


def _around_call(item: pytest.Item) -> Generator[None, object, object]:
    """Look for canaries while a test runs that asked for it, and fail it for what crossed."""
    if not item.config.getoption("isolane_canary") and item.get_closest_marker(MARKER) is None:
        # Whoever uses the fixture asks for it as well.
        result = yield
        if (kit := item.stash.get(_KIT, None)) is not None:
            _fail_for(kit)
        return result
    kit = _kit_of(item)
    kit.install()
    try:
        result = yield
    finally:
        kit.uninstall()
    _fail_for(kit)
    return result


if _AROUND is not None:
    pytest_runtest_call = _AROUND(_around_call)


def _fail_for(kit: CanaryKit) -> None:
    if (crossed := kit.verdict()) is not None:
        kit.crossings.clear()
        pytest.fail(crossed, pytrace=False)


# -- fixtures ----------------------------------------------------------------------------------------------------------
# All of them are plain functions, so they work with whatever runs the coroutine of the test.


@pytest.fixture
def isolane_settings() -> IsolaneSettings:
    """Settings for an application in a test: no signals, and no waiting at the end. Override it for others."""
    from isolane.fastapi import IsolaneSettings  # noqa: PLC0415 - the extra `fastapi`

    return IsolaneSettings(signal_drain=False, drain_seconds=1.0)


@pytest.fixture
def user_factory(request: pytest.FixtureRequest) -> Iterator[UserFactory]:
    """What makes users. Their contexts are cleaned up after the test."""
    from isolane.testing.users import UserFactory  # noqa: PLC0415 - imports isolane

    factory = UserFactory(_seed(request.config))
    yield factory
    factory.close()


@pytest.fixture
def two_users(user_factory: UserFactory) -> tuple[LabUser, LabUser]:
    """Ann and Bob, each with a canary if the test looks for them."""
    return user_factory("ann"), user_factory("bob")


@pytest.fixture
def isolane_app(isolane_settings: IsolaneSettings, user_factory: UserFactory) -> LabApplication:
    """An application in this process: ``async with isolane_app: ...``."""
    from isolane.testing.application import LabApplication  # noqa: PLC0415 - the extra `fastapi`

    return LabApplication(isolane_settings, user_factory)


@pytest.fixture
def recorded_events() -> Iterator[EventRecorder]:
    """Reads what users would have been sent: ``recorded_events.of(ann)``."""
    from isolane.testing.recording import EventRecorder  # noqa: PLC0415 - imports isolane

    recorder = EventRecorder()
    yield recorder
    recorder.close()


@pytest.fixture
def canary(request: pytest.FixtureRequest) -> Iterator[CanaryKit]:
    """Canaries, and isolane's own boundaries looking for them. The test fails for what crosses."""
    kit = _kit_of(request.node)
    kit.install()
    yield kit
    kit.uninstall()


@pytest.fixture
def isolation_lab(
    request: pytest.FixtureRequest, user_factory: UserFactory, recorded_events: EventRecorder
) -> IsolationLab:
    """Many users through one piece of code: ``await isolation_lab.check(work)``."""
    from isolane.testing.lab import IsolationLab  # noqa: PLC0415 - imports isolane

    count = _users_of(request.node) or LAB_USERS
    kit = _kit_of(request.node)
    return IsolationLab(user_factory, kit, recorded_events, count=count, seed=_seed(request.config))


@pytest.fixture
def fault_injector() -> Iterator[FaultInjector]:
    """Breaks what it is given; a fault that never came is an error of the test."""
    from isolane.testing.faults import FaultInjector  # noqa: PLC0415 - imports isolane

    injector = FaultInjector()
    yield injector
    injector.verify()


@pytest.fixture
def manual_clock() -> Iterator[ManualClock]:
    """The clock of the core, stopped: ``manual_clock.advance(60)``."""
    from isolane.testing.clock import manual_clock as stopped  # noqa: PLC0415 - imports isolane

    with stopped() as clock:
        yield clock
