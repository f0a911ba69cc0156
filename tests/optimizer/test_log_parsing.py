"""Logs of every kind, good and bad: what is recognised, what is asked, and what each error says."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from examples.optimizer.parsing import LogError, LogRows, Role, UsageRow, inspect_log

SAMPLES = Path(__file__).parents[2] / "examples" / "optimizer" / "sample"
GOOD = "timestamp,model,prompt_tokens,completion_tokens\n"
MakeLog = Callable[[bytes | str], Path]


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    def make(content: bytes | str) -> Path:
        path = tmp_path / "log"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def read(path: Path, roles: dict[Role, str] | None = None, model: str | None = None) -> list[UsageRow]:
    layout = inspect_log(path)
    rows = LogRows(path, layout, {**layout.roles, **(roles or {})}, model)
    return [row for batch in rows.batches(7) for row in batch.rows]


def failure(path: Path) -> str:
    with pytest.raises(LogError) as caught:
        read(path)
    return str(caught.value)


PROVIDER_LOGS = {
    "generic": "time,model,input tokens,output tokens\n2026-11-02T10:00:00Z,gpt-4o,12,3\n",
    "case and spaces": "Date Time;MODEL;Input_Tokens;Output-Tokens\n2026-11-02 10:00:00;gpt-4o;12;3\n",
    "tabs": "timestamp\tmodel\ttokens_in\ttokens_out\n1793613600\tgpt-4o\t12\t3\n",
    "openai usage": "start_time,end_time,model,input_tokens,output_tokens,num_model_requests\n"
    "1793613600,1793617200,gpt-4o,12,3,1\n",
    "openai legacy": "timestamp,snapshot_id,n_context_tokens_total,n_generated_tokens_total\n1793613600,gpt-4o,12,3\n",
    "anthropic console": "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_output_tokens\n"
    "2026-11-02T10:00:00Z,gpt-4o,12,3\n",
    "azure": "TimeGenerated,ModelDeploymentName,ProcessedPromptTokens,GeneratedCompletionTokens\n"
    "2026-11-02T10:00:00.0000000Z,gpt-4o,12,3\n",
    "bedrock": '{"timestamp":"2026-11-02T10:00:00Z","modelId":"gpt-4o","input":{"inputTokenCount":12},'
    '"output":{"outputTokenCount":3}}\n',
    "litellm": "startTime,endTime,model,prompt_tokens,completion_tokens,total_tokens\n"
    "2026-11-02T10:00:00+00:00,2026-11-02T10:00:09+00:00,gpt-4o,12,3,15\n",
    "langfuse": '{"startTime":"2026-11-02T10:00:00.000Z","providedModelName":"gpt-4o","usageDetails":'
    '{"input":12,"output":3}}\n',
    "openai answers": '{"created":1793613600,"model":"gpt-4o","choices":[],"usage":'
    '{"prompt_tokens":12,"completion_tokens":3}}\n',
}


@pytest.mark.parametrize("log", PROVIDER_LOGS.values(), ids=PROVIDER_LOGS.keys())
def test_columns_of_common_providers_are_recognised(make_log: MakeLog, log: str) -> None:
    """The same call reads the same from every provider's export."""
    assert [UsageRow(datetime(2026, 11, 2, 10, tzinfo=UTC), True, "gpt-4o", 12, 3, 1)] == read(make_log(log))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(make_log: MakeLog, encoding: str, newline: str) -> None:
    """Byte order marks, UTF-16 with and without one, and all line ends give the same rows."""
    text = GOOD + "2026-11-02T10:00:00Z,modèle,12,3\n2026-11-02T11:00:00Z,gpt-4o,13,4\n"
    rows = read(make_log(text.replace("\n", newline).encode(encoding)))
    assert [(row.model, row.input_tokens) for row in rows] == [("modèle", 12), ("gpt-4o", 13)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1793613600", "2026-11-02T10:00:00"),
        ("1793613600.5", "2026-11-02T10:00:00.500000"),
        ("1793613600000", "2026-11-02T10:00:00"),
        ("2026-11-02T12:00:00+02:00", "2026-11-02T10:00:00"),
        ("2026-11-02 10:00:00 UTC", "2026-11-02T10:00:00"),
        ("2026/11/02 10:00", "2026-11-02T10:00:00"),
    ],
)
def test_times(make_log: MakeLog, cell: str, expected: str) -> None:
    """ISO 8601 and Unix times of any unit are read as UTC."""
    (row,) = read(make_log(f"{GOOD}{cell},gpt-4o,1,1\n"))
    assert datetime.fromisoformat(expected).replace(tzinfo=UTC) == row.at


def test_a_date_has_no_time_of_day(make_log: MakeLog) -> None:
    """Nothing may be concluded from the hour of a bare date."""
    (row,) = read(make_log(f"{GOOD}2026-11-02,gpt-4o,1,1\n"))
    assert not row.has_clock


def test_an_aggregate_keeps_its_number_of_requests(make_log: MakeLog) -> None:
    """A row that stands for several calls says so."""
    (row,) = read(make_log("start_time,model,input_tokens,output_tokens,num_model_requests\n1793613600,gpt-4o,9,9,3\n"))
    assert row.requests == 3


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "The file is empty."),
        (" \n\t\n", "The file is empty."),
        (GOOD, "header but no calls"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"%PDF-1.7", "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary: byte 9 is zero"),
        ("hello\nworld\n", 'line 1: The line has 1 column(s): "hello".'),
        ('[{"time": 1}]', "one JSON array"),
        ('{"time": 1}\n', "line 1: The line has 1 column(s)"),
        (",".join(f"c{number}" for number in range(300)), "more than 200 columns"),
        (f"time,model,{'x' * 101}\n", "a name of more than 100 characters"),
        ("time,model,model,in\n1,2,3,4\n", 'line 1, column "model": The column appears twice.'),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,12\n", "line 2: The line has 3 cells, the header has 4."),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,12,3,4\n", "line 2: The line has 5 cells, the header has 4."),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,-12,3\n", 'line 2, column "prompt_tokens": "-12" is negative.'),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,1.5,3\n", 'column "prompt_tokens": "1.5" is not a whole number.'),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,many,3\n", '"many" is not a number.'),
        (f'{GOOD}2026-11-02T10:00:00Z,gpt-4o,"1,234",3\n', "without thousands separators"),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,,3\n", 'line 2, column "prompt_tokens": has no number.'),
        (f"{GOOD}2026-11-02T10:00:00Z,gpt-4o,{'9' * 6000},3\n", "is larger than any call"),
        (f"{GOOD}2026-11-02T10:00:00Z,,12,3\n", 'line 2, column "model": has no model name.'),
        (f"{GOOD}2026-11-02T10:00:00Z,{'x' * 300},12,3\n", "too many for a model name"),
        (f"{GOOD}yesterday,gpt-4o,12,3\n", 'line 2, column "timestamp": "yesterday" is not a time.'),
        (f"{GOOD}2026-13-40,gpt-4o,12,3\n", '"2026-13-40" is not a time.'),
        (f"{GOOD}20261102,gpt-4o,12,3\n", "is the year 1970"),
        (f"{GOOD},gpt-4o,12,3\n", "has no time."),
        (f"{GOOD}inf,gpt-4o,12,3\n", '"inf" is not a time.'),
        (f'{GOOD}2026-11-02T10:00:00Z,"gpt,12,3\n', "CSV cannot be read"),
        (GOOD.encode() + b"2026-11-02T10:00:00Z,mod\xe8le,12,3\n", "line 2, character 25: Byte 0xE8 is not UTF-8"),
        (GOOD.encode() + b"2026-11-02T10:00:00Z,a\0b,12,3\n" * 9000, "zero"),
        (f"{GOOD}{'x' * 2_000_000}", "line 2: The line is longer than"),
        ('{"time": 1, "model": "a", "input_tokens": 1\n', "line 1, character 44: Broken JSON"),
        ('{"time":1793613600,"model":"a","input_tokens":1,"output_tokens":1}\n[1]\n', "line 2:"),
        ('{"time":1793613600,"model":"a","input_tokens":1,"output_tokens":NaN}\n', "is not a whole number"),
        ('{"time":1793613600,"model":"a","input_tokens":true,"output_tokens":1}\n', 'column "input_tokens"'),
        (
            '{"time":1793613600,"model":"a","input_tokens":1,"output_tokens":1}\n{"time":1793613600,"model":"a"}\n',
            'line 2, column "input_tokens": has no number.',
        ),
        ('{"a":' + "[" * 100_000, "nested too deep"),
        ('{"a":' * 400 + "1" + "}" * 400, "line 1: The line has 0 column(s)"),
        ('{"a":' + "9" * 5000 + "}", "endless number"),
    ],
)
def test_bad_logs_say_what_and_where(make_log: MakeLog, log: bytes | str, message: str) -> None:
    """Each bad log gives one message that names the place, and how to mend it."""
    text = failure(make_log(log))
    assert message in text
    assert text.endswith((".", "log.json"))


def test_a_break_far_into_a_file_names_its_line(make_log: MakeLog) -> None:
    """Line numbers hold across the blocks in which a file is read."""
    good = f"{GOOD}{'2026-11-02T10:00:00Z,gpt-4o,12,3' + chr(10)}".encode()
    line = b"2026-11-02T10:00:00Z,gpt-4o,12,3\n"
    assert "line 20002," in failure(make_log(good + line * 19_999 + b"2026-11-02T10:00:00Z,\xff,12,3\n"))


def test_a_quoted_cell_may_span_lines(make_log: MakeLog) -> None:
    """A record is named by the line on which it begins."""
    log = (
        'timestamp,model,prompt_tokens,completion_tokens,note\n2026-11-02T10:00:00Z,gpt-4o,1,1,"a\nb"\nx,gpt-4o,1,1,c\n'
    )
    assert 'line 4, column "timestamp"' in failure(make_log(log))


def test_unknown_columns_are_asked_for(make_log: MakeLog) -> None:
    """What is not recognised is left to the user, with samples to choose by."""
    path = make_log("when,engine,inn,outt\n2026-11-02T10:00:00Z,gpt-4o,12,3\n")
    layout = inspect_log(path)
    assert layout.missing == (Role.TIME, Role.MODEL, Role.INPUT_TOKENS, Role.OUTPUT_TOKENS)
    assert layout.samples["inn"] == ("12",)
    roles = {Role.TIME: "when", Role.MODEL: "engine", Role.INPUT_TOKENS: "inn", Role.OUTPUT_TOKENS: "outt"}
    assert [row.model for row in read(path, roles)] == ["gpt-4o"]


def test_a_log_without_models_takes_the_users_word(make_log: MakeLog) -> None:
    """One answer stands for every row."""
    path = make_log("timestamp,prompt_tokens,completion_tokens\n2026-11-02T10:00:00Z,12,3\n")
    assert inspect_log(path).missing == (Role.MODEL,)
    assert [row.model for row in read(path, model="gpt-4o")] == ["gpt-4o"]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({Role.MODEL: "engine", Role.TIME: "nowhere"}, 'no column "nowhere" for time'),
        ({Role.MODEL: "prompt_tokens"}, "One column is chosen for two things"),
        ({}, "No column is chosen for model"),
    ],
)
def test_answers_that_do_not_fit_are_refused(make_log: MakeLog, roles: dict[Role, str], message: str) -> None:
    """A mapping is checked before anything is read."""
    path = make_log("timestamp,engine,prompt_tokens,completion_tokens\n2026-11-02T10:00:00Z,gpt-4o,12,3\n")
    with pytest.raises(LogError, match=message):
        read(path, roles)


def test_a_column_of_ids_is_not_taken_as_models(make_log: MakeLog) -> None:
    """Hundreds of models mean that the column is a different one."""
    rows = "".join(f"2026-11-02T10:00:00Z,id{number},12,3\n" for number in range(300))
    assert 'column "model": The log names more than 100 models.' in failure(make_log(GOOD + rows))


@pytest.mark.parametrize("name", ["usage.csv", "usage.jsonl"])
def test_the_samples_read_without_questions(name: str) -> None:
    """What the page offers works as it is."""
    assert inspect_log(SAMPLES / name).missing == ()
    assert len(read(SAMPLES / name)) == 200


async def test_a_large_log_does_not_hold_the_loop(make_log: MakeLog) -> None:
    """100 000 rows are parsed beside a loop that keeps turning."""
    line = json.dumps({"time": 1793613600, "model": "gpt-4o", "input_tokens": 12, "output_tokens": 3}) + "\n"
    path = make_log(line * 100_000)
    layout = inspect_log(path)
    batches = LogRows(path, layout, layout.roles).batches(500)
    pauses: list[float] = []

    async def turn() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            pauses.append(time.perf_counter() - began)

    turning = asyncio.create_task(turn())
    began = time.perf_counter()
    rows = 0
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        rows += len(batch.rows)
    turning.cancel()
    pauses.sort()
    assert rows == 100_000
    # Loose bounds for a busy machine: alone it takes a second, and the loop waits for 5 ms slices at most.
    assert time.perf_counter() - began < 20
    assert pauses[len(pauses) * 99 // 100] < 0.02
