"""The rows of a log, streamed in batches."""

import csv
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from examples.optimizer.parsing.columns import REQUIRED, Role
from examples.optimizer.parsing.errors import LogError, shown
from examples.optimizer.parsing.layout import LogLayout, parse_object
from examples.optimizer.parsing.text import read_lines
from examples.optimizer.parsing.values import read_count, read_model, read_time

# What a run tells of its models has to fit into one event.
_MAX_MODELS = 100


class UsageRow(NamedTuple):
    """One line of a usage log: a single call, or an aggregate of several."""

    at: datetime
    has_clock: bool
    model: str
    input_tokens: int
    output_tokens: int
    requests: int


class RowBatch(NamedTuple):
    """Rows and how much of the file has been read for them."""

    rows: list[UsageRow]
    bytes_read: int


class _Record(NamedTuple):
    line: int
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LogRows:
    """The rows of one log, once every role has its column or, for the model, its answer."""

    path: Path
    layout: LogLayout
    roles: Mapping[Role, str]
    model: str | None = None

    def __post_init__(self) -> None:
        for role, column in self.roles.items():
            if column not in self.layout.columns:
                raise LogError(
                    f"The log has no column {shown(column)} for {role.value}.", fix="Choose one of its columns."
                )
        if len(set(self.roles.values())) < len(self.roles):
            raise LogError("One column is chosen for two things.", fix="Choose a different column for each.")
        for role in REQUIRED:
            if role not in self.roles and not (role is Role.MODEL and self.model):
                raise LogError(f"No column is chosen for {role.value}.", fix="Choose the column that holds it.")

    def batches(self, size: int) -> Generator[RowBatch, None, None]:
        """Rows in batches of `size`; a generator, so that a worker thread can parse one batch at a time."""
        models: set[str] = set()
        rows: list[UsageRow] = []
        with self.path.open("rb") as file:
            lines = read_lines(file, self.layout.encoding)
            records = self._csv_records(lines) if self.layout.format == "csv" else _json_records(lines)
            for record in records:
                row = self._row(record)
                if row.model not in models:
                    models.add(row.model)
                    self._refuse_too_many_models(models, record.line)
                rows.append(row)
                if len(rows) == size:
                    yield RowBatch(rows, file.tell())
                    rows = []
            if not models:
                raise LogError("The log has a header but no calls.", fix="Upload a log with at least one call.")
            if rows:
                yield RowBatch(rows, file.tell())

    def _row(self, record: _Record) -> UsageRow:
        line, cells = record
        roles = self.roles
        column = roles[Role.TIME]
        at, has_clock = read_time(_cell(cells, column), line=line, column=column)
        model = self.model or read_model(_cell(cells, roles[Role.MODEL]), line=line, column=roles[Role.MODEL])
        column = roles[Role.INPUT_TOKENS]
        input_tokens = read_count(_cell(cells, column), line=line, column=column)
        column = roles[Role.OUTPUT_TOKENS]
        output_tokens = read_count(_cell(cells, column), line=line, column=column)
        requests = 1
        if (requests_column := roles.get(Role.REQUESTS)) is not None:
            requests = max(read_count(_cell(cells, requests_column), line=line, column=requests_column), 1)
        return UsageRow(at, has_clock, model, input_tokens, output_tokens, requests)

    def _refuse_too_many_models(self, models: set[str], line: int) -> None:
        if len(models) > _MAX_MODELS:
            raise LogError(
                f"The log names more than {_MAX_MODELS} models.",
                fix="Check that the right column is taken as the model.",
                line=line,
                column=self.roles[Role.MODEL],
            )

    def _csv_records(self, lines: Iterator[str]) -> Iterator[_Record]:
        reader = csv.reader(lines, delimiter=self.layout.delimiter, strict=True)
        columns = self.layout.columns
        last_line = 0
        header_read = False
        try:
            for cells in reader:
                # A quoted cell may span lines: a record is named by the line on which it begins.
                line, last_line = last_line + 1, reader.line_num
                if not any(cells):
                    continue
                if not header_read:
                    header_read = True
                    continue
                if len(cells) != len(columns):
                    raise LogError(
                        f"The line has {len(cells)} cells, the header has {len(columns)}.",
                        fix=f"Write one cell for each of {', '.join(columns)}; quote a cell that holds the separator.",
                        line=line,
                    )
                yield _Record(line, dict(zip(columns, cells, strict=True)))
        except csv.Error as error:
            raise LogError(
                f"The CSV cannot be read: {error}.",
                fix="Check for a quote that is opened here and not closed.",
                line=last_line + 1,
            ) from None


def _json_records(lines: Iterator[str]) -> Iterator[_Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _Record(number, parse_object(line, number))


def _cell(cells: Mapping[str, Any], column: str) -> object:
    """A cell by its name, which in JSON may be a dotted path; None where the record does not have it."""
    if column in cells:
        return cells[column]
    value: object = cells
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
