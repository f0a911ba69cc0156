"""The shape of a log, found from its first lines: format, encoding, columns, and what is left to ask the user."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from examples.optimizer.parsing.columns import REQUIRED, Role, recognise
from examples.optimizer.parsing.errors import LogError, shown
from examples.optimizer.parsing.text import HEAD_BYTES, TextEncoding, detect_encoding, read_lines

_INSPECTED_ROWS = 20
_SAMPLES = 3
_SAMPLE_CHARACTERS = 60
_DELIMITERS = (",", ";", "\t", "|")
_FEWEST_COLUMNS = 3
_MOST_COLUMNS = 200
_DEEPEST = 4
_MOST_NAME_CHARACTERS = 100

_NumberedLine = tuple[int, str]


@dataclass(frozen=True, slots=True)
class LogLayout:
    """How a log is laid out; `missing` are the required roles that no column is known to play."""

    format: Literal["csv", "jsonl"]
    encoding: TextEncoding
    delimiter: str
    columns: tuple[str, ...]
    roles: Mapping[Role, str]
    samples: Mapping[str, tuple[str, ...]]

    @property
    def missing(self) -> tuple[Role, ...]:
        return tuple(role for role in REQUIRED if role not in self.roles)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that no figure of the report rests on."""
        used = set(self.roles.values())
        return tuple(column for column in self.columns if column not in used)


def inspect_log(path: Path) -> LogLayout:
    """Look at the beginning of a log; raises `LogError` for a file that holds none."""
    with path.open("rb") as file:
        encoding = detect_encoding(file.read(HEAD_BYTES))
        lines = enumerate(read_lines(file, encoding), 1)
        head = list(islice(((number, line) for number, line in lines if line.strip()), _INSPECTED_ROWS + 1))
    if not head:
        raise LogError("The file is empty.", fix="Upload a CSV with a header line, or one JSON object per line.")
    first = head[0][1].lstrip()
    if first.startswith("["):
        raise LogError(
            "The file is one JSON array.", fix="Write one object per line, for example with: jq -c '.[]' log.json"
        )
    return _inspect_json_lines(head, encoding) if first.startswith("{") else _inspect_csv(head, encoding)


def _inspect_csv(head: list[_NumberedLine], encoding: TextEncoding) -> LogLayout:
    number, first = head[0]
    delimiter = max(_DELIMITERS, key=lambda candidate: _delimiter_score(first, candidate))
    try:
        header, *rows = csv.reader((line for _, line in head), delimiter=delimiter)
    except csv.Error as error:
        raise LogError(
            f"The CSV cannot be read: {error}.", fix="Check for a quote that is not closed.", line=number
        ) from None
    columns = tuple(header)
    _refuse_wrong_columns(columns, number)
    samples = {
        column: tuple(row[index][:_SAMPLE_CHARACTERS] for row in rows[:_SAMPLES] if index < len(row))
        for index, column in enumerate(columns)
    }
    return LogLayout("csv", encoding, delimiter, columns, recognise(columns), samples)


def _delimiter_score(header: str, delimiter: str) -> tuple[int, int]:
    try:
        names = next(csv.reader([header], delimiter=delimiter))
    except csv.Error:
        return (0, 0)
    return (len(recognise(names)), len(names))


def _refuse_wrong_columns(columns: tuple[str, ...], line: int) -> None:
    if len(columns) < _FEWEST_COLUMNS:
        raise LogError(
            f"The line has {len(columns)} column(s): {shown(', '.join(columns))}.",
            fix="A log needs at least a time, input tokens and output tokens: as a CSV with a header line, separated by"
            " comma, semicolon, tab or |, or as one JSON object per line.",
            line=line,
        )
    if len(columns) > _MOST_COLUMNS or any(len(name) > _MOST_NAME_CHARACTERS for name in columns):
        raise LogError(
            f"There are more than {_MOST_COLUMNS} columns, or one with a name of more than"
            f" {_MOST_NAME_CHARACTERS} characters.",
            fix="Keep the columns of the calls: time, model and tokens.",
            line=line,
        )
    if doubled := next((name for name in columns if columns.count(name) > 1), None):
        raise LogError("The column appears twice.", fix="Rename or remove one of them.", line=line, column=doubled)


def _inspect_json_lines(head: list[_NumberedLine], encoding: TextEncoding) -> LogLayout:
    records = [dict(_flatten(parse_object(line, number))) for number, line in head]
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    _refuse_wrong_columns(columns, head[0][0])
    samples = {
        column: tuple(str(record[column])[:_SAMPLE_CHARACTERS] for record in records[:_SAMPLES] if column in record)
        for column in columns
    }
    return LogLayout("jsonl", encoding, "", columns, recognise(columns), samples)


def _flatten(record: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Nested fields by dotted names. Lists hold no figure of a call, nor does what is nested deeper than any export."""
    for name, value in record.items():
        if isinstance(value, dict):
            if depth < _DEEPEST:
                yield from _flatten(value, f"{prefix}{name}.", depth + 1)
        elif not isinstance(value, list):
            yield f"{prefix}{name}", value


def parse_object(line: str, number: int) -> dict[str, Any]:
    """One line of a JSON lines log."""
    try:
        record = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise LogError(
            f"Broken JSON: {error.msg}.",
            fix="Each line must be one complete object; the file may be cut off here.",
            line=number,
            character=error.colno,
        ) from None
    except (RecursionError, ValueError):
        raise LogError(
            "The JSON is nested too deep or holds an endless number.",
            fix="Write one flat object per call.",
            line=number,
        ) from None
    if not isinstance(record, dict):
        raise LogError(f"{shown(record)} is not a JSON object.", fix="Write one {…} per line.", line=number)
    return record
