"""Build the wheels into dist/, or run the tests against them.

``build`` makes one wheel for each supported CPython that is found. ``test`` installs each wheel into a clean
environment and runs the tests of the package there.

One wheel a version, and not one ``abi3`` wheel for all, for two reasons. The exceptions of the core carry fields and
derive from built-in exceptions, which the stable interface allows from CPython 3.12 on only, so 3.11 would need a wheel
of its own anyway. And the stable interface leaves out direct access to strings, lists and dates: with the one of 3.12,
publishing an event took 5 to 10 % longer when it was measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
VERSIONS = ("3.11", "3.12", "3.13")

# The oldest that Rust's standard library runs on, so the widest that a wheel can promise.
PLATFORM = "manylinux_2_17"

SUITES = ("tests/python", "tests/integrations")

PROBE = """
import json, platform, sys, sysconfig
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([platform.python_implementation(), "%d.%d" % sys.version_info[:2], free_threaded, sys.executable]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython that answered."""

    version: str
    path: Path

    @property
    def tag(self) -> str:
        return "cp" + self.version.replace(".", "")


def probe(command: Path) -> Interpreter | None:
    """Ask an executable what it is. None unless it is a CPython of a supported version with the GIL."""
    try:
        done = subprocess.run([command, "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
        implementation, version, free_threaded, executable = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # a shim of a version that is not installed, for example
    if implementation != "CPython" or version not in VERSIONS or free_threaded:
        return None
    return Interpreter(version, Path(executable))


def _number(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.parent.parent.name)]


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of a version may be: the path, then pyenv, the newest first."""
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    if found := shutil.which("python3"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from sorted(pyenv.glob(f"{version}*/bin/python3"), key=_number, reverse=True)


def find(named: Iterable[str] = ()) -> list[Interpreter]:
    """Find the interpreters: those named, or one of each supported version that is on this machine.

    Raises:
        SystemExit: a named one is no supported CPython, or none was found.
    """
    found = []
    for name in named:
        interpreter = probe(Path(shutil.which(name) or name))
        if interpreter is None:
            raise SystemExit(
                f"{name} is no CPython of {', '.join(VERSIONS)}; name one of these, or none to look for all"
            )
        found.append(interpreter)
    if not found:
        for version in VERSIONS:
            probed = (probe(path) for path in candidates(version))
            match = next((one for one in probed if one is not None and one.version == version), None)
            if match is None:
                print(f"!!! NOT FOUND: CPython {version}. Nothing is built or checked for it.", flush=True)
            else:
                found.append(match)
    if not found:
        raise SystemExit(f"no CPython of {', '.join(VERSIONS)} was found; name one with PYTHONS=/path/to/python3")
    for interpreter in found:
        print(f"CPython {interpreter.version}: {interpreter.path}", flush=True)
    return found


def wheel_of(interpreter: Interpreter, dist: Path) -> Path:
    """Return the wheel for an interpreter.

    Raises:
        SystemExit: there is none, or more than one.
    """
    wheels = sorted(dist.glob(f"isolane-*-{interpreter.tag}-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{len(wheels)} wheels for CPython {interpreter.version} in {dist}; run `make wheel`")
    return wheels[0]


def platform_options() -> list[str]:
    """Options that decide how old a system the wheel runs on."""
    if not sys.platform.startswith("linux"):
        return []
    if importlib.util.find_spec("ziglang") is not None:
        return ["--zig", "--compatibility", PLATFORM]
    print(
        "!!! WITHOUT ZIG: the wheels are linked against this machine's C library, and their tag says so. They install "
        "only on systems that are at least as new. `pip install -r requirements/wheel.txt` brings zig.",
        flush=True,
    )
    return []


def build(interpreters: list[Interpreter], dist: Path) -> None:
    """Build the wheels; those of earlier builds are removed."""
    dist.mkdir(exist_ok=True, parents=True)
    for interpreter in interpreters:
        for stale in dist.glob(f"isolane-*-{interpreter.tag}-*.whl"):
            stale.unlink()
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    environment = {
        **os.environ,
        # zig is found as a module of the Python that is first on the path.
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        # Not the directory of the development build, whose flags differ: each would undo the other's work.
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target" / "wheel")),
        # Panic messages name sources; they are not to name the machine that built the wheel.
        "RUSTFLAGS": " ".join(
            [
                os.environ.get("RUSTFLAGS", ""),
                f"--remap-path-prefix={cargo_home}=cargo",
                f"--remap-path-prefix={ROOT}=isolane",
            ]
        ).strip(),
    }
    command = [
        str(BIN / "maturin"),
        "build",
        "--release",
        "--locked",
        "--quiet",
        *platform_options(),
        "--out",
        str(dist),
    ]
    for interpreter in interpreters:
        subprocess.run([*command, "--interpreter", str(interpreter.path)], cwd=ROOT, env=environment, check=True)
        print(f"built {wheel_of(interpreter, dist).name}", flush=True)


def test(interpreters: list[Interpreter], dist: Path, arguments: list[str]) -> None:
    """Run the tests of the package against each wheel, in an environment that has nothing of the source tree."""
    failed = []
    for interpreter in interpreters:
        with tempfile.TemporaryDirectory(prefix=f"isolane-{interpreter.tag}-") as folder:
            subprocess.run([interpreter.path, "-m", "venv", folder], check=True)
            python = Path(folder) / "bin" / "python"
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            requirements = ["-r", "requirements/dev.txt", "-r", "requirements/demo.txt"]
            subprocess.run([*install, wheel_of(interpreter, dist), *requirements], cwd=ROOT, check=True)
            print(f"== CPython {interpreter.version}: {' '.join(SUITES)}", flush=True)
            command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES, *arguments]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                failed.append(interpreter.version)
    if failed:
        raise SystemExit(f"the tests failed on CPython {', '.join(failed)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build", "test"])
    parser.add_argument("--pythons", default="", help="interpreters, separated by spaces; default: all that are found")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of the wheels")
    parser.add_argument("arguments", nargs="*", help="for pytest, after `--`")
    options = parser.parse_args()
    interpreters = find(options.pythons.split())
    if options.command == "build":
        build(interpreters, options.dist.resolve())
    else:
        test(interpreters, options.dist.resolve(), options.arguments)


if __name__ == "__main__":
    main()
