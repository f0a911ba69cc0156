"""The report as Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from examples.optimizer.pricing import PRICE_TABLE
from examples.optimizer.savings import CAVEATS, Saving, SavingKind, usd
from examples.optimizer.spending import ModelSpend

CHART_FILE = "chart.svg"
_MOST_DAYS = 31
_MARKDOWN_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:&])")


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a report tells."""

    user_id: str
    file_name: str
    rows: int
    first_day: str
    last_day: str
    columns: dict[str, str]
    ignored_columns: Sequence[str]
    spends: Sequence[ModelSpend]
    savings: Sequence[Saving]
    days: Mapping[str, Decimal] = field(default_factory=dict)
    """What each day cost; a report without them has no table of days."""


def write_report(findings: Findings) -> str:
    """Tables of spend and savings with the chart between them, and how every figure was come by."""
    priced = [spend for spend in findings.spends if spend.cost is not None]
    total = sum((spend.cost or Decimal(0) for spend in priced), start=Decimal(0))
    return "\n\n".join(
        (
            "# LLM cost report",
            (
                f"For **{_plain(findings.user_id)}**, from {_plain(findings.file_name)}: {findings.rows:,} rows,"
                f" {findings.first_day} to {findings.last_day}."
            ),
            f"**Spend: {usd(total)}**",
            f"![Spend over time by model]({CHART_FILE})",
            "## Spend by model",
            _spend_table(findings.spends),
            *_unpriced(findings.spends),
            *_by_day(findings.days),
            "## Savings",
            *_savings(findings.savings, total),
            "## How this was computed",
            _method(findings),
        )
    )


def _spend_table(spends: Sequence[ModelSpend]) -> str:
    lines = ["| Model | Cost | Calls | Input tokens | Output tokens |", "| :-- | --: | --: | --: | --: |"]
    for spend in spends:
        cost = usd(spend.cost) if spend.cost is not None else "unknown"
        tokens = f"{spend.input_tokens:,} | {spend.output_tokens:,}"
        lines.append(f"| {_plain(spend.model)} | {cost} | {spend.requests:,} | {tokens} |")
    return "\n".join(lines)


def _unpriced(spends: Sequence[ModelSpend]) -> list[str]:
    names = sorted({spend.model for spend in spends if spend.cost is None})
    if not names:
        return []
    return [f"The price table does not know {', '.join(map(_plain, names))}: their calls are left out of every sum."]


def _by_day(days: Mapping[str, Decimal]) -> list[str]:
    if not days:
        return []
    dearest = sorted(days, key=lambda day: days[day], reverse=True)[:_MOST_DAYS]
    lines = [f"| {day} | {usd(days[day])} |" for day in sorted(dearest)]
    title = "## Spend by day" if len(days) <= _MOST_DAYS else f"## The {_MOST_DAYS} dearest days"
    return [title, "\n".join(("| Day | Cost |", "| :-- | --: |", *lines))]


def _savings(savings: Sequence[Saving], total: Decimal) -> list[str]:
    if not savings:
        return ["None of a cent or more: the log's numbers support no finding."]
    table = ["| What | Saves | Share | Model |", "| :-- | --: | --: | :-- |"]
    for saving in savings:
        share = f"{saving.amount / total:.1%}" if total else ""
        table.append(f"| {_plain(saving.kind)} | {usd(saving.amount)} | {share} | {_plain(saving.model)} |")
    return [
        (
            "What the calls of this log would have cost less, and the share of the spend. The findings look at the same"
            " calls from several sides: they overlap and must not be added up."
        ),
        "\n".join(table),
        *(part for kind in SavingKind for part in _explained(kind, savings)),
    ]


def _explained(kind: SavingKind, savings: Sequence[Saving]) -> list[str]:
    """How the findings of one kind were computed, and what they cannot tell."""
    lines = [f"- {_plain(saving.model)}: {_plain(saving.how)}" for saving in savings if saving.kind is kind]
    return [f"### {_plain(kind)}", "\n".join(lines), CAVEATS[kind]] if lines else []


def _method(findings: Findings) -> str:
    columns = ", ".join(f"{role} from {_plain(column)}" for role, column in findings.columns.items())
    points = [
        f"Columns: {columns}.",
        f"Prices: {PRICE_TABLE}, each model as of the first of the month of its calls, without discounts or taxes.",
        (
            "Times without an offset are taken as UTC. Rows that stand for several calls, or that tell a date without a"
            " time of day, count towards the spend but not towards savings that look at single calls or at the clock."
        ),
    ]
    if findings.ignored_columns:
        points.insert(1, f"Not used: {', '.join(map(_plain, findings.ignored_columns))}.")
    return "\n".join(f"- {point}" for point in points)


def _plain(text: str) -> str:
    """Text of the log as text: nothing in it is taken as Markdown."""
    return _MARKDOWN_MARKS.sub(r"\\\1", " ".join(text.split()))
