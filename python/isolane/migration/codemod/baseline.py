"""Findings that are known: a code base with hundreds of them starts with none that is new."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from isolane.migration.codemod.errors import MigrateInputError
from isolane.migration.codemod.findings import Finding


def fingerprint(finding: Finding) -> str:
    """Return what a finding is known by: the rule, the file, and the text of its line. Lines may move."""
    text = "\0".join((finding.rule, finding.path, " ".join(finding.snippet.split())))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def write_baseline(path: Path, findings: Iterable[Finding]) -> int:
    """Write all findings down as known, and return how many. One that occurs twice is known twice."""
    entries: dict[str, dict[str, object]] = {}
    total = 0
    for finding in findings:
        total += 1
        entry = entries.setdefault(
            fingerprint(finding), {"rule": finding.rule, "path": finding.path, "snippet": finding.snippet, "count": 0}
        )
        entry["count"] = int(str(entry["count"])) + 1
    document = {"version": 1, "findings": dict(sorted(entries.items(), key=lambda one: (str(one[1]["path"]), one[0])))}
    text = json.dumps(document, indent=1) + "\n"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)  # noqa: PTH105 - the pair of NamedTemporaryFile's name
    return total


def read_baseline(path: Path) -> Counter[str]:
    """Read how often each finding is known. Raises ``MigrateInputError``."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["version"]
        known = Counter({key: int(entry["count"]) for key, entry in document["findings"].items()})
    except OSError as error:
        raise MigrateInputError(
            f"{path} cannot be read: {error.strerror}; make it with --write-baseline {path}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MigrateInputError(
            f"{path} is no baseline of isolane migrate; make it with --write-baseline {path}"
        ) from error
    if version != 1:
        raise MigrateInputError(f"{path} is of version {version}, which this isolane does not know")
    return known


def without_known(findings: Iterable[Finding], known: Counter[str]) -> tuple[list[Finding], int, int]:
    """Return the findings that are new, how many are known, and how many entries nothing matches any more."""
    left = Counter(known)
    new = []
    matched = 0
    for finding in findings:
        key = fingerprint(finding)
        if left[key] > 0:
            left[key] -= 1
            matched += 1
        else:
            new.append(finding)
    return new, matched, sum(left.values())
