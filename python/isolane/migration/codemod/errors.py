"""What can go wrong with the tools themselves."""

from __future__ import annotations


class MigrateConfigError(ValueError):
    """``[tool.isolane.migrate]`` says something that cannot be meant. The text says what, and what is allowed."""


class MigrateInputError(ValueError):
    """A baseline or ledger that was named is none. The text says why, and how to make one."""


class UnreadableError(Exception):
    """A file cannot be looked at. ``line`` is where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class NotFixableError(Exception):
    """A finding cannot be fixed where it stands. The text says why."""


class NotWrittenError(Exception):
    """A file was left as it is. The text says why."""
