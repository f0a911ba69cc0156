"""Markdown to HTML that may stand in the page: raw HTML in the source stays text, and nothing carries a style."""

from markdown_it import MarkdownIt

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_RIGHT_ALIGNED = "text-align:right"


def render_markdown(markdown: str) -> str:
    """HTML of a report."""
    tokens = _MARKDOWN.parse(markdown)
    for token in tokens:
        # The renderer aligns cells by style attributes, which the page's policy forbids: a class does it as well.
        if token.attrs.pop("style", None) == _RIGHT_ALIGNED:
            token.attrSet("class", "number")
    html: str = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    return html
