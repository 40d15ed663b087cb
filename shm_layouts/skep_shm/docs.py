"""The tables of docs/shm.md, printed from the declared layouts and put between its markers."""

from __future__ import annotations

from skep_shm.layout import Layout
from skep_shm.layouts import LAYOUTS, MAGIC, VERSION

BEGIN = "<!-- tables: printed by `python -m skep_shm docs` -->"
END = "<!-- end of tables -->"


def _table(layout: Layout) -> str:
    lines = [
        f"### {layout.title}: {layout.size} bytes",
        "",
        "| At | Size | Type | Field | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {layout.offset(field.name)} | {field.bytes} | {field.kind} | {field.name} | {field.note} |"
        for field in layout.fields
    ]
    return "\n".join(lines)


def tables() -> str:
    """Every layout as a table, and the constants."""
    head = f"Layout version {VERSION}; magic 0x{MAGIC:016X} (the bytes `SKEPSHM1`)."
    return "\n\n".join([head, *(_table(layout) for layout in LAYOUTS)])


def updated(document: str) -> str:
    """`document` with the tables between its markers replaced. Raises ValueError when it has no markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no markers: the document must contain {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"
