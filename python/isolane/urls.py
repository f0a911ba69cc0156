"""URLs as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

BETWEEN_URLS = re.compile(r"[,\s]+(?=[a-z]+://)")


def shown(urls: str) -> str:
    """Return one URL, or several with commas, without passwords and without what stands behind a question mark."""
    return ", ".join(_shown(each) for each in BETWEEN_URLS.split(urls.strip()))


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    if not parts.scheme or "://" not in url:
        return "(not a URL)"
    secret = "***@" if "@" in parts.netloc else ""
    return f"{parts.scheme}://{secret}{parts.netloc.rpartition('@')[2]}{parts.path}"
