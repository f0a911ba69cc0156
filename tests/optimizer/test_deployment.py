"""What docs/deployment.md says of Redis, tried on the example: its user can do all that is needed, and no more."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from examples.optimizer.shared_redis import started_redis

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deployment.md"


@pytest.mark.timeout(250)
def test_the_user_of_the_page_can_do_what_is_needed_and_no_more() -> None:
    """Two workers pass their check as that user, and nothing that they do is refused."""
    if shutil.which("redis-server") is None:
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail("required, but there is no redis-server (apt-get install redis-server)")
        pytest.skip("left out: there is no redis-server (apt-get install redis-server)")
    (rule,) = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    with started_redis() as url, redis.Redis.from_url(url) as client:
        client.execute_command(*rule.split())
        own = url.replace("redis://", "redis://isolane:a-long-password@")
        environment = {**os.environ, "ISOLANE_REDIS_URL": own, "ISOLANE_REDIS_PREFIX": "isolane"}
        command = [sys.executable, "-m", "examples.optimizer.check", "--workers", "2"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.acl_log() == []
        with redis.Redis.from_url(own) as limited:
            for refused in (
                ("FLUSHALL",),
                ("KEYS", "*"),
                ("CONFIG", "GET", "*"),
                ("GET", "other"),
                ("PUBLISH", "o", ""),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    limited.execute_command(*refused)
