"""`python -m skep_shm header | docs [FILE]`: prints the C header, or the tables; with FILE, renews the tables in it."""

from __future__ import annotations

import sys
from pathlib import Path

from skep_shm import cheader, docs


def main(arguments: list[str]) -> int:
    match arguments:
        case ["header"]:
            sys.stdout.write(cheader.text())
        case ["docs"]:
            sys.stdout.write(docs.tables() + "\n")
        case ["docs", path]:
            Path(path).write_text(docs.updated(Path(path).read_text()))
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
