"""Reports: for a person at a terminal, as JSON, and as JUnit's XML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from textwrap import wrap
from xml.etree import ElementTree as ET

from isolane.acceptance.results import AcceptanceTestResult, Measure, TestResult, Verdict

_MARKS = {
    Verdict.PASSED: "passed",
    Verdict.FAILED: "FAILED",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.SKIPPED: "skipped",
}
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MIB = 1024**2
_WIDTH = 118
_WORDS = 2
"""Columns of the table that hold words; the others hold figures."""


def as_text(results: AcceptanceTestResult) -> str:
    """Return the report for a terminal: a table, and below it what was wrong."""
    lines = [f"Acceptance of {results.target}, seed {results.seed}", ""]
    lines += _table(results)
    for name, result in results.results.items():
        lines += _details(name, result)
    lines += ["", _conclusion(results)]
    return "\n".join(lines) + "\n"


def _table(results: AcceptanceTestResult) -> Iterator[str]:
    rows = [("test", "result", "checked", "planted and seen", "seconds")]
    for name, result in results.results.items():
        seen = sum(one.seen for one in result.controls)
        rows.append(
            (
                name,
                _MARKS[result.verdict],
                f"{sum(result.checks.values()):,}",
                f"{seen} of {len(result.controls)}",
                f"{result.seconds:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for number, row in enumerate(rows):
        words = [cell.ljust(width) for cell, width in zip(row[:_WORDS], widths[:_WORDS], strict=True)]
        figures = [cell.rjust(width) for cell, width in zip(row[_WORDS:], widths[_WORDS:], strict=True)]
        yield "  ".join([*words, *figures]).rstrip()
        if not number:
            yield "  ".join("-" * width for width in widths)


def _details(name: str, result: TestResult) -> Iterator[str]:
    yield ""
    yield f"{name}: {result.name.lower()}, {_MARKS[result.verdict]}"
    if result.skipped:
        yield f"  left out: {result.skipped}"
        return
    for problem in result.problems():
        yield f"  ! {problem}"
    if result.verdict is Verdict.FAILED:
        yield from (f"  ! beside that, {doubt}" for doubt in result.doubts() if doubt.startswith("not reported"))
    for what, count in result.checks.items():
        yield f"    {count:>7,}  {what}"
    for measure in result.measures:
        yield f"    {shown(measure):>9}  {measure.name}, asked for {_bound(measure)}"
    planted = "; ".join(one.planted for one in result.controls if one.seen)
    if planted:
        told = f"    planted and reported: {planted}"
        yield from wrap(told, _WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False)
    for note in result.notes:
        yield f"    not checked: {note}"


def shown(measure: Measure) -> str:
    """Return a measured value with its unit."""
    return "not known" if measure.value is None else _with_unit(measure.value, measure.unit)


def _with_unit(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / _MIB:.1f} MiB"
    if unit == "s":
        return f"{value * 1000:.1f} ms"
    return f"{value:.2%}" if unit == "of requests" else f"{value:g}"


def _bound(measure: Measure) -> str:
    least = "at least" if measure.alert < measure.target else "at most"
    return f"{least} {_with_unit(measure.target, measure.unit)}"


def _conclusion(results: AcceptanceTestResult) -> str:
    counts = [sum(one.verdict is verdict for one in results.results.values()) for verdict in Verdict]
    said = ", ".join(f"{count} {verdict.value}" for verdict, count in zip(Verdict, counts, strict=True) if count)
    return f"{'PASSED' if results.success else 'FAILED'}: {said or 'no test ran'}"


def as_json(results: AcceptanceTestResult) -> str:
    """Return the report as JSON, schema 1."""
    return json.dumps(results.as_data(), indent=2, ensure_ascii=False) + "\n"


def as_junit(results: AcceptanceTestResult) -> str:
    """Return the report as XML of JUnit, in the form of pytest's (``xunit2``)."""
    verdicts = [one.verdict for one in results.results.values()]
    counts = {
        "tests": len(verdicts),
        "failures": verdicts.count(Verdict.FAILED),
        "errors": verdicts.count(Verdict.INCONCLUSIVE),
        "skipped": verdicts.count(Verdict.SKIPPED),
    }
    seconds = f"{sum(one.seconds for one in results.results.values()):.3f}"
    root = ET.Element("testsuites", {"name": "isolane accept"})
    attributes = {"name": "isolane.acceptance", **{key: str(count) for key, count in counts.items()}, "time": seconds}
    suite = ET.SubElement(root, "testsuite", attributes)
    properties = ET.SubElement(suite, "properties")
    for key, value in (("target", results.target), ("seed", str(results.seed))):
        ET.SubElement(properties, "property", {"name": key, "value": _clean(value)})
    for name, result in results.results.items():
        _case(suite, name, result)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, name: str, result: TestResult) -> None:
    attributes = {"classname": "isolane.acceptance", "name": name, "time": f"{result.seconds:.3f}"}
    case = ET.SubElement(suite, "testcase", attributes)
    problems = result.problems()
    if result.verdict is Verdict.SKIPPED:
        ET.SubElement(case, "skipped", {"type": "isolane.skip", "message": _clean(result.skipped)})
    elif result.verdict is Verdict.FAILED:
        ET.SubElement(case, "failure", {"message": _clean(problems[0])}).text = _clean("\n".join(problems))
    elif result.verdict is Verdict.INCONCLUSIVE:
        ET.SubElement(case, "error", {"message": _clean(problems[0])}).text = _clean("\n".join(problems))
    told = [f"{count} {what}" for what, count in result.checks.items()]
    told += [f"{one.name} {shown(one)}" for one in result.measures]
    told += [f"planted{'' if one.seen else ' and NOT reported'}: {one.planted}" for one in result.controls]
    told += [f"not checked: {note}" for note in result.notes]
    ET.SubElement(case, "system-out").text = _clean("\n".join(told))


def _clean(text: str) -> str:
    """Leave out what XML cannot hold."""
    return _NOT_XML.sub("?", text)
