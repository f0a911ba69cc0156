"""The documents: their examples run, their links lead somewhere, their tables are those of the code."""

import gc
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from isolane.fastapi import IsolaneSettings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*EXAMPLES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))]

FENCE = re.compile(r"^```(?P<language>[\w-]*)\s*$")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<title>.+?)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block and the line of its first statement."""

    path: Path
    line: int
    language: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def fenced(path: Path) -> Iterator[Block]:
    """All fenced blocks of a document."""
    language, start, lines = None, 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if language is None:
            if fence:
                language, start, lines = fence["language"], number + 1, []
        elif line.rstrip() == "```":
            yield Block(path, start, language, "\n".join(lines) + "\n")
            language = None
        else:
            lines.append(line)
    assert language is None, f"{path.name}: the block before line {start} is not closed"


def prose(path: Path) -> list[tuple[int, str]]:
    """The numbered lines outside of fenced blocks and inline code."""
    inside = False
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            lines.append((number, re.sub(r"`[^`]*`", "``", line)))
    return lines


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = [
        heading["title"]
        for line in path.read_text(encoding="utf-8").splitlines()
        if (heading := HEADING.match(line)) is not None
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def run(block: Block) -> None:
    """Execute a block in a namespace of its own. What it raises names the document and its line."""
    # Lines before the block are kept empty, so that line numbers are those of the document.
    code = compile("\n" * (block.line - 1) + block.source, str(block.path), "exec")
    namespace = {"__name__": "documents_example"}
    try:
        exec(code, namespace)
    except Exception as error:  # noqa: BLE001 - whatever an example raises is reported with its line
        trace = error.__traceback__
        lines = []
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(block.path):
                lines.append(trace.tb_lineno)
            trace = trace.tb_next
        where = f"{block.path.relative_to(ROOT)}:{lines[-1] if lines else block.line}"
        pytest.fail(f"the example at {where} raised {type(error).__name__}: {error}", pytrace=False)
    finally:
        # Contexts that an example leaves would be seen by tests that look at all live contexts.
        namespace.clear()
        gc.collect()


BLOCKS = [block for path in EXAMPLES for block in fenced(path) if block.language == "python"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_an_example_runs_as_it_stands(block):
    run(block)


def test_the_readme_and_every_page_on_a_subject_have_examples():
    subjects = ("contexts", "limits", "pools", "engines", "events", "fastapi", "isolation", "errors", "compat")
    ways_in = ("index", "quickstart", "integration", "concepts")
    expected = {"README.md", *(f"{name}.md" for name in (*subjects, *ways_in))}
    assert expected - {block.path.name for block in BLOCKS} == set()


def test_every_block_says_what_it_is():
    known = {"python", "text", "mermaid", "console"}
    unnamed = [block.name for path in DOCUMENTS for block in fenced(path) if block.language not in known]
    assert unnamed == []
    # The guide's commands are run, and compared with what they print, by tests/guide.
    typed = {
        block.name.partition(":")[0] for path in DOCUMENTS for block in fenced(path) if block.language == "console"
    }
    assert typed == {"docs/migration-guide.md"}


def test_an_example_that_fails_names_its_document_and_line(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    document = tmp_path / "page.md"
    document.write_text("# Page\n\n```python\nvalue = 1\nassert value == 2\n```\n", encoding="utf-8")
    (block,) = fenced(document)
    with pytest.raises(pytest.fail.Exception, match=r"page\.md:5 raised AssertionError"):
        run(block)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    broken = []
    for number, line in prose(path):
        for link in LINK.finditer(line):
            target, _, anchor = link["target"].partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{path.name}:{number}: {link['target']}")
    assert broken == []


def test_the_settings_table_is_that_of_the_settings():
    page = (ROOT / "docs" / "fastapi.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \| (\S+) \| (.+) \|$", page, re.MULTILINE)
    written = {name: (tuple(re.findall(r"`(\w+)`", variables)), default) for name, variables, default, _ in rows}
    expected = {
        name: (tuple(IsolaneSettings._variables(name)), str(field.default) or "none")
        for name, field in IsolaneSettings.model_fields.items()
    }
    assert expected == written


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- figures -->")[2].partition("<!-- /figures -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert len(rows) > 5
    missing = [cell for row in rows for cell in (row[1], row[3]) if f"| {cell} |" not in benchmarks]
    # A name may have its group before it.
    names = [(row[0], row[0].partition(": ")[2]) for row in rows]
    missing += [both for both in names if not any(f"| {name} |" in benchmarks for name in both)]
    assert missing == []


def test_no_document_names_a_machine():
    machine = re.compile(r"/(?:home|work|tmp|root|Users)/|C:\\")
    found = [
        f"{path.name}: {at.group()}" for path in DOCUMENTS for at in machine.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
