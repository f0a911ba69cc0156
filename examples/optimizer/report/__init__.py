"""What a run found, for people: Markdown with tables and a chart, and its rendering as safe HTML."""

from examples.optimizer.report.chart import draw_spend
from examples.optimizer.report.html import render_markdown
from examples.optimizer.report.markdown import Findings, write_report

__all__ = ["Findings", "draw_spend", "render_markdown", "write_report"]
