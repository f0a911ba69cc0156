"""Each rule on its own files: what is planted in them is found, its near misses are not, fixes keep the rest."""

from __future__ import annotations

import ast
import re
import shutil

import pytest
from isolane.migration.codemod import RULES
from isolane.migration.codemod.rules.base import Rule

from tests.migrate.support import CASES, fixed, markers, places, put, scan

FIXABLE = [code for code, rule in RULES.items() if rule.fix != "none"]


def case(rule: str, name: str) -> str:
    return (CASES / rule.lower() / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES)
def test_what_is_planted_is_found_and_nothing_else(rule, tmp_path):
    text = case(rule, "planted")
    put(tmp_path, m=text)
    assert sorted({(line, rule) for _, line, rule in places(scan(tmp_path), rule)}) == markers(text)
    assert len(markers(text)) >= 2


@pytest.mark.parametrize("rule", RULES)
def test_near_misses_are_not_found(rule, tmp_path):
    put(tmp_path, m=case(rule, "near"))
    assert places(scan(tmp_path), rule) == []


@pytest.mark.parametrize("rule", FIXABLE)
def test_a_fix_changes_what_was_found_and_keeps_the_rest(rule, tmp_path):
    put(tmp_path, m=case(rule, "before"))
    others = tuple(code for code in RULES if code != rule)
    after = fixed(tmp_path, ignore=others)
    assert after == case(rule, "after")
    ast.parse(after)
    put(tmp_path, m=after)
    assert fixed(tmp_path, ignore=others) == after


def test_every_rule_has_its_files():
    assert {path.name.upper() for path in CASES.iterdir()} == set(RULES)
    for rule in RULES.values():
        names = {path.name for path in (CASES / rule.code.lower()).iterdir()} - {"__pycache__"}
        assert names == {"planted.py", "near.py", *({"before.py", "after.py"} if rule.fix != "none" else set())}


def test_the_page_has_the_rules_as_they_are():
    page = (CASES.parents[2] / "docs" / "migrate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (MIG\d{3}) \| ([^|]+) \| (\w+) \| (\w+) \|$", page, re.MULTILINE)
    assert rows == [(rule.code, rule.title, rule.severity, rule.fix) for rule in RULES.values()]


def found_by_itself(rule: Rule, text: str, root) -> list:
    shutil.rmtree(root, ignore_errors=True)
    imports = (
        "from app.agents.state import DeepAgentState\n"
        if rule.code == "MIG002"
        else "from isolane import UserExecutionContext\nfrom backend.websocket_core import get_websocket_manager\n"
        if rule.code in {"MIG003", "MIG004"}
        else "from starlette.middleware.base import BaseHTTPMiddleware\nfrom contextvars import ContextVar\n"
        "current_user = ContextVar('u')\n"
        if rule.code == "MIG010"
        else ""
    )
    if rule.code == "MIG004":
        text = f"async def example():\n    {text}"
    put(root, m=imports + text)
    return places(scan(root), rule.code)


@pytest.mark.parametrize("code", RULES)
def test_the_examples_of_a_rule_are_what_it_says(code, tmp_path):
    rule = RULES[code]
    assert found_by_itself(rule, rule.before, tmp_path / "before")
    assert found_by_itself(rule, rule.after, tmp_path / "after") == []
    ast.parse(rule.before)
    ast.parse(rule.after)
