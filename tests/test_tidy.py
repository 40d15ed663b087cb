"""Rules of CONTRIBUTING.md that a machine can read: sizes, docstrings, leftovers, and what may not be in a file.

Patterns that must not occur anywhere are spelt in pieces here, so that this file obeys them too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.markdown import REPO, tracked

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
PACKAGES = ("shm_layouts/", "sdk/", "policies/", "router/", "nodes/")
TEXT = [path for path in tracked() if path.suffix not in {".png", ".pdf", ".gz", ".bin"}]
SOURCES = [path for path in tracked("*.py") if str(path.relative_to(REPO)).startswith(PACKAGES)]

LEFTOVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
# A path of one machine, a package host, or a word about the tools that text was written with.
FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.])/wo" + r"rk/\w",
            r"/tmp/se" + r"tup",
            r"(?<![\w.])/ro" + r"ot/\w",
            "py"
            + r"pi\.org|python"
            + r"hosted|proxy\."
            + r"golang|registry\.npm"
            + "js|deb\\."
            + r"debian\.org",
            "clau" + "de",
            "chat" + "gpt",
            "co-auth" + "ored-by",
            "sub" + "agent",
            r"issues sh" + "ow",
        )
    ),
    re.IGNORECASE,
)
SWALLOWED = re.compile(r"except (Base)?Exception[^:\n]*:\s*\n?\s*pass\b")


def shown(path: Path) -> str:
    return str(path.relative_to(REPO))


def hits(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in paths:
        text = path.read_text(errors="replace")
        for hit in pattern.finditer(text):
            found.append(f"{shown(path)}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]!r}")
    return found


def test_no_leftovers() -> None:
    assert not hits(TEXT, LEFTOVER)


def test_no_file_knows_the_machine_or_the_tools_it_was_written_with() -> None:
    assert not hits(TEXT, FOREIGN)


def test_no_exception_is_swallowed() -> None:
    assert not hits(tracked("*.py"), SWALLOWED)


def test_tests_do_not_sleep() -> None:
    """`support.wait` alone passes real time; a subprocess under test may sleep, inside its own source text."""
    sleeps = []
    for path in tracked("tests/**/*.py", "tests/*.py"):
        if path.name != "wait.py":
            sleeps += [f"{shown(path)}:{line}" for line in sleep_calls(path)]
    assert not sleeps


def sleep_calls(path: Path) -> Iterator[int]:
    """`time.sleep(x)` and `asyncio.sleep(x)`; `asyncio.sleep(0)` only yields and is fine."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep":
            owner = node.func.value
            zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if isinstance(owner, ast.Name) and owner.id in {"time", "asyncio"} and not zero:
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_module_has_a_theory_and_a_readable_size(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not tree.body, "no module docstring"
    assert text.count("\n") <= MODULE_LINES_MAX
    assert not list(long_functions(tree))


def long_functions(tree: ast.Module) -> Iterator[str]:
    """Functions with too many lines of code; the docstring and comments that explain them cost nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = code_lines(node)
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.name}: {lines} lines of code, {FUNCTION_LINES_MAX} at most"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return len({line for part in body for node in ast.walk(part) if (line := getattr(node, "lineno", 0))})
