"""The scan: files are read and parsed once, and each rule that has something to look for looks at the tree."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from isolane.migration.codemod.config import MigrateConfig, load_config
from isolane.migration.codemod.errors import UnreadableError
from isolane.migration.codemod.files import find_files, relative
from isolane.migration.codemod.findings import FileProblem, Finding, ScanReport
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.names import NameList
from isolane.migration.codemod.rules import RULES
from isolane.migration.codemod.rules.mig005 import facts as changed_in_subclasses
from isolane.migration.codemod.source import SourceText, parse, read
from isolane.migration.codemod.suppress import Suppressions

PARALLEL_FROM = 300
"""So many files are worth a second process, which takes about as long to start as a hundred take to scan."""
_MOST_PROCESSES = 8
_CHUNK = 40


@dataclass(frozen=True)
class FileResult:
    """What one file comes to, before it is known what the others say."""

    path: str
    findings: tuple[Finding, ...] = ()
    facts: frozenset[str] = frozenset()
    suppressions: Suppressions | None = None
    source: SourceText | None = None
    off: frozenset[str] = frozenset()
    problem: FileProblem | None = None


class _Triggers:
    """What a text must have for each rule to look at it."""

    def __init__(self, config: MigrateConfig) -> None:
        self._rules = [
            (code, rule.trigger(config), re.compile(rule.pattern) if rule.pattern else None)
            for code, rule in RULES.items()
        ]

    def of(self, text: str) -> list[str]:
        """Return the rules that have something to look for in a text."""
        return [
            code
            for code, groups, pattern in self._rules
            if all(any(word in text for word in group) for group in groups)
            and (pattern is None or pattern.search(text))
        ]


def module_name(path: str) -> str:
    """Return the dotted name of a file by its path.

    What comes before the packages does no harm: names are compared by how they end.
    """
    parts = [part for part in path.removesuffix(".py").split("/") if part not in {"", ".", ".."}]
    return ".".join(parts[:-1] if parts and parts[-1] == "__init__" else parts)


def scan_text(source: SourceText, path: str, config: MigrateConfig, triggers: _Triggers | None = None) -> FileResult:
    """Scan one text. Raises ``UnreadableError``."""
    tree = parse(source.text)
    facts = set(changed_in_subclasses(source.text))
    off = config.ignored(path)
    wanted = (triggers or _Triggers(config)).of(source.text)
    findings: list[Finding] = []
    if wanted:
        try:
            module = Module(path, module_name(path), source, tree, config)
            for code in wanted:
                # A rule that is off still tells the others' files what they ask.
                found = list(RULES[code].check(module))
                findings += [] if code in off else found
        except RecursionError as error:
            raise UnreadableError("it is nested too deeply to be looked at; exclude it if it is data") from error
        facts |= module.facts
    suppressions = Suppressions(source)
    findings.sort(key=lambda one: (one.span, one.rule))
    return FileResult(path, tuple(findings), frozenset(facts), suppressions, source, off)


def _scan_file(path: Path, root: Path, config: MigrateConfig, triggers: _Triggers) -> FileResult:
    shown = relative(path, root)
    try:
        return scan_text(read(path), shown, config, triggers)
    except UnreadableError as error:
        return FileResult(shown, problem=FileProblem(shown, str(error), error.line))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Trees have no cycles, and the collector looks through every one of them while they are built."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan_files(paths: Sequence[Path], root: Path, config: MigrateConfig) -> list[FileResult]:
    results = []
    triggers = _Triggers(config)
    with _no_collection():
        for path in paths:
            result = _scan_file(path, root, config, triggers)
            if not (result.findings or result.suppressions):
                result = replace(result, suppressions=None, source=None)
            results.append(result)
    return results


def _all(paths: list[Path], root: Path, config: MigrateConfig, processes: int | None) -> list[FileResult]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = processes if processes is not None else min(usable, _MOST_PROCESSES) if len(paths) >= PARALLEL_FROM else 1
    if count <= 1:
        return _scan_files(paths, root, config)
    try:
        return _share_out(paths, root, config, count)
    except BrokenProcessPool:
        # A process could not be started, for instance from an interactive session.
        return _scan_files(paths, root, config)


def _share_out(paths: list[Path], root: Path, config: MigrateConfig, count: int) -> list[FileResult]:
    chunks = [paths[at : at + _CHUNK] for at in range(0, len(paths), _CHUNK)]
    # Not a fork: the caller may have threads.
    context = multiprocessing.get_context("spawn")
    results: list[FileResult] = []
    with ProcessPoolExecutor(count - 1, mp_context=context) as pool:
        waiting = [(chunk, pool.submit(_scan_files, chunk, root, config)) for chunk in chunks]
        done: dict[int, list[FileResult]] = {}
        # This process works as well: from the end, at what no other one has begun.
        for at in range(len(waiting) - 1, -1, -1):
            chunk, future = waiting[at]
            if future.cancel():
                done[at] = _scan_files(chunk, root, config)
        for at, (_, future) in enumerate(waiting):
            results += done[at] if at in done else future.result()
    return results


class _Facts:
    """What all files say, asked by how a name ends."""

    def __init__(self, facts: Iterable[str], config: MigrateConfig) -> None:
        by_kind: dict[str, list[str]] = {}
        for fact in facts:
            kind, _, name = fact.partition(":")
            by_kind.setdefault(kind, []).append(name)
        self._exact = {kind: set(names) for kind, names in by_kind.items()}
        # What one file imports by its own name another one defines below more packages, or the other way round.
        self._ends: dict[str, dict[str, list[str]]] = {}
        for kind in ("contextvar", "async", "sync"):
            ends = self._ends.setdefault(kind, {})
            for name in by_kind.get(kind, ()):
                ends.setdefault(name.rpartition(".")[2], []).append(name)
        self._async = NameList(config.async_getters)

    def _defined(self, kind: str, name: str) -> bool:
        return any(
            one == name or one.endswith(f".{name}") or name.endswith(f".{one}")
            for one in self._ends[kind].get(name.rpartition(".")[2], ())
        )

    def holds(self, need: str) -> bool:
        kind, _, name = need.partition(":")
        if kind == "mutates":
            return name in self._exact.get(kind, ())
        if kind == "contextvar":
            return self._defined(kind, name)
        known = self._defined("async", name) or self._defined("sync", name)
        is_async = self._defined("async", name) if known else self._async.matches(name)
        return is_async if kind == "async" else not is_async


def settle(results: Iterable[FileResult], config: MigrateConfig) -> ScanReport:
    """Put together what the files came to: what needs another file's word, and what comments ignore."""
    results = list(results)
    facts = _Facts({fact for result in results for fact in result.facts}, config)
    findings: list[Finding] = []
    problems: list[FileProblem] = []
    suppressed = 0
    for result in results:
        if result.problem is not None:
            problems.append(result.problem)
        seen: set[tuple[str, object]] = set()
        for finding in result.findings:
            key = (finding.rule, finding.span)
            if key in seen or not all(facts.holds(need) for need in finding.needs):
                continue
            seen.add(key)
            if result.suppressions is not None and result.suppressions.ignores(finding):
                suppressed += 1
            else:
                findings.append(replace(finding, needs=()))
        if result.suppressions is not None and result.source is not None:
            findings += result.suppressions.unused(result.path, result.source, result.off)
    findings.sort(key=lambda one: (one.path, one.span, one.rule))
    return ScanReport(tuple(findings), tuple(problems), len(results), suppressed)


def scan_paths(
    paths: Iterable[str | os.PathLike[str]], config: MigrateConfig | None = None, *, processes: int | None = 1
) -> ScanReport:
    """Look for the patterns of a service of singletons in Python files. Nothing is written, and nothing is imported.

    Args:
        paths: files, and folders, whose ``.py`` files are looked at.
        config: what to look for. Default: ``[tool.isolane.migrate]`` of the nearest ``pyproject.toml`` above the first
            path.
        processes: how many processes work. ``None`` is one for each processor, up to 8, from 300 files on. With more
            than one, each imports the main module of the caller again, so that must not do its work at import.

    Raises:
        MigrateConfigError: the configuration cannot be meant.
    """
    started = time.perf_counter()
    given = [Path(path) for path in paths]
    if config is None:
        first = given[0] if given else Path.cwd()
        config = load_config(start=first if first.is_dir() else first.parent)
    files, problems = find_files(given, config)
    report = settle(_all(files, config.root.resolve(), config, processes), config)
    return replace(report, problems=(*problems, *report.problems), seconds=time.perf_counter() - started)
