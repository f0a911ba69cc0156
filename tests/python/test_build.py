"""What the extension was built with."""

from pathlib import Path

from isolane import _core


def test_the_extension_was_built_without_faults():
    assert not hasattr(_core, "_mutant")
    assert not hasattr(_core, "_mutants")
    content = Path(_core.__file__).read_bytes()
    assert b"agent_completed" in content, "texts of the core can be found in it"
    assert b"ISOLANE_MUTANT" not in content
    assert b"PermitLostOnCancel" not in content
