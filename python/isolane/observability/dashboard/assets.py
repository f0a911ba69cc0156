"""The page and what belongs to it, from the wheel."""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

PAGE = "index.html"
FALLBACK_TYPE = "application/octet-stream"
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
"""Not asked of the machine, where they may be changed, and a script of another type does not run."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
NOT_STORED = {**SAFE, "Cache-Control": "no-store"}
CHECKED = {**SAFE, "Cache-Control": "private, no-cache"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page.

    Attributes:
        body: its bytes.
        etag: changes when they do.
        media_type: what it is.
    """

    body: bytes
    etag: str
    media_type: str


@functools.cache
def assets() -> dict[str, Asset]:
    """Return the files by their paths, read once."""
    root = resources.files(__package__).joinpath("static")
    return {path: _asset(path, file.read_bytes()) for path, file in _files(root, "")}


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _asset(path: str, body: bytes) -> Asset:
    ending = path.rpartition(".")[2].lower()
    kind = TYPES.get(ending) or mimetypes.guess_type(path, strict=True)[0] or FALLBACK_TYPE
    return Asset(body, f'"{hashlib.sha256(body).hexdigest()[:24]}"', kind)


def serve(request: Request, path: str) -> Response | None:
    """Answer with a file, or that the client has it already; ``None`` when there is none."""
    asset = assets().get(path)
    if asset is None:
        return None
    headers = {**CHECKED, "ETag": asset.etag}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if asset.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
