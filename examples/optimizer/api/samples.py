"""The long sample: the small one over and over, so that a run lasts long enough to reload, unplug or cancel it."""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import StreamingResponse

router = APIRouter()

_SMALL = Path(__file__).parents[1] / "sample" / "usage.csv"
_WEEKS = 300


@router.get("/sample/long.csv", include_in_schema=False)
def long_sample() -> StreamingResponse:
    """60,000 calls: those of the small sample, each week of 300 again."""
    return StreamingResponse(_rows(), media_type="text/csv")


def _rows() -> Iterator[str]:
    with _SMALL.open(newline="", encoding="utf-8") as file:
        header, *calls = csv.reader(file)
    yield _lines([header])
    for week in range(_WEEKS):
        earlier = timedelta(weeks=_WEEKS - 1 - week)
        yield _lines([_shifted(at, earlier), *rest] for at, *rest in calls)


def _shifted(at: str, earlier: timedelta) -> str:
    return (datetime.fromisoformat(at) - earlier).isoformat().replace("+00:00", "Z")


def _lines(rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
