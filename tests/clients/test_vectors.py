"""The same sequences of frames have the same effects in both clients."""

import json
from pathlib import Path

import pytest

VECTORS = [
    pytest.param(vector, id=f"{path.stem}: {vector['name']}")
    for path in sorted((Path(__file__).parent / "vectors").glob("*.json"))
    for vector in json.loads(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("vector", VECTORS)
def test_effects(reader, vector) -> None:
    """Step by step, so that a failure names the frame."""
    steps = [{name: value for name, value in step.items() if name != "effects"} for step in vector["steps"]]
    for step, effects in zip(vector["steps"], reader.run(steps), strict=True):
        assert effects == step["effects"], step


def test_there_are_vectors() -> None:
    assert len(VECTORS) > 40
