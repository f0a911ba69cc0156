"""The one error of the parser: where it is, what was found, what is allowed."""

_SHOWN_CHARACTERS = 60


class LogError(ValueError):
    """A usage log that cannot be read; the message is written for the person who uploaded it."""

    def __init__(
        self,
        problem: str,
        *,
        fix: str,
        line: int | None = None,
        column: str | None = None,
        character: int | None = None,
    ) -> None:
        self.problem = problem
        self.fix = fix
        self.line = line
        self.column = column
        self.character = character
        super().__init__(self._message())

    def _message(self) -> str:
        place = ", ".join(
            part
            for part, known in (
                (f"line {self.line}", self.line is not None),
                (f'column "{self.column}"', self.column is not None),
                (f"character {self.character}", self.character is not None),
            )
            if known
        )
        return f"{place}: {self.problem} {self.fix}" if place else f"{self.problem} {self.fix}"


def shown(value: object) -> str:
    """A value of the log as it appears in a message: quoted, on one line and short."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return f'"{text}"'
