"""The synthetic users: they do what they plan, obey refusals, come back after a restart, and end with their parent."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from examples.optimizer.app import create_app
from examples.optimizer.load.plan import Deed, Plan, user_names
from examples.optimizer.load.user import SyntheticUser
from examples.optimizer.serving import listen, make_server, running

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


class OnlyDeed(Plan):
    """A plan that holds one deed, at once and again."""

    def __init__(self, name: str, deed: Deed) -> None:
        super().__init__(name, pace=0.1, trouble=0)
        self.only = deed

    def deed(self) -> Deed:
        return self.only


async def counted(url: str, plan: Plan, enough: str, *, within: float = 60) -> Counter[str]:
    """Let one user live until something has happened."""
    counts: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        user = asyncio.create_task(SyntheticUser(plan, client, counts).live())
        deadline = time.monotonic() + within
        while not counts[enough] and time.monotonic() < deadline and not user.done():
            await asyncio.sleep(0.02)
        user.cancel()
        await asyncio.wait({user})
        assert user.cancelled(), user.exception()
    return counts


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(create_app(data_dir=tmp_path_factory.mktemp("load"))) as url:
        yield url


@pytest.mark.parametrize(
    ("deed", "outcome"),
    [
        (Deed.SHORT, "completed"),
        (Deed.LONG, "completed"),
        (Deed.BROKEN, "failed"),
        (Deed.CANCELLED, "cancelled"),
        (Deed.CROWDED, "refused"),
    ],
)
async def test_a_deed_ends_as_planned(url: str, deed: Deed, outcome: str) -> None:
    """Real runs: the end comes over the socket, and the third of three at once is refused."""
    counts = await counted(url, OnlyDeed(f"ada-{deed}", deed), outcome)
    assert counts[outcome] >= 1
    assert set(counts) <= {outcome, "completed"}


def test_a_plan_is_the_same_for_the_same_name_and_mostly_calm() -> None:
    """Load that is measured twice is the same load."""
    plans = [Plan("ada-01", 10, 0.1) for _ in range(2)]
    drawn = [[(plan.deed(), plan.pause()) for _ in range(500)] for plan in plans]
    assert drawn[0] == drawn[1]
    assert drawn[0] != [(plan.deed(), plan.pause()) for plan in [Plan("bo-02", 10, 0.1)] for _ in range(500)]
    deeds = Counter(deed for deed, _ in drawn[0])
    trouble = sum(deeds[deed] for deed in (Deed.CANCELLED, Deed.BROKEN, Deed.CROWDED))
    assert 20 < trouble < 90
    assert set(deeds) == set(Deed)
    assert all(5 <= pause <= 15 for _, pause in drawn[0])


def test_names_are_different_and_can_sign_in(url: str) -> None:
    """No name is a placeholder, which the sign-in would refuse."""
    names = user_names(40)
    assert len(set(names)) == 40
    for name in names[:12]:
        assert httpx.post(f"{url}/api/sign-in", json={"name": name}).status_code == 200


@contextmanager
def server_at(port: int, data_dir: Path) -> Iterator[None]:
    import threading  # noqa: PLC0415

    with listen("127.0.0.1", port) as listener:
        server = make_server(create_app(data_dir=data_dir), log_level="warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


async def test_a_restart_of_the_server_is_lived_through(tmp_path: Path) -> None:
    """Away, back, with tokens that count no more: the user signs in anew and goes on."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    counts: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        user = asyncio.create_task(SyntheticUser(OnlyDeed("gwen-1", Deed.SHORT), client, counts).live())
        for _ in range(2):
            before = counts["completed"]
            server = server_at(port, tmp_path)
            await asyncio.to_thread(server.__enter__)
            while counts["completed"] == before:
                await asyncio.sleep(0.05)
                assert not user.done()
            await asyncio.to_thread(server.__exit__, None, None, None)
        user.cancel()
        await asyncio.wait({user})


def test_the_users_end_when_whoever_started_them_is_gone(url: str) -> None:
    """Their input is a pipe of the parent's: closed, they stop and tell what they did."""
    command = [sys.executable, "-m", "examples.optimizer.load", "--url", url, "--users", "2", "--pace", "0.5"]
    with subprocess.Popen(
        [*command, "--until-closed", "--tell", "0.2"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("completed" in line for line in process.stdout)
        assert process.poll() is None
        told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "completed" in told
