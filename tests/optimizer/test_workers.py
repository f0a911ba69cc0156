"""`make demo WORKERS=4`: the Redis of the workers, what they have together, and what the page is told."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from examples.optimizer.key_files import kept_key
from examples.optimizer.shared_redis import VARIABLES, shared_redis

ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def needs_redis() -> None:
    if shutil.which("redis-server") is None:
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail("required, but there is no redis-server (apt-get install redis-server)")
        pytest.skip("left out: there is no redis-server (apt-get install redis-server)")


@pytest.fixture(autouse=True)
def no_redis_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def run_optimizer(*options: str, module: str = "examples.optimizer", **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *options]
    environment = {**os.environ, **more}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_START_SECONDS, check=False
    )


@pytest.mark.parametrize("module", ["examples.optimizer", "examples.optimizer.check"])
def test_without_a_redis_the_start_says_how_to_get_one(tmp_path: Path, module: str) -> None:
    """No traceback, and nothing is left running."""
    options = ["--port", "0"] if module == "examples.optimizer" else []
    done = run_optimizer("--workers", "2", *options, module=module, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "there is no redis-server on this machine" in done.stderr
    assert "apt-get install redis-server" in done.stderr
    assert "ISOLANE_REDIS_URL=" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_leaking_path_is_of_one_process() -> None:
    """It is a singleton: with workers it is refused at the start."""
    done = run_optimizer("--workers", "2", "--port", "0", "--legacy")
    assert done.returncode == 1
    assert "leave out --workers" in done.stderr


@pytest.mark.parametrize("name", VARIABLES)
def test_a_redis_that_is_named_is_taken_and_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """None is started."""
    monkeypatch.setenv(name, "redis://elsewhere:1/0")
    monkeypatch.setenv("PATH", "")
    with shared_redis() as (url, is_ours):
        assert (url, is_ours) == ("redis://elsewhere:1/0", False)


def gone(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1) as client:
            client.ping()
    except redis.RedisError:
        return True
    return False


def wait_until_gone(url: str) -> None:
    until = time.monotonic() + 20
    while not gone(url):
        assert time.monotonic() < until, "the Redis is still there"
        time.sleep(0.05)


@pytest.mark.usefixtures("needs_redis")
def test_the_redis_that_is_started_ends_with_the_block() -> None:
    """It listens on the loopback alone, evicts nothing, and keeps nothing."""
    with shared_redis() as (url, is_ours), redis.Redis.from_url(url, decode_responses=True) as client:
        assert is_ours
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
    assert gone(url)


@pytest.mark.usefixtures("needs_redis")
def test_the_redis_ends_with_its_process_however_that_ends() -> None:
    """Also when it is killed and cleans nothing up."""
    program = (
        "import time\nfrom examples.optimizer.shared_redis import shared_redis\n"
        "with shared_redis() as (url, _):\n    print(url, flush=True)\n    time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert not gone(url)
        process.kill()
    wait_until_gone(url)


def test_a_key_is_made_once_by_many_at_once(tmp_path: Path) -> None:
    """All read the same, and only its owner may."""
    path = tmp_path / "new" / "key"
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: kept_key(path), range(64)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert path.stat().st_mode & 0o077 == 0
    assert [each.name for each in path.parent.iterdir()] == ["key"]


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("left out: there is no redis-server (apt-get install redis-server)")
    command = [sys.executable, "-m", "examples.optimizer", "--port", "0", "--workers", "2", "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "2 workers on a Redis that this command started on redis://127.0.0.1:" in first
        yield first.split()[2]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    wait_until_gone(first.split(" started on ")[1].split()[0])


@pytest.fixture(scope="module")
def client(demo: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo, timeout=60) as client:
        until = time.monotonic() + _START_SECONDS
        while client.get("/api/workers").json() | {"answering": ""} != {"count": 2, "state": "up", "answering": ""}:
            assert time.monotonic() < until
            time.sleep(0.1)
        yield client


def test_both_workers_answer_for_all(client: httpx.Client) -> None:
    """A token of one is good for the other, and what one has stored the other reads."""
    signed_in = client.post("/api/sign-in", json={"name": "ann"}).json()
    headers = {"Authorization": f"Bearer {signed_in['token']}"}
    log = b"timestamp,model,prompt_tokens,completion_tokens\n2026-11-02T10:00:00Z,gpt-4o,1200,300\n"
    upload = client.post("/api/uploads", params={"name": "a.csv"}, content=log, headers=headers).json()
    run = client.post("/api/runs", json={"upload_id": upload["upload_id"]}, headers=headers).json()
    answering = set()
    until = time.monotonic() + _START_SECONDS
    while len(answering) < 2 and time.monotonic() < until:
        # A connection of its own each time: any worker may take it.
        with httpx.Client(base_url=client.base_url, headers=headers, timeout=60) as other:
            answering.add(other.get("/api/workers").json()["answering"])
            place = other.get(f"/api/runs/{run['run_id']}/worker").json()["worker"]
            assert [each["run_id"] for each in other.get("/api/runs").json()] == [run["run_id"]]
    assert len(answering) == 2
    assert place in answering
    stranger = client.post("/api/sign-in", json={"name": "bob"}).json()["token"]
    asked = client.get(f"/api/runs/{run['run_id']}/worker", headers={"Authorization": f"Bearer {stranger}"})
    assert asked.status_code == httpx.codes.NOT_FOUND


def test_the_legacy_path_is_not_to_be_switched_on(client: httpx.Client) -> None:
    """The other worker would not know, so that it is refused with the reason."""
    token = client.post("/api/sign-in", json={"name": "ann"}).json()["token"]
    answer = client.post("/api/mode", json={"mode": "legacy"}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == httpx.codes.CONFLICT
    assert answer.json()["code"] == "several_workers"
