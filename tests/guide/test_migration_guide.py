"""docs/migration-guide.md, command by command: what a reader types, and what the reader is shown."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "migration-guide.md"
MARK = "--- ended with "
PARTS = ("Before", "Week 1", "Week 2", "Week 3", "Week 4", "Week 5")


@dataclass
class Step:
    """One command of the guide.

    Attributes:
        section: the heading above it.
        command: what is typed.
        shown: the lines below it; ``...`` stands for anything.
        status: what it ends with.
    """

    section: str
    command: str
    shown: list[str] = field(default_factory=list)
    status: int = 0


def steps_of(text: str) -> list[Step]:
    """Return the commands of all ``console`` blocks, in order."""
    found: list[Step] = []
    section, inside = "", False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```console"
        elif line.startswith("## "):
            section = line.removeprefix("## ")
        elif inside and line.startswith("$ "):
            found.append(Step(section, line.removeprefix("$ ")))
        elif inside and re.fullmatch(r"exit \d+", line):
            found[-1].status = int(line.removeprefix("exit "))
        elif inside:
            found[-1].shown.append(line)
    return found


def pattern_of(shown: list[str]) -> re.Pattern[str]:
    """Return what the output must match: ``...`` alone is any number of lines, else any text of a line."""
    parts = []
    for line in shown:
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(re.escape(piece) for piece in line.split("...")) + r"\n")
    return re.compile("".join(parts))


def run(steps: list[Step], clone: Path) -> list[tuple[int, str]]:
    """Type the commands into one shell, and return what each ended with and wrote."""
    script = "\n".join(f"{{ {step.command}\n}} 2>&1; status=$?; echo; echo '{MARK}'$status" for step in steps)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ISOLANE_")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=clone,
        env={**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    ended = re.findall(rf"((?:.*\n)*?)\n?{re.escape(MARK)}(\d+)\n", done.stdout)
    assert len(ended) == len(steps), done.stdout
    return [(int(status), text) for text, status in ended]


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> dict[str, list[tuple[Step, int, str]]]:
    """The whole guide, followed once."""
    if shutil.which("git") is None:
        assert not os.environ.get("ISOLANE_REQUIRE_ALL"), "git is not installed"
        pytest.skip("left out: git applies the guide's diffs, and is not installed")
    folder = tmp_path_factory.mktemp("guide")
    # Readers keep their things in a repository as well, where git goes by other rules.
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    clone = folder / "isolane"
    shutil.copytree(ROOT / "examples" / "legacy_service", clone / "examples" / "legacy_service")
    steps = steps_of(GUIDE.read_text())
    sections: dict[str, list[tuple[Step, int, str]]] = {}
    for step, (status, text) in zip(steps, run(steps, clone), strict=True):
        sections.setdefault(step.section.partition(":")[0], []).append((step, status, text))
    return sections


@pytest.mark.timeout(330)
@pytest.mark.parametrize("part", PARTS)
def test_what_the_guide_says_is_what_happens(followed, part):
    assert followed[part], f"the guide has no commands in {part!r}"
    for step, status, text in followed[part]:
        assert status == step.status, f"$ {step.command}\n{text}"
        assert pattern_of(step.shown).match(text), f"$ {step.command}\nwrote\n{text}\nand not\n" + "\n".join(step.shown)


def test_a_guide_that_promises_something_else_is_noticed():
    shown = steps_of("## Week 1\n```console\n$ isolane accept\n...\nPASSED: 8 passed\nexit 1\n```\n")
    assert [(step.command, step.shown, step.status) for step in shown] == [
        ("isolane accept", ["...", "PASSED: 8 passed"], 1)
    ]
    pattern = pattern_of(shown[0].shown)
    assert pattern.match("some\nlines\nPASSED: 8 passed\n")
    assert not pattern.match("some\nlines\nFAILED: 7 passed, 1 failed\n")


def test_each_week_has_a_diff_and_the_guide_applies_it():
    weeks = sorted((ROOT / "examples" / "legacy_service" / "weeks").glob("*.diff"))
    applied = [step.command for step in steps_of(GUIDE.read_text()) if step.command.startswith("git apply")]
    assert applied == [f"git apply weeks/{week.name}" for week in weeks]
    assert len(weeks) == 5
