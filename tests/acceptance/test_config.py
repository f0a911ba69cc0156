"""``accept.toml``: what is wrong is said with its key, its value and what is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from isolane.acceptance import AcceptanceConfig, AcceptanceConfigError
from isolane.acceptance.init import toml

ROOT = Path(__file__).parents[2]
RUN = '[run]\npath = "/runs"\njson = { text = "{canary}" }\nsave = { run = "/id" }\n'


def parsed(tmp_path: Path, text: str) -> AcceptanceConfig:
    path = tmp_path / "accept.toml"
    path.write_text(text, encoding="utf-8")
    return AcceptanceConfig.read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema = 2\n" + RUN, r"^schema: is 2\. Allowed: a whole number from 1 to 1$"),
        ("", r"^run: is missing\. Allowed: a table with the request"),
        (RUN + 'ends = "whenever"', r"^run\.ends: is 'whenever'\. Allowed: response, stream, event, poll$"),
        (RUN + "second = 3", r"^run\.second: is not known; did you mean seconds\?"),
        (RUN + "seconds = -1", r"^run\.seconds: is -1\. Allowed: a number from 0\.1 to 3600$"),
        (RUN + 'ends = "stream"', r"^run\.ends: is 'stream' and there is no \[socket\]\. Allowed: response, poll$"),
        (RUN + 'ends = "poll"', r"^run\.poll: is missing"),
        (RUN.replace("{canary}", "x"), r"^run: puts \{canary\} nowhere"),
        (RUN.replace("{canary}", "{canary} {thing}"), r"^run: has the placeholder \{thing\}, which nothing fills in"),
        (RUN.replace("/runs", "runs"), r"^run\.path: is 'runs'\. Allowed: a path that begins with /"),
        (RUN + 'text = "{canary}"', r"^run\.text: stands beside json\. Allowed: one body"),
        (RUN.replace('"/id"', '"id"'), r"^run\.save\.run: is 'id'\. Allowed: a JSON pointer"),
        (
            RUN + '[socket]\npath = "/ws"\nprotocol = "grpc"',
            r"^socket\.protocol: is 'grpc'\. Allowed: isolane\.v1, plain, sse$",
        ),
        (RUN + '[events]\ntyp = "/type"', r"^events\.typ: is not known; did you mean type\?"),
        (
            RUN + '[events]\nrun = "run_id"',
            r"^events\.run: is 'run_id'\. Allowed: a JSON pointer such as /type, or a list",
        ),
        (RUN + "[load]\nusers = 1", r"^load\.users: is 1\. Allowed: at least 2"),
        (RUN + "[thresholds]\nspeed = 1", r"^thresholds\.speed: is not known"),
        (RUN + '[[users.accounts]]\nuser = "ann"', r"^users\.accounts: has one user"),
        (RUN + "[login]\nheaders = 3", r"^login\.headers: is a number\. Allowed: a table of texts"),
        (RUN + '[security]\nrefused = ["no"]', r"^security\.refused: is \['no'\]\. Allowed: a list of status codes"),
        (
            RUN.replace('save = { run = "/id" }\n', "") + '[[read]]\npath = "/runs/{run}"',
            r"^run\.save: does not name run",
        ),
        ("a =", r"is no TOML"),
        (
            RUN + '[[users.accounts]]\nuser = "ann"\n[[users.accounts]]\nuser = "ann"',
            r"^users\.accounts\[1\]\.user: is that of an account above\. Allowed: another user for each account$",
        ),
        (RUN + '[skip]\nspeed = "no"', r"^skip\.speed: is no test\. Allowed: user_isolation, "),
        (RUN + '[skip]\nsecurity = " "', r"^skip\.security: is empty\. Allowed: the reason"),
        (RUN + '[app]\ntarget = "main"', r"^app\.target: is 'main'\. Allowed: module:app"),
        (
            RUN + '[app]\nurl = "localhost:80"',
            r"^app\.url: is 'localhost:80'\. Allowed: an address",
        ),
        (
            RUN + '[app]\nurl = "http://x"\ntarget = "m:a"',
            r"^app\.url: stands beside app\.target\. Allowed: one of",
        ),
        (
            RUN + '[app]\ntarget = "m:a"\ndirectory = "gone"',
            r"^app\.directory: is 'gone'\. Allowed: a folder",
        ),
        (RUN + '[app]\ntarget = "m:a"\nenv = { A = 1 }', r"^app\.env\.A: is a number\. Allowed: a text$"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, says) -> None:
    with pytest.raises(AcceptanceConfigError, match=says):
        parsed(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(AcceptanceConfigError, match="`isolane accept init` writes one"):
        AcceptanceConfig.read(tmp_path / "none.toml")


def test_secrets_come_from_the_environment_and_are_not_shown(tmp_path, monkeypatch) -> None:
    text = RUN + '[[users.accounts]]\nuser = "ann"\npassword = "env:ANN_PW"\n[[users.accounts]]\nuser = "bob"\n'
    with pytest.raises(
        AcceptanceConfigError, match=r"users\.accounts\[0\]\.password: is taken from ANN_PW, which is not set"
    ):
        parsed(tmp_path, text)
    monkeypatch.setenv("ANN_PW", "hunter2")
    assert parsed(tmp_path, text).accounts[0].values == {"password": "hunter2"}
    login = parsed(
        tmp_path, RUN + '[login.request]\npath = "/login"\njson = { a = [{ password = "env:ANN_PW" }] }'
    ).login
    assert login is not None
    assert login.json == {"a": [{"password": "hunter2"}]}
    with pytest.raises(AcceptanceConfigError, match=r"^run\.json\.b: is taken from NOT_SET, which is not set"):
        parsed(tmp_path, RUN.replace("{ text", '{ b = "env:NOT_SET", text'))


@pytest.mark.parametrize(
    "path", ["examples/optimizer/accept.toml", "examples/legacy_service/accept.toml", "examples/host/accept.toml"]
)
def test_the_examples_are_valid(path) -> None:
    AcceptanceConfig.read(ROOT / path)


def test_values_are_written_as_toml_reads_them() -> None:
    value = {"a b": 'x"\\y', "n": [1, 2.5, True], "t": {"u": "ä{canary}"}}
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value
