"""What the ledger of deprecated calls saw in production, beside what the scan finds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from isolane.migration.codemod.errors import MigrateInputError
from isolane.migration.codemod.findings import Finding, LedgerSite


def read_ledger(path: Path) -> list[LedgerSite]:
    """Read what ``GET /migration`` answers, ``isolane migrate status --json`` prints, or a folder of workers' files.

    Sites are the objects with ``symbol``, ``file``, ``line`` and ``count``, wherever in the document they are.

    Raises:
        MigrateInputError: it cannot be read, or is not JSON.
    """
    try:
        document = _folder(path) if path.is_dir() else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MigrateInputError(f"{path} is no ledger: {error}") from error
    found: dict[tuple[str, str, int], int] = {}
    for site in _sites(document):
        key = (site.symbol, site.path, site.line)
        found[key] = found.get(key, 0) + site.count
    return [LedgerSite(*key, count) for key, count in sorted(found.items())]


def _folder(path: Path) -> Any:
    """Read the files of all workers, each call once."""
    # What keeps the ledger is not needed for anything else here.
    from isolane.migration.deprecation.folder import LedgerFolder  # noqa: PLC0415
    from isolane.migration.deprecation.status import reading_dict  # noqa: PLC0415

    return reading_dict(LedgerFolder(path).read())


def _sites(document: Any) -> Iterator[LedgerSite]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            symbol, file, line, count = (one.get(key) for key in ("symbol", "file", "line", "count"))
            if isinstance(file, str) and isinstance(line, int) and isinstance(count, int):
                yield LedgerSite(str(symbol), PurePosixPath(file.replace("\\", "/")).as_posix(), line, count)
            else:
                waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def join(findings: Iterable[Finding], sites: Iterable[LedgerSite]) -> tuple[list[Finding], list[LedgerSite]]:
    """Count the hits of each finding, most first, and return the sites where nothing was found.

    A site is that of a finding when its line is one of the finding's and one path ends with the other: a server has
    the files elsewhere.
    """
    by_name: dict[str, list[LedgerSite]] = {}
    sites = list(sites)
    for site in sites:
        by_name.setdefault(PurePosixPath(site.path).name, []).append(site)
    seen: set[LedgerSite] = set()
    counted = []
    for finding in findings:
        mine = [
            site
            for site in by_name.get(PurePosixPath(finding.path).name, ())
            if finding.span.line <= site.line <= finding.span.end_line and _same_file(finding.path, site.path)
        ]
        seen.update(mine)
        counted.append(finding.with_hits(sum(site.count for site in mine)))
    counted.sort(key=lambda one: -one.hits)
    return counted, [site for site in sites if site not in seen]


def _same_file(one: str, other: str) -> bool:
    first, second = PurePosixPath(one).parts[::-1], PurePosixPath(other).parts[::-1]
    return all(a == b for a, b in zip(first, second, strict=False) if a not in {"/", "."})
