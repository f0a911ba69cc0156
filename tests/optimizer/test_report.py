"""The report: its figures, its chart, and that nothing in a log becomes markup."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from decimal import Decimal

from examples.optimizer.report import Findings, draw_spend, render_markdown, write_report
from examples.optimizer.savings import Saving, SavingKind
from examples.optimizer.spending import ModelSpend

EVIL = "<img src=x onerror=alert(1)>|**[a](http://evil)**`![b](http://evil)"

FINDINGS = Findings(
    user_id="alice",
    file_name="usage.csv",
    rows=1234,
    first_day="2026-11-01",
    last_day="2026-11-09",
    columns={"time": "Timestamp"},
    ignored_columns=("Project",),
    spends=(ModelSpend("gpt-4o", 1000, 5, 6, Decimal("12.346")), ModelSpend("house", 234, 7, 8, None)),
    savings=(Saving(SavingKind.BATCH_API, "gpt-4o", Decimal("1.2345"), "10 calls cost $2.47."),),
)


def test_the_report_tells_spend_savings_and_method() -> None:
    """Every figure stands with what it rests on."""
    html = render_markdown(write_report(FINDINGS))
    for part in (
        "<strong>Spend: $12.35</strong>",
        "1,234 rows",
        'src="chart.svg"',
        '<td class="number">unknown</td>',
        "does not know house",
        '<td class="number">10.0%</td>',
        "10 calls cost $2.47.",
        "Not used: Project.",
        "genai-prices",
    ):
        assert part in html


def test_a_report_without_findings_says_so() -> None:
    """No saving is made up."""
    assert "the log's numbers support no finding" in write_report(replace(FINDINGS, savings=()))


def test_nothing_of_a_log_becomes_markup() -> None:
    """Names from a log are text, whatever they hold, and no style attribute is left for the policy to block."""
    evil = replace(
        FINDINGS,
        user_id=EVIL,
        file_name=EVIL,
        ignored_columns=(EVIL,),
        spends=(ModelSpend(EVIL, 1, 1, 1, None), ModelSpend(EVIL, 1, 1, 1, Decimal(1))),
        savings=(Saving(SavingKind.BATCH_API, EVIL, Decimal(1), EVIL),),
    )
    html = render_markdown(write_report(evil))
    assert html.count("<img") == 1
    assert "<a " not in html
    assert "style=" not in html
    assert "&lt;img src=x" in html


def days(count: int) -> dict[str, dict[str, Decimal]]:
    return {
        f"2026-{number // 28 + 1:02}-{number % 28 + 1:02}": {f"model-{number % 9}": Decimal("1.5")}
        for number in range(count)
    }


def test_the_chart_stands_alone() -> None:
    """No script, and no address other than the names of the XML vocabularies."""
    chart = draw_spend(days(30))
    root = ET.fromstring(chart)
    assert [element for element in root.iter() if element.tag.endswith("script")] == []
    references = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert references == []
    assert "@import" not in chart
    assert "url(" not in chart


def test_the_chart_bounds_its_bars_and_colours() -> None:
    """A long log is drawn by month, and the smaller models as one."""
    chart = draw_spend(days(300))
    assert "per month" in chart
    assert "2026-11" in chart
    assert "others" in chart


def test_the_chart_of_nothing_says_so() -> None:
    """A log of unknown models still has a chart."""
    assert "No spend" in draw_spend({})
