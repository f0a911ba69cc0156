"""Keys that outlive the process that made them, in files of the owner's alone."""

import os
import secrets
import tempfile
from pathlib import Path

_MIN_KEY = 16


def kept_key(path: Path) -> str:
    """The key in a file, which is made by whoever comes first, also of several processes at once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_first(path, secrets.token_urlsafe(24))
    key = path.read_text(encoding="ascii").strip()
    if len(key) < _MIN_KEY:
        # An empty key would be known to everybody.
        raise ValueError(f"{path} holds no key of an operator: delete it, and the next start makes one")
    return key


def keep_first(path: Path, text: str) -> None:
    """Write a file whole, unless there is one by then."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    made = Path(name)
    try:
        made.write_text(text, encoding="ascii")
        path.hardlink_to(made)
    except FileExistsError:
        pass
    finally:
        made.unlink()
