"""docs/reliability.md and the tests' markers, kept equal.

The document's column "tests" is written from the `goal` markers (`make docs`); a test compares. Everything else in the
table is written by hand. Markers are read from the sources, which needs no collection and no imports.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from support.goals import GOALS
from support.markdown import REPO, tracked

DOCUMENT = REPO / "docs" / "reliability.md"
ROW = re.compile(r"^\| (G\d+) \|.*$", re.MULTILINE)
TESTS_CELL = -2  # the last cell; after it only the row's closing bar
NONE = "not covered yet"


def main() -> int:
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
    return 0


def marked_tests() -> dict[str, set[str]]:
    """Goal -> the test files that carry its marker; a file that is not committed proves nothing to a reader."""
    found: dict[str, set[str]] = {name: set() for name in GOALS}
    for path in tracked("tests/**/test_*.py", "tests/test_*.py", new=False):
        name = str(path.relative_to(REPO))
        for goal in _goals_in(path):
            found[goal].add(name)
    return found


def _goals_in(path: Path) -> list[str]:
    """Arguments of every `pytest.mark.goal(...)`; other calls that happen to be named goal are none of ours."""
    goals: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"pytest.mark.goal", "mark.goal"}:
            goals += [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
    return [goal for goal in goals if goal in GOALS]


def rows(text: str) -> dict[str, str]:
    return {found[1]: found[0] for found in ROW.finditer(text)}


def written(text: str) -> str:
    """The document with its column of tests as the markers have it now."""
    marked = marked_tests()
    return ROW.sub(lambda found: _row(found[0], marked.get(found[1], set())), text)


def _row(row: str, files: set[str]) -> str:
    cells = row.split("|")
    shown = [f"[{name.removeprefix('tests/')}](../{name})" for name in sorted(files)]
    cells[TESTS_CELL] = f" {', '.join(shown) or NONE} "
    return "|".join(cells)


if __name__ == "__main__":
    sys.exit(main())
