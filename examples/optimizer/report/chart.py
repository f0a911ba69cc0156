"""Spend over time as an SVG that stands alone: no script, no font and no style from elsewhere."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pygal
from pygal.style import Style

# pygal leaves a finder of Python 2's kind for plug-ins behind, at which every later import that fails would warn.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

_MOST_BARS = 62
_MOST_MODELS = 6
_OTHERS = "others"

# Middle tones that can be told apart on a light and on a dark page, also by the colour-blind (Okabe and Ito).
_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground="#7a8190",
    foreground_strong="#7a8190",
    foreground_subtle="#9aa1ae",
    opacity=".9",
    font_family="system-ui, sans-serif",
    title_font_size=15,
    label_font_size=12,
    major_label_font_size=12,
    legend_font_size=13,
    colors=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"),
)


def draw_spend(days: Mapping[str, Mapping[str, Decimal]]) -> str:
    """Stacked bars of US dollars per day and model; per month where the log spans more than two months."""
    per_month = len(days) > _MOST_BARS
    bars: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    named = _dearest_models(days)
    for day, spend in days.items():
        bar = bars[day[: len("2026-03")] if per_month else day]
        for model, cost in spend.items():
            bar[model if model in named else _OTHERS] += cost
    labels = sorted(bars)
    chart = pygal.StackedBar(
        style=_STYLE,
        js=(),
        width=640,
        height=380,
        title=f"Spend per {'month' if per_month else 'day'} in US dollars",
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        x_label_rotation=30,
        show_minor_x_labels=False,
        truncate_legend=32,
        no_data_text="No spend: the price table knows none of the models",
        value_formatter=lambda value: f"${value:,.2f}",
    )
    chart.add_xml_filter(_without_scripts)
    chart.x_labels = labels
    chart.x_labels_major = labels[:: max(len(labels) // 12, 1)]
    for model in [*named, _OTHERS]:
        if any(model in bar for bar in bars.values()):
            chart.add(model, [float(bars[label].get(model, 0)) for label in labels])
    svg: str = chart.render(is_unicode=True)
    return svg


def _dearest_models(days: Mapping[str, Mapping[str, Decimal]]) -> list[str]:
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for spend in days.values():
        for model, cost in spend.items():
            totals[model] += cost
    return sorted(totals, key=lambda model: (-totals[model], model))[:_MOST_MODELS]


def _without_scripts(root: Any) -> Any:
    """Drop pygal's tool-tip configuration: an image runs no script, and the chart shall hold none."""
    for parent in list(_elements(root)):
        for script in [child for child in parent if str(child.tag).rpartition("}")[2] == "script"]:
            parent.remove(script)
    return root


def _elements(root: Any) -> Iterable[Any]:
    iterator: Iterable[Any] = root.iter()
    return iterator
