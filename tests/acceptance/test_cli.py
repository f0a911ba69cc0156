"""``isolane accept`` as a person runs it, and the same through pytest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest
from isolane.acceptance import TESTS, AcceptanceConfig, AcceptanceTestResult, TestResult, as_junit
from isolane.cli import main

ROOT = Path(__file__).parents[2]
HELPDESK = ROOT / "examples" / "legacy_service"
OPTIMIZER = ROOT / "examples" / "optimizer" / "accept.toml"


def test_the_help_desk_of_singletons_fails_and_each_leak_is_named(capsys, tmp_path) -> None:
    arguments = ["accept", "--config", str(HELPDESK / "accept.toml"), "--only", "user_isolation", "--only", "security"]
    assert main([*arguments, "--json", str(tmp_path / "r.json"), "--junit", str(tmp_path / "r.xml")]) == 1
    shown = capsys.readouterr().out
    for leak in (
        # The manager of sockets tells everybody, and answers are anybody's. Whether an overwritten state or a cached
        # search shows in the answer of a run is a matter of turns.
        "in /ws, event tool_completed at $.payload.result[*]",
        "in /ws, event agent_completed at $.payload.result",
        "in GET /runs/{run} at $.answer",
        "not refused: GET /runs/{run} of another user's run (HTTP 200)",
    ):
        assert leak in shown
    assert "FAILED: 2 failed" in shown
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (report["schema"], report["success"]) == (1, False)
    assert report["tests"]["user_isolation"]["verdict"] == "failed"
    suite = ET.parse(tmp_path / "r.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "2",
        "2",
        "0",
        "0",
    )


@pytest.mark.parametrize(
    "tests",
    [["websocket_isolation", "legacy_compatibility"], pytest.param(list(TESTS), marks=pytest.mark.long)],
    ids=["two", "all"],
)
def test_the_example_on_isolane_passes(tests, capsys, tmp_path) -> None:
    config = tmp_path / "accept.toml"
    text = OPTIMIZER.read_text(encoding="utf-8").replace('"../.."', json.dumps(str(ROOT)))
    # A busy machine is no fault of the example.
    config.write_text(
        f"{text}\n[thresholds]\nevent = {{ target = 5 }}\nconcurrent = {{ target = 60 }}\n", encoding="utf-8"
    )
    only = [word for name in tests for word in ("--only", name)]
    assert main(["accept", "--config", str(config), *only]) == 0, capsys.readouterr().out
    assert f"PASSED: {len(tests)} passed" in capsys.readouterr().out


def test_the_example_on_singletons_fails(running_as_legacy, capsys) -> None:
    assert main(["accept", "--config", str(running_as_legacy), "--only", "user_isolation"]) == 1
    assert "leak: " in capsys.readouterr().out


@pytest.fixture
def running_as_legacy(tmp_path) -> Path:
    """The same configuration, with the switch to the leaking path thrown by each user."""
    text = OPTIMIZER.read_text(encoding="utf-8")
    text = text.replace('directory = "../.."', f"directory = {json.dumps(str(ROOT))}")
    text = text.replace('path = "/ws"\nprotocol = "isolane.v1"', 'path = "/legacy/ws"\nprotocol = "plain"')
    text = text.replace('subprotocols = ["isolane.v1", "bearer.{token}"]', 'subprotocols = ["bearer.{token}"]')
    text = text.replace('ends = "stream"', 'ends = "poll"\nseconds_ = 0').replace("seconds_ = 0\n", "")
    poll = '[run.poll]\npath = "/api/runs/{run}"\n'
    switch = '[[prepare]]\npath = "/api/mode"\njson = { mode = "legacy" }\n'
    path = tmp_path / "accept.toml"
    path.write_text(f"{text}\n{switch}\n{poll}", encoding="utf-8")
    return path


@pytest.mark.parametrize(("modules", "code"), [("examples.host.legacy", 1), ("isolane.compat", 0)])
def test_the_host_fails_on_its_own_modules_and_passes_on_isolanes(modules, code, tmp_path, capsys) -> None:
    shutil.copytree(ROOT / "examples" / "host", tmp_path / "examples" / "host")
    shutil.copy(ROOT / "examples" / "__init__.py", tmp_path / "examples")
    app = tmp_path / "examples" / "host" / "app.py"
    app.write_text(app.read_text(encoding="utf-8").replace("examples.host.legacy", modules), encoding="utf-8")
    config = str(tmp_path / "examples" / "host" / "accept.toml")
    only = ["--only", "user_isolation", "--only", "websocket_isolation"]
    assert main(["accept", "--config", config, *only]) == code
    shown = capsys.readouterr().out
    assert ("received a run id of" in shown) is bool(code)


def test_reports_have_the_form_of_pytests(tmp_path) -> None:
    """Every element and attribute of the XML is one that pytest writes as well, in the same place."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise ValueError('x')\n"
        "def test_ok(record_property): print('x'); record_property('a', 'b')\n"
        "def test_no(): assert 0\n"
        "def test_error(broken): pass\n"
        "@pytest.mark.skip(reason='x')\ndef test_skip(): pass\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "--junit-xml", "r.xml", "-o", "junit_logging=all", "-q"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, env=environment)
    theirs = parts(ET.parse(tmp_path / "r.xml").getroot())

    results = AcceptanceTestResult("a \x00 target", 3)
    for name in ("passed", "failed", "inconclusive", "skipped"):
        result = TestResult(name)
        results.add_test_result(name, result)
        if name != "inconclusive":
            result.add_check("things", 2)
            result.add_control("a fault", seen=True)
    results.results["failed"].add_failure("wrong: <&> \x1b")
    results.results["skipped"].skipped = "a reason"
    root = ET.fromstring(as_junit(results).encode())
    suite = root.find("testsuite")
    assert suite is not None
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    # Properties of a suite are written by pytest's record_testsuite_property.
    assert parts(root) - theirs <= {
        ("testsuites/testsuite/properties", ""),
        *(("testsuites/testsuite/properties/property", name) for name in ("", "name", "value")),
    }


def parts(element: ET.Element, above: str = "") -> set[tuple[str, str]]:
    """Return the paths of all elements, each alone and with each of its attributes."""
    path = f"{above}/{element.tag}".lstrip("/")
    found = {(path, ""), *((path, name) for name in element.attrib)}
    return found.union(*(parts(child, path) for child in element))


def test_isolane_itself(capsys) -> None:
    assert main(["accept", "--self", "--only", "security", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "isolane in this process"


def test_init_finds_the_routes_of_a_service(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(HELPDESK)
    path = tmp_path / "accept.toml"
    assert main(["accept", "init", "--app", "app.main:app", "--output", str(path)]) == 0
    config = AcceptanceConfig.read(path)
    assert config.login is not None
    assert config.login.place == "POST /login"
    assert config.run.place == "POST /runs"
    assert "{canary}" in config.run.json["question"]
    assert [step.path for step in config.reads] == ["/runs/{run}"]
    assert config.socket is not None
    assert config.socket.path == "/ws"
    capsys.readouterr()
    assert main(["accept", "init", "--app", "app.main:app", "--output", str(path)]) == 2
    assert "--force writes over it" in capsys.readouterr().err
    # What was written can be run as it is: it finds the leak.
    assert main(["accept", "--app", "app.main:app", "--config", str(path), "--only", "user_isolation"]) == 1
    assert "received a canary of" in capsys.readouterr().out


def test_init_without_a_service_writes_an_example(tmp_path) -> None:
    path = tmp_path / "accept.toml"
    assert main(["accept", "init", "--output", str(path)]) == 0
    assert AcceptanceConfig.read(path).run.path == "/runs"


@pytest.mark.parametrize(
    ("target", "says"),
    [("no.such:app", "ended with 1 instead of serving"), ("isolane:no_such_app", "instead of serving")],
)
def test_a_service_that_does_not_start(target, says, capsys) -> None:
    assert main(["accept", "--config", str(HELPDESK / "accept.toml"), "--app", target]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Its last lines" in error


@pytest.mark.parametrize("missing", ["httpx", "websockets"])
def test_without_the_extra_it_is_named(missing) -> None:
    hide = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['isolane', 'accept', '--config', 'accept.toml']\n"
    code = hide + "from isolane.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code], cwd=HELPDESK, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'isolane[acceptance]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_wrong(tmp_path, capsys) -> None:
    path = tmp_path / "accept.toml"
    path.write_text("schema = 3\n", encoding="utf-8")
    assert main(["accept", "--config", str(path)]) == 2
    assert "schema: is 3. Allowed: a whole number from 1 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_stops_the_suite_stops_the_service(stop) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        " from isolane.cli import main; raise SystemExit(main(['accept']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=HELPDESK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as suite:
        assert suite.stdout is not None
        # The first result: the service runs, and the next test is under way.
        for line in suite.stdout:
            if line.startswith("  "):
                break
        children = Path(f"/proc/{suite.pid}/task/{suite.pid}/children").read_text(encoding="ascii").split()
        assert len(children) == 1
        suite.send_signal(stop)
        _, error = suite.communicate(timeout=30)
    assert suite.returncode == 130
    assert error == "Stopped, and the service with it.\n"
    assert not Path(f"/proc/{children[0]}").exists()


def test_nobody_can_sign_in(tmp_path, capsys) -> None:
    text = (HELPDESK / "accept.toml").read_text(encoding="utf-8").replace('path = "/login"', 'path = "/nowhere"')
    path = tmp_path / "accept.toml"
    path.write_text(text.replace("[app]", f"[app]\ndirectory = {json.dumps(str(HELPDESK))}"), encoding="utf-8")
    assert main(["accept", "--config", str(path), "--only", "user_isolation"]) == 1
    assert "could not sign in: POST /nowhere answered 404 (login.request)" in capsys.readouterr().out


CONFTEST = """
import contextlib
from isolane.acceptance import plugin

def pytest_addoption(parser):
    # Where isolane is installed, its own plugin declares the option.
    with contextlib.suppress(ValueError):
        parser.addoption(plugin.OPTION)

def pytest_configure(config):
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin)
"""


def test_pytest_collects_the_eight(running_service, tmp_path, monkeypatch) -> None:
    url, pid = running_service
    text = (Path(__file__).parent / "accept.toml").read_text(encoding="utf-8")
    config = tmp_path / "accept.toml"
    lines = [line for line in text.splitlines() if not line.startswith(("target = ", "directory = "))]
    text = "\n".join(lines).replace("[app]", f'[app]\nurl = "{url}"\npid = {pid}')
    config.write_text(text, encoding="utf-8")
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n", encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    # The plugins of this project's own tests have no part in it.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    options = ["--isolane-accept", "accept.toml", "--junit-xml", "r.xml", "-k", "mine or security"]
    httpx.post(f"{url}/fault/reads_of_others", trust_env=False)
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert "1 failed, 1 passed, 7 deselected" in done.stdout, done.stdout + done.stderr
    assert "not refused: GET /runs/{run} of another user's run (HTTP 200)" in done.stdout
    assert "Traceback" not in done.stdout
    cases = ET.parse(tmp_path / "r.xml").getroot().iter("testcase")
    assert sorted(case.get("name") for case in cases) == ["security", "test_mine"]
    config.write_text("schema = 4\n", encoding="utf-8")
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 4
    assert "schema: is 4" in done.stderr
