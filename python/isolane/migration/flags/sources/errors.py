"""What can be wrong with a source of flags, and with a change of one."""

from __future__ import annotations

from pathlib import Path


class FlagSourceError(ValueError):
    """A source of flags has none to give. What was in force stays in force.

    Attributes:
        origin: of the flags: a file, a variable, a provider.
        problem: what is wrong.
        fix: how to mend it.
    """

    def __init__(self, origin: Path | str, problem: str, fix: str) -> None:
        super().__init__(f"{origin}: {problem}; {fix}")
        self.origin = str(origin)
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[type[FlagSourceError], tuple[str, str, str]]:
        return type(self), (self.origin, self.problem, self.fix)


class FlagFileError(FlagSourceError):
    """A file of flags cannot be read, written or locked, or is no document."""


class FlagChangeRefusedError(ValueError):
    """A change of a flag was not made: the flag is unknown or rolled back, or the number is none. The text says why."""
