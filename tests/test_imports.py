"""The import rule of docs/design.md §1, proved by reading every import of every package."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from support.markdown import tracked

REPO = Path(__file__).resolve().parents[1]

FOLDERS = {
    "skep_shm": "shm_layouts",
    "skep": "sdk",
    "skep_policy": "policies",
    "skep_router": "router",
    "skep_nodes": "nodes",
}
OURS = frozenset(FOLDERS)
MAY_IMPORT = {
    "skep_shm": frozenset[str](),
    "skep": frozenset({"skep_shm"}),
    "skep_policy": frozenset({"skep", "skep_shm"}),
    "skep_router": frozenset({"skep", "skep_shm", "skep_policy"}),
    "skep_nodes": frozenset({"skep", "skep_shm", "skep_policy"}),
}
# Of the SDK, policies see the protocol; the router also the hive's folder; neither the client of node authors.
SEES_OF_SKEP = {
    "skep_policy": ("skep.protocol",),
    "skep_router": ("skep.protocol", "skep.hive", "skep.identity", "skep.files"),
}
# The protocol has no I/O: bytes in, events out. The clock is an argument.
NO_IO = frozenset(
    {"asyncio", "socket", "select", "selectors", "threading", "multiprocessing", "subprocess", "time"}
)
# Import name of a distribution whose two names differ.
IMPORTED_AS = {"ruamel.yaml": "ruamel", "nats-py": "nats", "pyzmq": "zmq"}
CORE = frozenset({"skep_shm", "skep", "skep_router"})
# Of the extra `hive`: loaded by the SDK only where an agent's seal is verified.
LAZY = frozenset({"cryptography"})


def modules(package: str) -> list[Path]:
    return sorted((REPO / FOLDERS[package] / package).rglob("*.py"))


def imports(path: Path, toplevel_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import, also those in functions and under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(), str(path))
    for node in tree.body if toplevel_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = path.relative_to(REPO).with_suffix("").parts[1:]
    base = parts[: len(parts) - node.level]
    return ".".join((*base, node.module) if node.module else base)


def broken(package: str) -> list[str]:
    """Every import of `package` that the table forbids, as file:line and the rule."""
    found = []
    for path in modules(package):
        for line, module in imports(path):
            top = module.partition(".")[0]
            if top in OURS and top != package and top not in MAY_IMPORT[package]:
                found.append(f"{path.relative_to(REPO)}:{line}: {package} may not import {module}")
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    assert not broken(package)


@pytest.mark.parametrize("package", SEES_OF_SKEP)
def test_only_the_protocol_of_the_sdk_is_seen_below_the_client(package: str) -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {module}"
        for path in modules(package)
        for line, module in imports(path)
        if module.startswith("skep.") and not module.startswith(SEES_OF_SKEP[package])
    ]
    assert not wrong


def test_the_protocol_does_no_io_and_reads_no_clock() -> None:
    folder = REPO / "sdk" / "skep" / "protocol"
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {module}"
        for path in sorted(folder.rglob("*.py"))
        for line, module in imports(path)
        if module.partition(".")[0] in NO_IO
    ]
    assert not wrong


def foreign(packages: Iterable[str]) -> set[str]:
    """Top-level modules that these packages import and that are neither ours nor Python's."""
    return third_party(path for package in packages for path in modules(package))


def third_party(paths: Iterable[Path]) -> set[str]:
    tops = {module.partition(".")[0] for path in paths for _, module in imports(path)}
    return tops - OURS - sys.stdlib_module_names


def declared(*extras: str) -> set[str]:
    """Import names of the dependencies in pyproject.toml: the core's, and those of `extras`."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    names = [re.split(r"[<>=;\[ ]", line)[0] for line in lines]
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_installed_alone_the_core_finds_all_that_it_imports() -> None:
    assert foreign(CORE) - LAZY <= declared()


def test_what_only_some_nodes_need_is_loaded_where_it_is_used() -> None:
    """A node that declares a degree verifies a signature; every other node must run without the library."""
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {module}"
        for package in CORE
        for path in modules(package)
        for line, module in imports(path, toplevel_only=True)
        if module.partition(".")[0] in LAZY
    ]
    assert not wrong


def test_the_extra_hive_names_exactly_what_the_nodes_import_besides() -> None:
    used = foreign(OURS) - declared()
    assert used == declared("hive", "storage") - declared(), (
        "pyproject.toml and the imports disagree; then run `make lock`"
    )


def test_tests_and_benchmarks_import_only_what_is_locked() -> None:
    paths = tracked(
        "tests/*.py", "tests/**/*.py", "bench/*.py", "bench/**/*.py", "tools/*.py", "examples/*.py"
    )
    local = (
        {path.stem for path in paths}
        | {folder.name for folder in (REPO / "tests").iterdir()}
        | {"bench", "tests"}
    )
    undeclared = third_party(paths) - local - declared("hive", "storage", "dev", "bench")
    assert not undeclared, "add them to pyproject.toml, then run `make lock`"


def test_pydantic_loads_only_where_a_typed_handler_is_declared() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{line}"
        for package in ("skep_shm", "skep", "skep_router")
        for path in modules(package)
        for line, module in imports(path, toplevel_only=True)
        if module.partition(".")[0] == "pydantic"
    ]
    assert not wrong


def test_the_rule_itself_catches_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "nodes" / "skep_nodes" / "bad.py"
    module.parent.mkdir(parents=True)
    module.write_text("def f():\n    import skep_router\n    from ..skep_router import fib\n")
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    found = "\n".join(broken("skep_nodes"))
    assert "bad.py:2: skep_nodes may not import skep_router" in found
    assert "bad.py:3: skep_nodes may not import skep_router.fib" in found
