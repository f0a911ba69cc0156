"""Python values as JSON: round trips, and one documented treatment for each odd value."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import uuid
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolane import InvalidEvent, UserContextFactory
from isolane._core import to_json

SAFE = 2**53 - 1


def back(value: Any) -> Any:
    return json.loads(to_json(value))


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=5)
    ),
    max_leaves=40,
)


@given(TREES)
def test_json_values_come_back_as_they_were(value):
    text = to_json(value)
    assert json.loads(text) == value
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) or _has_float(value)
    assert "\n" not in text


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, float) or (isinstance(value, list) and any(map(_has_float, value)))


@given(st.floats())
def test_floats_keep_every_bit_and_odd_ones_are_null(value):
    got = back(value)
    if math.isfinite(value):
        assert got == value
        assert math.copysign(1, got) == math.copysign(1, value)
    else:
        assert got is None


@given(st.integers())
def test_integers_that_javascript_would_round_are_strings(value):
    assert back(value) == (value if abs(value) <= SAFE else str(value))


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, -(2**53) + 1, -(2**53), 2**63, -(2**63), 2**64, 10**300])
def test_integers_at_the_edges(value):
    assert back(value) == (value if abs(value) <= SAFE else str(value))
    assert back({value: 1}) == {str(value): 1}


@given(st.text())
def test_each_lone_surrogate_becomes_one_replacement_character(value):
    expected = "".join("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char for char in value)
    paired = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert back(value) in {expected, paired}
    assert back({value: 1}) in ({expected: 1}, {paired: 1})


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Fancy(int):
    def __repr__(self) -> str:
        return "injected"

    __str__ = __repr__


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None
    kind: ClassVar[str] = "point"


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    a: int


class Model:
    """As pydantic's models do it."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"dumped": [1]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2,)), [1, [2]]),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (dt.datetime(2026, 11, 22, 8, 0, 0, 5, tzinfo=dt.UTC), "2026-11-22T08:00:00.000005+00:00"),
        (dt.datetime(2026, 11, 22, 8), "2026-11-22T08:00:00"),  # noqa: DTZ001 - naive ones as they are
        (dt.date(2026, 11, 22), "2026-11-22"),
        (dt.time(8, 30), "08:30:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Loud("quiet"), "quiet"),
        (Fancy(7), 7),
        (Fancy(2**60), str(2**60)),
        (True, True),
        ({True: 1, None: 2, 1.5: 3, Level.HIGH: 4, Color.RED: 5}, {"true": 1, "null": 2, "1.5": 3, "3": 4, "red": 5}),
        (Point(1, [Slotted(2)]), {"x": 1, "y": [{"a": 2}]}),
        (Model(), {"dumped": [1]}),
        (ValueError("no"), "ValueError: no"),
        (KeyError(), "KeyError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_odd_value_has_one_treatment(value, expected):
    if isinstance(value, dict):
        assert {str(key): inner for key, inner in back(value).items()} in (
            expected,
            {**expected, "kind": "point"},
        )
    else:
        got = back(value)
        if isinstance(got, dict):
            got.pop("kind", None)
        assert got == expected


def test_pydantic_models_are_written_as_their_json_form():
    pydantic = pytest.importorskip("pydantic")

    class Row(pydantic.BaseModel):
        at: dt.date
        tags: set[str]

    assert back({"rows": [Row(at="2026-11-22", tags={"a"})]}) == {"rows": [{"at": "2026-11-22", "tags": ["a"]}]}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "value is not JSON-able: type object"),
        ([1, {"a": [object()]}], r"value\[1\]\.a\[0\] is not JSON-able"),
        ({"x": {"y": print}}, r"value\.x\.y is not JSON-able"),
        ({(1, 2): 3}, "a key of type tuple is not allowed"),
        (b"bytes", "type bytes"),
        (Point, "a class has no JSON form"),
        (Point(1, object()), r"value\.y is not JSON-able"),
        (MappingProxyType({}), "type mappingproxy"),
        (iter([]), "list_iterator"),
        (1j, "complex"),
    ],
)
def test_what_has_no_json_form_is_refused_with_its_path(value, why):
    with pytest.raises(ValueError, match=why):
        to_json(value)


def test_cycles_and_very_deep_trees_are_refused_and_do_not_overflow():
    cycle: list = []
    cycle.append(cycle)
    loop: dict = {}
    loop["self"] = loop
    point = Point(1)
    point.y = point
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (cycle, loop, point, deep):
        with pytest.raises(ValueError, match="nested deeper than 64 levels, or contains itself"):
            to_json(value)
    while isinstance(deep, list):
        deep = deep[0]
    fine: Any = 1
    for _ in range(64):
        fine = [fine]
    assert back(fine) == fine


def test_a_conversion_that_raises_is_named_without_its_text():
    class Angry:
        def model_dump(self, *, mode: str) -> Any:
            raise RuntimeError("hunter2")

    with pytest.raises(ValueError, match=r"value\.a.*raised RuntimeError") as caught:
        to_json({"a": Angry()})
    assert "hunter2" not in str(caught.value)


def test_a_number_too_long_to_print_is_refused():
    with pytest.raises(ValueError, match="is not JSON-able"):
        to_json({"n": 1 << 100_000})


@pytest.mark.parametrize("at", ["top", "inside", "payload"])
def test_a_conversion_that_changes_its_own_dictionary_is_an_error_or_works_but_never_a_panic(at):
    box: dict[str, Any] = {}

    class Growing:
        def model_dump(self, *, mode: str) -> Any:
            for number in range(100):
                box[f"late-{number}"] = number
            return 1

    box.update({"a": Growing(), "b": 2, "c": 3})
    try:
        if at == "payload":
            UserContextFactory.create_context("ann-of-json").get_websocket_emitter().publish("mine", box)
        else:
            got = back(box if at == "top" else {"box": [box]})
            assert (got if at == "top" else got["box"][0])["b"] == 2
    except (ValueError, InvalidEvent):
        pass


@given(st.dictionaries(st.text(), st.integers(-9, 9) | st.text(max_size=3), max_size=6))
def test_a_payload_is_always_one_object_with_these_members(payload):
    emitter = UserContextFactory.create_context("ann-of-json").get_websocket_emitter()
    emitter.publish("mine", payload)
    assert back(payload) == json.loads(to_json(payload))
    assert len(back(payload)) <= len(payload)
