"""What the figures were measured on, without the name of the machine."""

import importlib.util
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from isolane import _core

ROOT = Path(__file__).resolve().parents[2]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _profile() -> str:
    """The build profile: the one whose output is the extension that was imported."""
    extension = Path(_core.__file__).read_bytes()
    for profile in ("release", "fastdev", "debug"):
        built = ROOT / "target" / profile / "libisolane.so"
        if built.is_file() and built.read_bytes() == extension:
            return profile
    return "unknown (not built in this directory)"


def _uvicorn() -> str:
    """What uvicorn chooses by itself here, as in the measurements."""
    if importlib.util.find_spec("uvicorn") is None:
        return "not installed"
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol  # noqa: PLC0415 - it may not be there

    protocol = AutoWebSocketsProtocol.__name__ if AutoWebSocketsProtocol is not None else "no WebSockets"
    loop = f"uvloop {version('uvloop')}" if importlib.util.find_spec("uvloop") is not None else "asyncio"
    return f"{version('uvicorn')}, {protocol}, {loop}"


def describe() -> dict[str, str]:
    """Return names and values for the head of the report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}"
        + ("" if sys.flags.optimize == 0 else f" -O{sys.flags.optimize}"),
        "isolane": f"{_core.__version__}, build profile {_profile()}",
        "pydantic": version("pydantic"),
        "uvicorn": _uvicorn(),
    }


def load() -> str:
    """How busy the machine was, which says how far to trust the figures."""
    return f"{os.getloadavg()[0]:.1f}"
