"""Pictures for light and dark pages: the same style for all of them, with colours that follow the page."""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MISSING = "matplotlib is not installed, so no plot was drawn: pip install -r requirements/dev.txt"

PAGE = {
    "paper": ("#fefefe", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#656d76", "#8d96a0"),
    "grid": ("#d8dee4", "#30363d"),
}
"""Names, and their colours on light and dark pages. The light ones stand in the drawing and are replaced by variables,
so each must occur under one name only, also among the colours that a picture adds."""

Colours = Mapping[str, tuple[str, str]]


def light(colours: Colours) -> dict[str, str]:
    """What the drawing is made with."""
    return {name: pair[0] for name, pair in colours.items()}


def themed(svg: str, colours: Colours) -> str:
    """Replace the colours by variables that follow the page."""
    for name, (drawn, _) in colours.items():
        svg = re.sub(rf"{drawn}\b", f"var(--{name})", svg, flags=re.IGNORECASE)
    on_light = ";".join(f"--{name}:{pair[0]}" for name, pair in colours.items())
    on_dark = ";".join(f"--{name}:{pair[1]}" for name, pair in colours.items())
    style = f"<style>:root{{{on_light}}}@media (prefers-color-scheme: dark){{:root{{{on_dark}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: f"{match[1]}\n {style}", svg, count=1)


@contextlib.contextmanager
def style(**more: Any) -> Iterator[None]:
    """Draw in the style of all pictures. Raises `ImportError` without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - only the documents need it

    colour = light(PAGE)
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "isolane",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
        "font.size": 9,
        "axes.edgecolor": colour["grid"],
        "axes.facecolor": colour["paper"],
        "text.color": colour["ink"],
        "axes.labelcolor": colour["quiet"],
        "xtick.color": colour["quiet"],
        "ytick.color": colour["quiet"],
        "axes.titlesize": 9,
        "axes.titlecolor": colour["ink"],
    }
    with mpl.rc_context(settings | {name.replace("_", "."): value for name, value in more.items()}):
        yield


def frameless(axes: Any, *, across: str = "y") -> None:
    """No frame and no ticks, only a thin grid across one axis."""
    axes.grid(visible=True, axis=across, color=PAGE["grid"][0], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", which="both", length=0)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def write(figure: Any, colours: Colours, output: Path, *, rounded: bool = False) -> None:
    """Write the picture. `rounded` leaves out what is finer than a hundredth of a point, which nobody sees."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor=PAGE["paper"][0], metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    if rounded:
        drawing = re.sub(r"(\d\.\d\d)\d+", r"\1", drawing)
    svg = re.sub(r"[ \t]+$", "", themed(drawing, colours), flags=re.MULTILINE)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(svg, encoding="utf-8")
