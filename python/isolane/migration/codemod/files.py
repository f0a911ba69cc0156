"""Which files are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from isolane.migration.codemod.config import MigrateConfig
from isolane.migration.codemod.findings import FileProblem

SKIPPED = frozenset(
    {
        *(
            ".git",
            ".hg",
            ".svn",
            ".venv",
            "venv",
            "node_modules",
            "build",
            "dist",
            "__pycache__",
            ".tox",
            ".nox",
            ".eggs",
        ),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", "site-packages"),
    }
)
"""Folders that are not gone into, unless they are named themselves."""


def relative(path: Path, root: Path) -> str:
    """Return a path from the project's folder, with slashes; as it is where it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def find_files(paths: Iterable[Path], config: MigrateConfig) -> tuple[list[Path], list[FileProblem]]:
    """Return the Python files at and below some paths, each once and in order, and the paths that are no such thing.

    Links to folders are not followed, so that a loop of them ends; a link to a file counts as that file.
    """
    found: dict[Path, Path] = {}
    problems: list[FileProblem] = []
    root = config.root.resolve()

    def add(path: Path) -> None:
        real = path.resolve()
        if real not in found and not config.excludes(relative(real, root)):
            found[real] = path

    for given in paths:
        if given.is_dir():
            for path in _below(given, problems):
                add(path)
        elif given.suffix == ".py" and given.is_file():
            add(given)
        elif given.exists():
            problems.append(FileProblem(given.as_posix(), "it is neither a folder nor a .py file"))
        else:
            problems.append(FileProblem(given.as_posix(), "there is no such file or folder"))
    return sorted(found), problems


def _below(folder: Path, problems: list[FileProblem]) -> Iterable[Path]:
    def failed(error: OSError) -> None:
        problems.append(FileProblem(str(error.filename), f"it cannot be read: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=failed):
        here = Path(place)
        folders[:] = sorted(one for one in folders if one not in SKIPPED and not (here / one / "pyvenv.cfg").exists())
        for name in sorted(files):
            path = here / name
            if name.endswith(".py") and path.is_file():
                yield path
