"""Keys that outlive the process that made them, in files of the owner's alone."""

import os
import secrets
import tempfile
from pathlib import Path


def kept_key(path: Path) -> str:
    """The key in a file, which is made by whoever comes first, also of several processes at once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_first(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="ascii")


def keep_first(path: Path, text: str) -> None:
    """Write a file whole, unless there is one by then."""
    handle, made = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        Path(made).unlink()
