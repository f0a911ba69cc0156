"""The faults of Python replace what is there, so that each is a fault of the package as it is."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import isolane
import pytest

from tests.mutants.python_faults import PYTHON_FAULTS
from tests.mutants.table import KILLERS

PACKAGE = Path(isolane.__file__).parent


@pytest.mark.parametrize("name", sorted(PYTHON_FAULTS))
def test_a_fault_replaces_what_is_there(name, tmp_path) -> None:
    fault = PYTHON_FAULTS[name]
    copy = tmp_path / fault.file
    copy.parent.mkdir(parents=True)
    shutil.copy2(PACKAGE / fault.file, copy)
    fault.apply(tmp_path)
    text = copy.read_text(encoding="utf-8")
    assert text != (PACKAGE / fault.file).read_text(encoding="utf-8")
    if fault.file.endswith(".py"):
        ast.parse(text)


def test_each_fault_has_tests_that_must_notice_it() -> None:
    assert set(PYTHON_FAULTS) <= set(KILLERS)
