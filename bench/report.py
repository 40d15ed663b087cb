"""The table a person reads, and the comparison of two result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.runner import SCHEMA


def show(document: dict[str, Any], console: Console) -> None:
    """Prints results, then what did not run and why, then the counts."""
    table = Table(title="Skep beside its peers (ratio above 1: Skep is better)")
    for name, justify in (
        ("what", "left"),
        ("size", "right"),
        ("skep", "right"),
        ("peer", "left"),
        ("its", "right"),
        ("unit", "left"),
        ("ratio", "right"),
        ("required", "left"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for entry in document["results"]:
        table.add_row(
            entry["name"],
            str(entry["size"]),
            _number(entry["skep"]),
            entry["peer"],
            _number(entry["peer_value"]),
            entry["unit"],
            f"{entry['ratio']:.2f}",
            entry.get("required", ""),
            _verdict(entry),
        )
    console.print(table)
    for entry in document["not_run"]:
        console.print(f"not run: {entry['name']} ({entry['peer']}): {entry['reason']}", markup=False)
    console.print(summary(document), markup=False)


def summary(document: dict[str, Any]) -> str:
    judged = [entry for entry in document["results"] if "pass" in entry]
    met = sum(entry["pass"] for entry in judged)
    machine, run = document["machine"], document["run"]
    return (
        f"{met} of {len(judged)} targets met, {len(document['results']) - len(judged)} rows without a target, "
        f"{len(document['not_run'])} rows not run, {len(run['invalid'])} invalid; {run['rounds']} round(s), "
        f"{run['seconds']} s; nats-server {machine['versions']['nats-server']}; {machine['pinning']}"
    )


def _verdict(entry: dict[str, Any]) -> str:
    return "" if "pass" not in entry else "[green]met[/]" if entry["pass"] else "[red]missed[/]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def load(path: Path) -> dict[str, Any]:
    """A result file; ValueError says what is wrong with it."""
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a result file: {error}; make one with: python -m bench") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema is not {SCHEMA}; make one with: python -m bench")
    return document


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of both files side by side. `change` is the ratio's change: above 1, `after` is better.

    Ratios are compared and not values: each was taken beside its peer, in its own run.
    """
    old = {_key(entry): entry for entry in before["results"]}
    rows = []
    for entry in after["results"]:
        was = old.pop(_key(entry), None)
        change = entry["ratio"] / was["ratio"] if was and was["ratio"] else None
        rows.append(
            {
                "name": entry["name"],
                "size": entry["size"],
                "peer": entry["peer"],
                "before": was["ratio"] if was else None,
                "after": entry["ratio"],
                "change": round(change, 3) if change is not None else None,
            }
        )
    rows += [
        {
            "name": entry["name"],
            "size": entry["size"],
            "peer": entry["peer"],
            "before": entry["ratio"],
            "after": None,
            "change": None,
        }
        for entry in old.values()
    ]
    return rows


def _key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["name"], str(entry["size"]), entry["peer"]


def show_comparison(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="ratios, before and after (change above 1: better)")
    for name in ("what", "size", "peer", "before", "after", "change"):
        table.add_column(name, justify="left" if name in {"what", "peer"} else "right", overflow="fold")
    for entry in rows:
        cells = (
            "-" if entry[name] is None else f"{entry[name]:.2f}" for name in ("before", "after", "change")
        )
        table.add_row(entry["name"], str(entry["size"]), entry["peer"], *cells)
    console.print(table)
