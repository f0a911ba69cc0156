"""False alarms on text that nobody wrote for this: the documentation of Python's standard library."""

import ast
import pathlib
import re
import sysconfig

from isolane import DataSanitizer

MEGABYTE = 1 << 20
ADDRESS = re.compile(r"[\w.+%'-]+@(?:[\w-]+\.)+[A-Za-z]{2,}")
EXAMPLES = frozenset({"CREDENTIALS", "PEM"})
"""What a documentation shows on purpose: an address of a proxy with a password, the armour of a key."""


def sources():
    """The modules of the standard library."""
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            yield path


def documentation():
    """Its docstrings, one text a module."""
    for path in sources():
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
        yield path, "\n".join(texts)


def test_fewer_than_one_false_alarm_in_a_megabyte():
    sanitizer = DataSanitizer()
    size, alarms, right = 0, [], 0
    for path, text in documentation():
        size += len(text.encode())
        for start in range(0, len(text), MEGABYTE // 4):
            part = text[start : start + MEGABYTE // 4]
            for finding in sanitizer.sanitize(part).findings:
                found = part[finding.start : finding.end]
                if (finding.kind == "EMAIL" and ADDRESS.fullmatch(found)) or finding.kind in EXAMPLES:
                    right += 1
                else:
                    alarms.append((path.name, finding.kind, found))
    assert size > 1.5 * MEGABYTE, size
    # The authors' addresses are found: the detectors do look.
    assert right > 20
    print(f"{len(alarms)} false alarms in {size / MEGABYTE:.1f} MiB, {right} findings: {alarms}")
    assert len(alarms) < size / MEGABYTE, alarms


def test_source_code_alarms_nobody():
    """Code is full of what looks random: digests, tables, constants."""
    sanitizer = DataSanitizer()
    size, alarms = 0, []
    for path in sources():
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text.encode())
        for start in range(0, len(text), MEGABYTE // 4):
            findings = sanitizer.sanitize(text[start : start + MEGABYTE // 4]).findings
            alarms += [(path.name, finding.kind) for finding in findings if finding.kind not in {"EMAIL", *EXAMPLES}]
    assert size > 8 * MEGABYTE, size
    print(f"{len(alarms)} false alarms in {size / MEGABYTE:.1f} MiB: {alarms}")
    assert len(alarms) < size / MEGABYTE, alarms
