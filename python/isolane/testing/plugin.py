"""The pytest plugin, by the name of what it belongs to. pytest finds it by itself, as ``isolane``.

Where plugins are not loaded by themselves (``PYTEST_DISABLE_PLUGIN_AUTOLOAD``), ``-p isolane`` loads it. It lives in
`isolane_pytest`, which pytest can load without loading `isolane`.
"""

from __future__ import annotations

from isolane_pytest import LAB_USERS, MARKER

__all__ = ["LAB_USERS", "MARKER"]
