"""Fixes: nothing but what was found changes, a second run changes nothing, and files keep their bytes."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolane.migration.codemod import MigrateConfig, scan_paths
from isolane.migration.codemod.errors import NotWrittenError, UnreadableError
from isolane.migration.codemod.fix import fix_report
from isolane.migration.codemod.fix.engine import fix_text
from isolane.migration.codemod.fix.files import write
from isolane.migration.codemod.scan import scan_text
from isolane.migration.codemod.source import SourceText, decode, read

from tests.migrate.support import config, fixed, places, put, scan

INNOCENT = [
    "x = 1  # one\n",
    "def plain(a,b):\n    return  a+b   # spaces\n",
    "text = '''\n  state.user_id or 'x' \n'''\n",
    "class Empty: pass\n",
    "values = {\n    'a':1,\n\n    **other,  # kept\n}\n",
    "\n\n\n",
    "# a comment alone\n",
    "async def waits():\n\tawait other()\n",
    "if x : y=2 ; z=3\n",
    "try:\n    import json\nexcept ImportError: json = None\n",
    "@decorate\n\ndef decorated(): ...\n",
    "unicode = 'äöü \U0001f600'; hidden = '''a\n\n'''\n",
]
PLANTED = [
    "async def f{n}():\n    return (await get_websocket_manager())  # keep {n}\n",
    "a{n} = 'ü'; b{n} = parent.agent_context.copy()  # keep {n}\n",
    "async def g{n}(manager, user_id):\n    await manager.broadcast_message( {{'a': 1}} )  # keep {n}\n",
    "def h{n}(user_id, flags):\n    return hash(user_id) % 100 < 5  # keep {n}\n",
    "def i{n}(state: DeepAgentState, x = 1):  # keep {n}\n    return state.user_id, state.run_id\n",
    "class C{n}:\n    def __init__(self):\n        self.m = get_websocket_manager()  # keep {n}\n",
    (
        "def j{n}(context: UserExecutionContext):\n"
        "    return [get_websocket_manager(), {{**context.audit_metadata}}]  # keep {n}\n"
    ),
]
HEAD = (
    "from app.agents.state import DeepAgentState\n"
    "from backend.websocket_core import get_websocket_manager\n"
    "from isolane import UserExecutionContext\n"
)
SETTINGS = MigrateConfig()


def findings(source: SourceText) -> list:
    return [
        one
        for one in scan_text(source, "m.py", SETTINGS).findings
        if not any("async:" in need[:6] for need in one.needs)
    ]


def blocks() -> st.SearchStrategy[list[tuple[bool, str]]]:
    one = st.one_of(
        st.sampled_from(INNOCENT).map(lambda text: (False, text)),
        st.sampled_from(PLANTED).map(lambda text: (True, text)),
    )
    return st.lists(one, max_size=12)


@given(parts=blocks(), newline=st.sampled_from(["\n", "\r\n", "\r"]), last=st.booleans())
def test_fixed_modules_compile_and_only_what_was_found_differs(parts, newline, last):
    body = [text.format(n=number) if planted else text for number, (planted, text) in enumerate(parts)]
    text = HEAD + "".join(body)
    if not last:
        text = text.rstrip("\n")
    source = SourceText(text.replace("\n", newline))
    result = fix_text(source, findings, unsafe=True)
    ast.parse(result.text)
    # What is innocent stands there as it stood, in order, and so does each comment.
    place = 0
    for number, (planted, _) in enumerate(parts):
        kept = f"# keep {number}" if planted else body[number].rstrip("\n").replace("\n", newline)
        place = result.text.find(kept, place)
        assert place >= 0, kept
    assert result.text.endswith(newline) == source.text.endswith(newline)
    if newline != "\n":
        assert "\n" not in result.text.replace(newline, "")
    # Nothing is left that could be fixed, and a second run changes nothing.
    assert [one for one in findings(SourceText(result.text)) if one.fix is not None] == []
    again = fix_text(SourceText(result.text), findings, unsafe=True)
    assert again.text == result.text
    assert again.fixed == []
    if not any(planted for planted, _ in parts):
        assert [one.rule for one in result.fixed] == ["MIG001"]


def test_without_unsafe_only_safe_fixes_are_made(tmp_path):
    text = HEAD + "".join(one.format(n=1) for one in PLANTED)
    put(tmp_path, m=text)
    after = fixed(tmp_path, unsafe=False)
    assert "return (get_websocket_manager())  # keep 1" in after
    assert after.replace("(get_websocket_manager())", "(await get_websocket_manager())") == text


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("latin", "# -*- coding: latin-1 -*-\nname = 'é'; x = p.agent_context.copy()  # é\n".encode("latin-1")),
        ("crlf", b"a = 1\r\nx = p.agent_context.copy()\r\nb = 2\r\n"),
        ("mixed", b"a = 1\r\nx = p.agent_context.copy()\nb = 2\rc = 3\n"),
        ("bom", b"\xef\xbb\xbfx = p.agent_context.copy()\n"),
        ("tabs", b"if 1:\n\tx = p.agent_context.copy()\n\tif 2:\n\t        y = 1\n"),
        ("feed", b"a = 1\n\x0cx = p.agent_context.copy()\n\x0c\nb = 2 \x0c + 1\n"),
        ("no_end", b"a = 1\nx = p.agent_context.copy()"),
        ("separators", "a = '\u2028\u0085\x1c'\nx = p.agent_context.copy()\n".encode()),
        ("backslash", b"y = 1 + \\\n  p.agent_context.copy()\n"),
        ("wide", "s = '\U0001f600ü'; x = p.agent_context.copy(); t = 'ü'\n".encode()),
    ],
)
def test_a_file_keeps_its_bytes_around_a_fix(name, raw, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_bytes(raw)
    settings = config(tmp_path)
    (one,), problems = fix_report(scan_paths([tmp_path], settings), settings, unsafe=True)
    assert problems == []
    write(path, one.source, one.text)
    newline = b"\r\n" if name in {"crlf", "mixed"} else b"\n"
    added = b"import copy" + newline
    after = path.read_bytes()
    assert after.count(b"import copy") == 1
    without = after.replace(added + newline, b"").replace(added, b"").replace(newline + b"import copy", b"")
    assert without.replace(b"copy.deepcopy(p.agent_context)", b"p.agent_context.copy()") == raw
    compile(after, name, "exec")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"x = '\xff'\n", "not the text"),
        (b"# coding: nonsense\nx = 1\n", "not the text"),
        (b"x = \x00\n", "not Python"),
        (b"def f(:\n", "not Python"),
        (b"x = " + b"(" * 400 + b")" * 400, "not Python|nested"),
        (b"x = " + b"-" * 50000 + b"1", "nested"),
        (b"x = 1" + b" + 1" * 100000, "nested"),
    ],
)
def test_what_cannot_be_parsed_is_said_and_the_rest_goes_on(raw, why, tmp_path):
    (tmp_path / "bad.py").write_bytes(raw)
    put(tmp_path, good="x = p.agent_context.copy()\n")
    report = scan(tmp_path)
    assert places(report) == [("good.py", 1, "MIG008")]
    ((problem),) = report.problems
    assert problem.path == "bad.py"
    assert re.search(why, problem.message)


def test_what_is_nested_deeply_but_can_be_parsed_is_looked_at(tmp_path):
    text = "x = " + "[" * 90 + "p.agent_context.copy()" + "]" * 90 + "\n"
    for depth in range(19):
        text += " " * depth + "if x:\n"
    text += " " * 19 + "y = " + " + ".join(["1"] * 700) + " + len(p.agent_context.copy())\n"
    put(tmp_path, m=text)
    assert len(scan(tmp_path).findings) == 2
    ast.parse(fixed(tmp_path))


def test_what_is_nested_too_deeply_to_be_rewritten_stays(tmp_path):
    text = f"async def f(manager, user_id):\n    await manager.broadcast_message({' + '.join(['1'] * 900)})\n"
    put(tmp_path, m=text)
    settings = config(tmp_path)
    (one,), _ = fix_report(scan_paths([tmp_path], settings), settings, unsafe=True)
    assert one.text == text
    assert "nested too deeply" in one.refused[0][1]


def test_a_fix_that_would_lose_a_comment_is_not_made(tmp_path):
    text = (
        "from app.agents.state import DeepAgentState\n\n\n"
        "def f(\n    state: DeepAgentState,  # the state\n):\n    return state.user_id\n"
    )
    put(tmp_path, m=text)
    assert "# the state" in fixed(tmp_path)
    lost = "x = dict(  # theirs\n    p.agent_context\n)\n"
    put(tmp_path, m=lost)
    settings = config(tmp_path)
    (one,), _ = fix_report(scan_paths([tmp_path], settings), settings, unsafe=True)
    assert one.text == lost
    assert "comment" in one.refused[0][1]


class TestWriting:
    def source(self, path, raw=b"x = 1\n"):
        path.write_bytes(raw)
        return read(path)

    def test_the_mode_is_kept_and_nothing_is_left_beside_it(self, tmp_path):
        path = tmp_path / "m.py"
        source = self.source(path)
        path.chmod(0o751)
        write(path, source, "x = 2\n")
        assert path.read_bytes() == b"x = 2\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o751
        assert [one.name for one in tmp_path.iterdir()] == ["m.py"]

    def test_a_link_stays_a_link(self, tmp_path):
        path = tmp_path / "m.py"
        source = self.source(path)
        link = tmp_path / "link.py"
        link.symlink_to(path)
        write(link, source, "x = 2\n")
        assert link.is_symlink()
        assert path.read_bytes() == b"x = 2\n"

    def test_what_changed_since_is_left_alone(self, tmp_path):
        path = tmp_path / "m.py"
        source = self.source(path)
        path.write_bytes(b"x = 3\n")
        with pytest.raises(NotWrittenError, match="changed since"):
            write(path, source, "x = 2\n")
        assert path.read_bytes() == b"x = 3\n"

    def test_what_may_not_be_written_to_is_left_alone(self, tmp_path):
        path = tmp_path / "m.py"
        source = self.source(path)
        path.chmod(0o444)
        with pytest.raises(NotWrittenError, match="may not"):
            write(path, source, "x = 2\n")
        assert path.read_bytes() == b"x = 1\n"

    def test_a_character_that_the_encoding_lacks_is_refused(self, tmp_path):
        path = tmp_path / "m.py"
        source = self.source(path, b"# coding: ascii\nx = 1\n")
        with pytest.raises(NotWrittenError, match="ascii"):
            write(path, source, "# coding: ascii\nx = 'ü'\n")

    def test_a_text_that_does_not_come_back_as_it_was_is_refused(self, tmp_path):
        path = tmp_path / "m.py"
        # A second way to write a character, which nobody gets back.
        raw = b"# coding: utf-7\nx = '+AOQ-'; y = 1 +- 2; z = '+AGE-'\n"
        path.write_bytes(raw)
        source = decode(raw)
        with pytest.raises(NotWrittenError, match="its bytes are not"):
            write(path, source, source.text)
        assert path.read_bytes() == raw

    def test_a_process_that_is_killed_while_writing_leaves_one_of_both(self, tmp_path):
        path = tmp_path / "m.py"
        raw = b"x = 1\n" * 50000
        self.source(path, raw)
        code = (
            "import sys, os, pathlib\n"
            "from isolane.migration.codemod.fix import files\n"
            "from isolane.migration.codemod.source import read\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "os.replace = lambda *a: os._exit(9)\n"
            "files.write(path, read(path), 'y = 2\\n')\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == 9
        assert path.read_bytes() == raw


def test_without_libcst_the_extra_is_named(tmp_path):
    put(tmp_path, m="x = p.agent_context.copy()\n")
    code = (
        "import sys\n"
        "sys.modules['libcst'] = None\n"
        "from isolane.cli import main\n"
        f"assert main(['migrate', 'scan', {str(tmp_path)!r}]) == 1\n"
        f"raise SystemExit(main(['migrate', 'fix', {str(tmp_path)!r}, '--unsafe']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 2
    assert "isolane[migrate]" in done.stderr


def test_an_unreadable_error_knows_its_line():
    with pytest.raises(UnreadableError) as caught:
        scan_text(SourceText("x = 1\ndef f(:\n"), "m.py", SETTINGS)
    assert caught.value.line == 2


ASYNC_GETTER = "async def get_websocket_manager():\n    return 1\n"


def test_a_wait_is_put_only_where_something_can_wait(tmp_path):
    text = (
        "from app.websocket.manager import get_websocket_manager\n\n\n"
        "async def f():\n"
        "    class A:\n"
        "        m = get_websocket_manager().x\n"
        "        n = [get_websocket_manager().x for _ in range(2)]\n"
        "    return A, get_websocket_manager().x\n"
    )
    put(tmp_path, app__websocket__manager=ASYNC_GETTER, m=text)
    found = fixed(tmp_path, unsafe=False)
    compile(found, "m.py", "exec")
    assert found == text.replace("return A, get_websocket_manager().x", "return A, (await get_websocket_manager()).x")


def test_a_marker_is_put_once_wherever_it_has_to_stand(tmp_path):
    text = (
        "from app.websocket.manager import get_websocket_manager\n\n\n"
        "def f():\n"
        '    x = """\n'
        '    """; y = get_websocket_manager(1)\n'
        "    if x: \\\n"
        "        z = get_websocket_manager(2)\n"
        "    return y, z\n"
    )
    once = fixed(put(tmp_path, m=text))
    assert once.count("TODO(MIG003)") == 2
    assert fixed(put(tmp_path, m=once)) == once


def test_a_context_that_is_made_later_is_not_taken_before(tmp_path):
    text = (
        "from app.websocket.manager import get_websocket_manager\nfrom isolane import UserExecutionContext\n\n\n"
        "def f():\n"
        "    early = get_websocket_manager()\n"
        "    context = UserExecutionContext('ann', 'a', 'b')\n"
        "    return early, get_websocket_manager()\n"
    )
    found = fixed(put(tmp_path, m=text))
    assert "early = get_websocket_manager()\n" in found
    assert "return early, context.get_websocket_emitter()\n" in found
