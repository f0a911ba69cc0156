"""Without the extra: what needs it names it, and the rest works."""

import subprocess
import sys

import pytest

EXTRA = ("fastapi", "starlette", "pydantic", "pydantic_settings")


def without(missing: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where some modules cannot be found."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r}))\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", [" ".join(EXTRA), "pydantic_settings", "fastapi"])
@pytest.mark.parametrize("module", ["isolane.fastapi", "isolane.compat.websocket_bridge_factory"])
def test_a_module_that_needs_the_extra_names_it(module, missing):
    code = f"try:\n  import {module}\nexcept ModuleNotFoundError as error:\n  print(error.name, error)"
    done = without(missing, code)
    assert (done.returncode, done.stderr) == (0, "")
    name, _, text = done.stdout.partition(" ")
    assert name in EXTRA
    assert "pip install 'isolane[fastapi]'" in text


def test_the_hosts_state_without_its_extra_names_it():
    code = (
        "try:\n  import isolane.compat.deep_agent_state\n"
        "except ModuleNotFoundError as error:\n  print(error.name, error)"
    )
    done = without("pydantic", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pydantic ")
    assert "pip install 'isolane[tools]'" in done.stdout


def test_a_client_without_its_extra_names_it():
    code = (
        "from isolane.client import connect\n"
        "try:\n  connect('ws://127.0.0.1/ws')\nexcept ModuleNotFoundError as error:\n  print(error.name, error)"
    )
    done = without("websockets", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("websockets ")
    assert "pip install 'isolane[client]'" in done.stdout


def test_a_verifier_without_its_extra_names_it():
    code = (
        "from isolane import JwtVerifier\n"
        "try:\n  JwtVerifier({}, algorithms=['HS256'], issuer='i', audience='a')\n"
        "except ModuleNotFoundError as error:\n  print(error.name, error)"
    )
    done = without("jwt cryptography", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("jwt ")
    assert "pip install 'isolane[jwt]'" in done.stdout


def test_a_module_that_is_missing_for_another_reason_is_not_blamed_on_the_extra():
    done = without("isolane.fastapi.workers", "import isolane.fastapi")
    assert "No module named" in done.stderr or "isolane.fastapi.workers" in done.stderr
    assert "isolane[fastapi]" not in done.stderr


def test_the_command_line_names_the_extra_instead_of_a_traceback():
    done = without(" ".join(EXTRA), "from isolane.cli import main; raise SystemExit(main(['config']))")
    assert done.returncode == 1
    assert "pip install 'isolane[fastapi]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "isolane",
        "isolane.compat.user_execution_context",
        "isolane.compat.execution_engine_factory",
        "isolane.compat.unified_tool_dispatcher",
        "isolane.migration.agents",
        "isolane.client",
        "isolane.testing",
    ],
)
def test_the_rest_needs_no_extra(module):
    done = without(" ".join(EXTRA), f"import {module}")
    assert (done.returncode, done.stderr) == (0, "")
