"""The scan: which files, which names, what comments and baselines leave out, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from isolane.cli import main
from isolane.migration.codemod import RULES, MigrateConfig, MigrateConfigError, load_config, scan_paths
from isolane.migration.codemod.baseline import fingerprint, read_baseline, without_known
from isolane.migration.codemod.config import config_from
from isolane.migration.codemod.files import SKIPPED

from tests.migrate.support import config, fixed, places, put, scan

FOUND = "x = parent.agent_context.copy()\n"
ROOT = Path(__file__).resolve().parents[2]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["migrate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


class TestFiles:
    def test_folders_of_tools_are_skipped_unless_they_are_named(self, tmp_path):
        for folder in sorted(SKIPPED):
            put(tmp_path, **{f"{folder}__m": FOUND})
        put(tmp_path, environment__m=FOUND, package__builder__m=FOUND)
        (tmp_path / "environment" / "pyvenv.cfg").touch()
        assert [path for path, *_ in places(scan(tmp_path))] == ["package/builder/m.py"]
        settings = config(tmp_path)
        assert len(scan_paths([tmp_path / "build"], settings).findings) == 1

    def test_loops_of_links_end_and_a_file_counts_once(self, tmp_path):
        put(tmp_path, a__m=FOUND)
        (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
        (tmp_path / "a" / "self").symlink_to("self")
        (tmp_path / "b.py").symlink_to(tmp_path / "a" / "m.py")
        (tmp_path / "gone.py").symlink_to(tmp_path / "nothing")
        (tmp_path / "round.py").symlink_to("round.py")
        report = scan_paths([tmp_path, tmp_path / "a", tmp_path / "a" / "m.py"], config(tmp_path))
        assert places(report) == [("a/m.py", 1, "MIG008")]
        assert report.files == 1
        assert report.problems == ()

    def test_notebooks_and_others_are_not_touched(self, tmp_path, capsys):
        (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [{"source": [FOUND]}]}))
        (tmp_path / "stub.pyi").write_text(FOUND)
        assert scan(tmp_path).files == 0
        code, out, _ = run(capsys, "scan", tmp_path / "n.ipynb")
        assert code == 2
        assert "neither a folder nor a .py file" in out

    def test_a_huge_file_is_said_to_be_left_out(self, tmp_path):
        (tmp_path / "data.py").write_bytes(b"x = [\n" + b"    1,\n" * 700_000 + b"]\n")
        (problem,) = scan(tmp_path).problems
        assert "larger than 4 MiB" in problem.message

    def test_a_file_that_cannot_be_read_is_said(self, tmp_path):
        if os.geteuid() == 0:
            path = tmp_path / "folder.py"
            path.mkdir()
            assert scan(tmp_path).problems == ()
            return
        put(tmp_path, m=FOUND)
        (tmp_path / "m.py").chmod(0)
        assert "cannot be read" in scan(tmp_path).problems[0].message

    def test_excluded_paths_are_left_out(self, tmp_path):
        put(tmp_path, a__m=FOUND, b__m=FOUND, c=FOUND)
        assert [path for path, *_ in places(scan(tmp_path, exclude=("a", "*/c.py", "c.py")))] == ["b/m.py"]

    def test_several_processes_find_what_one_finds(self, tmp_path):
        put(tmp_path, **{f"m{number}": FOUND if number % 7 == 0 else "x = 1\n" for number in range(120)})
        put(tmp_path, ctx="from contextvars import ContextVar\nvar = ContextVar('v')\n")
        put(
            tmp_path,
            mid="from starlette.middleware.base import BaseHTTPMiddleware\nfrom ctx import var\n\n\n"
            "class M(BaseHTTPMiddleware):\n    async def dispatch(self, r, n):\n        var.set(1)\n",
        )
        one = scan_paths([tmp_path], config(tmp_path), processes=1)
        two = scan_paths([tmp_path], config(tmp_path), processes=2)
        assert one.findings == two.findings
        assert one.files == two.files == 122
        assert one.by_rule() == {"MIG008": 18, "MIG010": 1}

    def test_where_no_process_can_be_started_one_does_it_all(self, tmp_path):
        put(tmp_path, **{f"m{number}": FOUND for number in range(90)})
        code = (
            "from isolane.migration.codemod import MigrateConfig, scan_paths\n"
            "import pathlib, sys\n"
            "root = pathlib.Path(sys.argv[1])\n"
            "print(len(scan_paths([root], MigrateConfig(root=root), processes=2).findings))\n"
        )
        # A program from standard input has no main module that another process could import.
        done = subprocess.run(
            [sys.executable, "-", str(tmp_path)], input=code, text=True, capture_output=True, check=False
        )
        assert done.stdout == "90\n"


class TestNames:
    def test_relative_imports_and_reexports_are_followed_by_name(self, tmp_path):
        put(
            tmp_path,
            **{"svc/app/agents/__init__": "from .state import DeepAgentState\n"},
            svc__app__agents__state="class DeepAgentState: ...\n",
            svc__app__agents__x="from ..agents.state import DeepAgentState as D\n"
            "from . import state\ny = state.DeepAgentState\n",
            svc__app__y="from .agents import DeepAgentState\n",
        )
        assert [(path, line) for path, line, _ in places(scan(tmp_path), "MIG001")] == [
            ("svc/app/agents/__init__.py", 1),
            ("svc/app/agents/x.py", 1),
            ("svc/app/agents/x.py", 3),
        ]
        again = scan(tmp_path, states=("app.agents.DeepAgentState", "app.agents.state.DeepAgentState"))
        assert ("svc/app/y.py", 1, "MIG001") in places(again)

    def test_both_modules_of_the_existing_service_are_known(self, tmp_path):
        put(
            tmp_path,
            m="from service.app.agents.state import DeepAgentState\n"
            "from service.app.schemas.agent_models import DeepAgentState as B\n",
        )
        assert [line for _, line, _ in places(scan(tmp_path))] == [1, 2]

    def test_a_getter_of_the_scanned_files_is_what_it_is_defined_as(self, tmp_path):
        put(
            tmp_path,
            **{"svc/websocket_core/__init__": "async def get_websocket_manager():\n    return 1\n"},
            svc__use="from svc.websocket_core import get_websocket_manager\n\n\n"
            "async def right():\n    m = await get_websocket_manager()\n    return m\n\n\n"
            "async def wrong():\n    get_websocket_manager().send(1)\n"
            "    m = get_websocket_manager()\n    m.send(2)\n\n\n"
            "def late():\n    get_websocket_manager().send(1)\n    return get_websocket_manager()\n",
        )
        report = scan(tmp_path)
        assert [line for _, line, _ in places(report, "MIG004")] == [10, 11, 16]
        by_line = {one.line: one for one in report.findings if one.rule == "MIG004"}
        assert by_line[16].fix is None
        assert "coroutine" in by_line[16].no_fix
        after = fixed(tmp_path, "svc/use.py", unsafe=False)
        assert "    (await get_websocket_manager()).send(1)\n    m = await get_websocket_manager()\n" in after

    def test_async_getters_of_the_configuration_are_awaited(self, tmp_path):
        put(tmp_path, m="from lib.a import get_it\n\n\nasync def f():\n    await get_it()\n    get_it().x\n")
        assert places(scan(tmp_path, async_getters=("lib.a.get_it",)), "MIG004") == [("m.py", 6, "MIG004")]

    def test_a_container_that_a_subclass_in_another_file_changes_is_found(self, tmp_path):
        put(
            tmp_path,
            base="class Base:\n    seen = []\n    unused = []\n",
            child="from base import Base\n\n\nclass Child(Base):\n    def f(self):\n        self.seen.append(1)\n",
        )
        assert places(scan(tmp_path)) == [("base.py", 2, "MIG005")]


class TestComments:
    def test_a_comment_ignores_its_line_the_statement_or_the_line_below(self, tmp_path):
        put(
            tmp_path,
            m="a = p.agent_context.copy()  # mig: ignore[MIG008]\n"
            "# mig: ignore[MIG008]\n"
            "b = p.agent_context.copy()\n"
            "c = dict(\n    p.agent_context  # mig: ignore[MIG007, MIG008]\n)\n"
            "d = p.agent_context.copy()  # mig: ignore[MIG007]\n"
            "e = '# mig: ignore[MIG008]', p.agent_context.copy()\n",
        )
        report = scan(tmp_path)
        assert places(report, "MIG008") == [("m.py", 7, "MIG008"), ("m.py", 8, "MIG008")]
        assert report.suppressed == 3

    def test_comments_that_ignore_nothing_are_reported(self, tmp_path):
        put(
            tmp_path,
            m="x = 1  # mig: ignore[MIG003]\ny = 2  # mig: ignore\n"
            "z = 3  # mig: ignore[MIG099]\nw = 4  # mig: ignore[MIG003]\n",
        )
        report = scan(tmp_path)
        assert [(one.line, one.rule) for one in report.findings] == [(number, "MIG000") for number in (1, 2, 3, 4)]
        assert "nothing of MIG003" in report.findings[0].message
        assert "name the rules" in report.findings[1].message
        assert "no rule 'MIG099'" in report.findings[2].message
        assert [one.line for one in scan(tmp_path, ignore=("MIG003",)).findings] == [2, 3]

    def test_rules_are_turned_off_for_paths(self, tmp_path):
        put(tmp_path, tests__m=FOUND, m=FOUND)
        assert [path for path, *_ in places(scan(tmp_path, per_file_ignores={"tests/*": ("MIG008",)}))] == ["m.py"]
        assert places(scan(tmp_path, ignore=("MIG008",))) == []


class TestConfiguration:
    def test_the_nearest_pyproject_is_read_and_adds_to_what_is_known(self, tmp_path, monkeypatch):
        put(tmp_path, src__m="from shop.state import CartState\nfrom app.agents.state import DeepAgentState\n")
        (tmp_path / "pyproject.toml").write_text(
            '[tool.isolane.migrate]\nstates = ["shop.state.CartState"]\n'
            '[tool.isolane.migrate.per-file-ignores]\n"other/*" = ["MIG001"]\n'
        )
        monkeypatch.chdir(tmp_path / "src")
        report = scan_paths(["."])
        assert places(report) == [("src/m.py", 1, "MIG001"), ("src/m.py", 2, "MIG001")]
        (tmp_path / "pyproject.toml").write_text(
            '[tool.isolane.migrate]\nextend = false\nstates = ["shop.state.CartState"]\n'
        )
        assert places(scan_paths(["."])) == [("src/m.py", 1, "MIG001")]

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ({"stats": []}, "has no 'stats'"),
            ({"states": ["DeepAgentState"]}, "without a module"),
            ({"states": "a.b"}, "list of texts"),
            ({"states": [1]}, "list of texts"),
            ({"ignore": ["MIG013"]}, "no rule 'MIG013'"),
            ({"per_file_ignores": ["x"]}, "table of patterns"),
            ({"flag": ""}, "is a text"),
            ({"extend": 1}, "true or false"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, table, says, tmp_path):
        with pytest.raises(MigrateConfigError, match=says):
            config_from(table, root=tmp_path)

    def test_a_file_that_is_no_toml_is_refused(self, tmp_path, capsys):
        (tmp_path / "pyproject.toml").write_text("[tool")
        with pytest.raises(MigrateConfigError, match="cannot be read"):
            load_config(start=tmp_path)
        code, _, err = run(capsys, "scan", tmp_path)
        assert code == 2
        assert "pyproject.toml cannot be read" in err
        assert "Traceback" not in err


class TestBaseline:
    def test_what_is_known_stays_known_when_lines_move(self, tmp_path, capsys):
        put(tmp_path, m=FOUND + FOUND)
        base = tmp_path / "base.json"
        assert run(capsys, "scan", tmp_path, "--write-baseline", base)[0] == 0
        assert run(capsys, "scan", tmp_path, "--baseline", base)[0] == 0
        put(tmp_path, m="# moved\n\n" + FOUND.replace(" = ", "  =  ") + "y = 1\n" + FOUND)
        code, out, _ = run(capsys, "scan", tmp_path, "--baseline", base)
        assert code == 0
        assert "2 known" in out
        # A third one like them is new, and so is another one.
        put(tmp_path, m=FOUND * 3 + FOUND.replace("x", "z", 1))
        code, out, _ = run(capsys, "scan", tmp_path, "--baseline", base, "--json")
        assert code == 1
        assert [one["line"] for one in json.loads(out)["findings"]] == [3, 4]
        put(tmp_path, m=FOUND)
        assert "1 of the baseline are gone" in run(capsys, "scan", tmp_path, "--baseline", base)[1]

    def test_fixes_leave_alone_what_is_known(self, tmp_path, capsys):
        put(tmp_path, m=FOUND)
        base = tmp_path / "base.json"
        run(capsys, "scan", tmp_path, "--write-baseline", base)
        put(tmp_path, m=FOUND + "y = q.agent_context.copy()\n")
        run(capsys, "fix", tmp_path, "--baseline", base, "--unsafe", "--write")
        text = (tmp_path / "m.py").read_text()
        assert text == "import copy\n\n" + FOUND + "y = copy.deepcopy(q.agent_context)\n"

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"version": 1}', '{"version": 2, "findings": {}}', '{"version":1,"findings":[1]}']
    )
    def test_what_is_no_baseline_is_refused(self, text, tmp_path, capsys):
        base = tmp_path / "base.json"
        base.write_text(text)
        put(tmp_path, m=FOUND)
        code, _, err = run(capsys, "scan", tmp_path, "--baseline", base)
        assert code == 2
        assert "base.json is" in err

    def test_a_fingerprint_knows_rule_file_and_text(self, tmp_path):
        put(tmp_path, a=FOUND, b=FOUND)
        first, second = scan(tmp_path).findings
        assert fingerprint(first) != fingerprint(second)


class TestLedger:
    def test_calls_are_counted_where_they_are_and_named_where_nothing_is_found(self, tmp_path, capsys):
        put(tmp_path, svc__m=FOUND + "y = 1\n", svc__n=FOUND, other__m=FOUND)
        sites = [
            {"symbol": "A", "file": "/srv/site/svc/m.py", "line": 1, "count": 4, "first": 0.0},
            {"symbol": "B", "file": "/srv/site/svc/m.py", "line": 2, "count": 7},
            {"symbol": "C", "file": "/srv/site/else/n.py", "line": 1, "count": 2},
        ]
        _empty(tmp_path)
        ledger = tmp_path / "ledger.json"
        ledger.write_text(json.dumps({"worker": {"sites": sites}}))
        code, out, _ = run(capsys, "scan", tmp_path, "--from-ledger", ledger, "--json")
        report = json.loads(out)
        assert code == 1
        assert [(one["path"], one["hits"]) for one in report["findings"]] == [
            ("svc/m.py", 4),
            ("other/m.py", 0),
            ("svc/n.py", 0),
        ]
        assert [(one["symbol"], one["count"]) for one in report["unseen"]] == [("B", 7), ("C", 2)]
        _, out, _ = run(capsys, "scan", tmp_path, "--from-ledger", ledger)
        assert "svc/m.py:1:5: MIG008" in out.splitlines()[0]
        assert "(4 calls in the ledger)" in out.splitlines()[0]

    def test_what_a_process_really_called_is_counted(self, tmp_path, capsys):
        put(
            tmp_path,
            app__m="from isolane.migration.legacy import get_websocket_manager\n\n\n"
            "def f():\n    return get_websocket_manager()\n\n\nfor _ in range(3):\n    f()\n",
        )
        _empty(tmp_path)
        folder = tmp_path / "ledger"
        folder.mkdir()
        environment = {**os.environ, "ISOLANE_LEDGER_DIR": str(folder), "ISOLANE_WARN": "off"}
        subprocess.run([sys.executable, str(tmp_path / "app" / "m.py")], check=True, env=environment)
        _, out, _ = run(capsys, "status", tmp_path / "app", "--ledger", folder, "--json")
        printed = tmp_path / "status.json"
        printed.write_text(out)
        for ledger in (folder, printed):
            report = json.loads(run(capsys, "scan", tmp_path / "app", "--from-ledger", ledger, "--json")[1])
            assert [(one["line"], one["rule"], one["hits"]) for one in report["findings"]] == [(5, "MIG003", 3)]
            assert report["unseen"] == []

    def test_what_is_no_ledger_is_refused(self, tmp_path, capsys):
        put(tmp_path, m=FOUND)
        code, _, err = run(capsys, "scan", tmp_path, "--from-ledger", tmp_path / "m.py")
        assert code == 2
        assert "m.py is no ledger" in err


class TestOutput:
    def test_exit_codes(self, tmp_path, capsys):
        put(tmp_path, clean__m="x = 1\n", found__m=FOUND, bad__m="def f(:\n")
        (tmp_path / "empty").mkdir()
        assert run(capsys, "scan", tmp_path / "clean")[0] == 0
        assert run(capsys, "scan", tmp_path / "empty")[0] == 0
        assert run(capsys, "scan", tmp_path / "found")[0] == 1
        assert run(capsys, "scan", tmp_path / "bad")[0] == 2
        assert run(capsys, "scan", tmp_path)[0] == 1
        assert run(capsys, "scan", tmp_path / "nowhere")[0] == 2
        with pytest.raises(SystemExit) as caught:
            main(["migrate", "scan"])
        assert caught.value.code == 2

    def test_there_is_always_a_summary(self, tmp_path, capsys):
        put(tmp_path, m=FOUND, bad="def f(:\n")
        _, out, _ = run(capsys, "scan", tmp_path)
        assert "2 files" in out.splitlines()[-1]
        assert "1 finding (MIG008 1)" in out.splitlines()[-1]
        assert "1 not looked at" in out.splitlines()[-1]
        (tmp_path / "none").mkdir()
        assert "nothing found" in run(capsys, "scan", tmp_path / "none")[1]

    def test_nothing_is_written_without_write(self, tmp_path, capsys):
        put(tmp_path, m=FOUND)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
        code, out, err = run(capsys, "fix", tmp_path, "--unsafe")
        assert code == 1
        assert "+x = copy.deepcopy(parent.agent_context)" in out
        assert "--write writes them" in err
        assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before

    def test_what_is_printed_is_a_patch(self, tmp_path, capsys):
        put(tmp_path, m="a = 1\n" + FOUND.rstrip("\n"), n="import os\n\n\ndef f():\n    return {**p.audit_metadata}\n")
        _, out, _ = run(capsys, "fix", tmp_path, "--unsafe", "--config", _empty(tmp_path))
        done = subprocess.run(
            ["git", "apply", "-p1"], cwd=tmp_path, input=out, text=True, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "n.py").read_text().startswith("import copy\nimport os\n")
        assert run(capsys, "scan", tmp_path)[0] == 0

    def test_write_writes_and_a_second_time_changes_nothing(self, tmp_path, capsys):
        put(tmp_path, m=FOUND)
        code, out, _ = run(capsys, "fix", tmp_path, "--unsafe", "--write")
        assert code == 0
        assert "1 files written" in out
        stamp = (tmp_path / "m.py").stat().st_mtime_ns
        code, out, _ = run(capsys, "fix", tmp_path, "--unsafe", "--write")
        assert (code, (tmp_path / "m.py").stat().st_mtime_ns) == (0, stamp)
        assert "nothing to fix" in out

    def test_json_is_stable_and_complete(self, tmp_path, capsys):
        put(tmp_path, m=FOUND)
        report = json.loads(run(capsys, "scan", tmp_path, "--json")[1])
        assert set(report) == {"version", "findings", "problems", "unseen", "summary"}
        assert report["findings"] == [
            {
                "rule": "MIG008",
                "severity": "warning",
                "path": report["findings"][0]["path"],
                "line": 1,
                "column": 5,
                "end_line": 1,
                "end_column": 32,
                "message": "a shallow copy of parent.agent_context shares everything inside it; copy it deeply",
                "snippet": FOUND.strip(),
                "fix": "unsafe",
                "no_fix": None,
                "hits": 0,
            }
        ]

    def test_sarif_has_the_shape_of_its_schema(self, tmp_path, capsys):
        put(tmp_path, **{"a b": FOUND, "bad": "def f(:\n"})
        document = json.loads(run(capsys, "scan", tmp_path, "--sarif")[1])
        jsonschema.validate(document, json.loads((Path(__file__).parent / "sarif-shape.json").read_text()))
        (result,) = document["runs"][0]["results"]
        rules = [one["id"] for one in document["runs"][0]["tool"]["driver"]["rules"]]
        assert result["ruleId"] in rules
        assert set(RULES) <= set(rules)
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("a%20b.py")
        assert document["runs"][0]["invocations"][0]["executionSuccessful"] is False

    def test_github_gets_annotations_that_nothing_breaks_out_of(self, tmp_path, capsys):
        put(tmp_path, **{"a,b": "user_id = d.get('user_id', 'x%0a\\n::error::')\n"})
        _, out, _ = run(capsys, "scan", tmp_path, "--github")
        lines = [line for line in out.splitlines() if line.startswith("::")]
        assert len(lines) == 1
        assert lines[0].startswith("::error file=")
        assert "a%2Cb.py,line=1,endLine=1,col=11,title=MIG007::" in lines[0]
        assert "%250a" in lines[0]

    def test_a_terminal_obeys_nothing_of_what_was_read(self, tmp_path, capsys):
        (tmp_path / "a\x1b[31m\nb.py").write_text("user_id = d.get('user_id', 'x\\x1b[2J')\n")
        _, out, _ = run(capsys, "scan", tmp_path)
        assert len(out.splitlines()) == 2
        assert "\x1b" not in out

    @pytest.mark.parametrize("code", RULES)
    def test_every_rule_is_explained(self, code, capsys):
        exit_code, out, _ = run(capsys, "explain", code.lower())
        assert exit_code == 0
        assert RULES[code].title in out
        assert "Before:" in out
        assert f"# mig: ignore[{code}]" in out

    def test_a_rule_that_is_not_there_is_not_explained(self, capsys):
        code, _, err = run(capsys, "explain", "MIG013")
        assert code == 2
        assert "MIG012" in err


def _empty(folder: Path) -> Path:
    path = folder / "pyproject.toml"
    path.write_text("")
    return path


def test_the_legacy_service_has_what_was_planted_in_it():
    report = scan_paths([ROOT / "examples" / "legacy_service"], MigrateConfig(root=ROOT))
    assert set(report.by_rule()) == set(RULES)
    assert report.problems == ()


def test_this_project_is_scanned_without_a_problem():
    report = scan_paths([ROOT / "python", ROOT / "examples" / "optimizer"], MigrateConfig(root=ROOT), processes=1)
    assert report.problems == ()
    assert report.files > 150


GETTER = "from app.websocket.manager import get_websocket_manager\n\n\nasync def f():\n"
MANY = {
    "getters": (GETTER, "    m{0} = await get_websocket_manager()\n    m{0}.send()\n"),
    "locks": (
        "import threading\n\n\nclass A:\n    def __init__(self):\n        self.lock = threading.Lock()\n",
        "    async def m{0}(self):\n        self.x{0} = 1\n        with self.lock:\n            await f({0})\n",
    ),
    "states": (
        "from app.agents.state import DeepAgentState\n",
        "def f{0}(state: DeepAgentState, run_id):\n    return state.user_id\n",
    ),
}


@pytest.mark.parametrize("kind", MANY)
def test_many_findings_in_one_file_do_not_make_it_slow(tmp_path, kind):
    beginning, each = MANY[kind]
    (tmp_path / "many.py").write_text(beginning + "".join(each.format(number) for number in range(3_000)))
    report = scan_paths([tmp_path], MigrateConfig(root=tmp_path))
    assert len(report.findings) >= 3_000
    assert report.seconds < 5, "it took from eight to forty seconds when each finding looked through the file"


CLI = "import sys; from isolane.cli import main; sys.exit(main(sys.argv[1:]))"


def test_names_of_files_that_are_no_text_are_printed(tmp_path):
    name = os.fsdecode(b"b\xff.py")
    (tmp_path / name).write_text('owner = user_id or "anonymous"\n')
    for option in ("--json", "--sarif", "--github", "--write-baseline=known.json"):
        done = subprocess.run(
            [sys.executable, "-c", CLI, "migrate", "scan", ".", option],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (0 if "baseline" in option else 1), (option, done.stderr)
        assert done.stderr == b""
    known = read_baseline(tmp_path / "known.json")
    assert without_known(scan_paths([tmp_path], MigrateConfig(root=tmp_path)).findings, known)[:2] == ([], 1)
