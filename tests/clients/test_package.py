"""The JavaScript package: its own tests, what is in it, and that its types are those of the module."""

import json
import re
import shutil
import subprocess
import tomllib

import pytest

from tests.clients.javascript import HERE, PACKAGE, left_out, node

ROOT = HERE.parents[1]
TYPESCRIPT = "typescript@5.9.3"


def test_the_tests_of_the_module() -> None:
    done = subprocess.run(
        [*node(), "--test", "--test-reporter=tap", str(HERE / "isolane-client.test.mjs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) >= 12


def test_what_is_packed() -> None:
    if shutil.which("npm") is None:
        left_out("the package was not packed, there is no npm (apt-get install npm)")
    done = subprocess.run(
        ["npm", "pack", "--dry-run", "--json", "--offline"], cwd=PACKAGE, capture_output=True, text=True, check=True
    )
    (packed,) = json.loads(done.stdout)
    assert packed["name"] == "isolane-client"
    assert {entry["path"] for entry in packed["files"]} == {
        "README.md",
        "isolane-client.d.ts",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "isolane-client.js",
        "package.json",
    }


def test_the_package_is_of_this_version_and_depends_on_nothing() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    assert package["version"] == cargo["package"]["version"]
    assert not {name for name in package if "ependencies" in name}
    module = (PACKAGE / "isolane-client.js").read_text(encoding="utf-8")
    assert not re.search(r"^import |\bimport\(|\brequire\(", module, re.MULTILINE)


def test_the_types_compile(tmp_path) -> None:
    """A use of everything, with errors where they are expected."""
    if shutil.which("npx") is None:
        left_out("the types were not compiled, there is no npm (apt-get install npm)")
    shutil.copy(HERE / "types.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "isolane-client").symlink_to(PACKAGE)
    compiler = ["npx", "-y", "-p", TYPESCRIPT, "tsc"]
    try:
        version = subprocess.run([*compiler, "--version"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        version = None
    if version is None or version.returncode != 0:
        # A registry is nothing that a machine can be asked to have; the names are compared below.
        pytest.skip(f"left out: the types were not compiled, {TYPESCRIPT} could not be had")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    done = subprocess.run([*compiler, *options, "types.ts"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_types_name_what_the_module_has() -> None:
    """Exports, members of classes, options: in both the same."""
    program = f"""
      const module = await import({json.dumps((PACKAGE / "isolane-client.js").as_uri())});
      const members = (type) =>
        Object.getOwnPropertyNames(type.prototype).filter((name) => name !== "constructor").sort();
      console.log(JSON.stringify(Object.fromEntries(Object.entries(module).map(
        ([name, value]) => [name, value.prototype && /^class/.test(value) ? members(value) : null]))));
    """
    done = subprocess.run([*node(), "--input-type=module", "-e", program], capture_output=True, text=True, check=True)
    types = (PACKAGE / "isolane-client.d.ts").read_text(encoding="utf-8")
    declared: dict[str, list[str] | None] = {}
    found = re.findall(r"^export (class|function) (\w+)(?: \{\n(.*?)^\}|\()", types, re.MULTILINE | re.DOTALL)
    for kind, name, body in found:
        members = set(re.findall(r"^  (?:readonly )?(\w+)[(:]", body, re.MULTILINE)) - {"constructor"}
        declared[name] = sorted(members) if kind == "class" else None
    assert declared == json.loads(done.stdout)
    module = (PACKAGE / "isolane-client.js").read_text(encoding="utf-8")
    options = re.search(r"^export interface Options \{\n(.*?)^\}", types, re.MULTILINE | re.DOTALL)[1]
    for option in re.findall(r"^  (\w+)\??[(:]", options, re.MULTILINE):
        used = rf"\boptions\.{option}\b|\b{option} }} = this\.#options|#call\(\"{option}\"|\b{option}: "
        assert re.search(used, module), option
