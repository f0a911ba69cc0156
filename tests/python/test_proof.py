"""The document of the long checks: one writer, a section for each."""

from tests.support import proof


def test_a_section_is_written_in_place_and_leaves_the_others(tmp_path):
    path = tmp_path / "proof.md"
    for section, line in [("Soaks", "one"), ("Faults", "two"), ("Soaks", "three")]:
        proof.write(section, [line], path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Proof\n")
    assert text.index("## Soaks") < text.index("three") < text.index("## Faults") < text.index("two")
    assert "one" not in text
    assert text.count("Written on") == 2
