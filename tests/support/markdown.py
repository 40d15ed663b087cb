"""Reading the project's documents as the tests do: fenced blocks with the comment above them, links, headings."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `note` is what the HTML comment right above it says (`file: …`, `run: …`)."""

    path: Path
    line: int
    language: str
    note: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(REPO)}:{self.line}"


def tracked(*patterns: str, new: bool = True) -> list[Path]:
    """Files that git tracks and, with `new`, those it would: so that a build folder is never judged."""
    kinds = ["--cached", "--others", "--exclude-standard"] if new else ["--cached"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *kinds, "--", *patterns],
        cwd=REPO,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return sorted({REPO / name for name in listed.split("\0") if name and (REPO / name).is_file()})


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(path, line, found["language"], (found["note"] or "").strip(), found["text"])


def links(path: Path) -> Iterator[tuple[int, str]]:
    """(line, target) of every link outside code."""
    prose = BLOCK.sub(lambda found: "\n" * found[0].count("\n"), path.read_text())
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for found in LINK.finditer(prose):
        yield prose.count("\n", 0, found.start()) + 1, found["target"]


def anchors(path: Path) -> set[str]:
    """The names of a document's headings as a renderer makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")
        for heading in HEADING.findall(path.read_text())
    }
