"""`skep config`: the settings in force, where each came from, and whether what is stored can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skep import find_hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_file import load
from skep_nodes.cli.output import Column, Format, Output

SETTINGS = [Column("key", "KEY"), Column("value", "VALUE", flexible=True)]
WITH_ORIGIN = [*SETTINGS, Column("origin", "ORIGIN", flexible=True)]


def view_command(root: Path | None, out: Output, with_origin: bool) -> int:
    """Print every setting."""
    hive = find_hive(root)
    loaded = load(hive.root)
    values = loaded.settings.model_dump()
    if out.form in (Format.json, Format.yaml):
        origins = {"origins": loaded.origins} if with_origin else {}
        out.one("skep.config/1", {"hive": str(hive.root), "settings": values, **origins})
        return Exit.OK
    rows = [{"key": key, "value": _short(values[key]), "origin": loaded.origins[key]} for key in values]
    out.rows("skep.config/1", "settings", rows, WITH_ORIGIN if with_origin else SETTINGS)
    return Exit.OK


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(one["name"] for one in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def validate_command(root: Path | None, out: Output) -> int:
    """Check hive.yaml, the nodes it names, what system nodes read at their start, and the stored configuration."""
    from skep_nodes.cli.hive_check import check_nodes, check_system
    from skep_nodes.sy.config_store import ConfigDamaged, ConfigStore

    hive = find_hive(root)
    check_nodes(hive, load(hive.root))
    check_system(hive)
    try:
        stored = ConfigStore(hive.config_dir).load()
    except ConfigDamaged as error:
        raise Failure("INVALID_CONFIG", str(error), then="correct the file or restore it from a backup",
                      exit_code=Exit.USAGE) from error  # fmt: skip
    if stored.warnings:
        raise Failure("INVALID_CONFIG", stored.warnings[0], then="start the hive once, or correct the file",
                      exit_code=Exit.USAGE)  # fmt: skip
    version = stored.state.version if stored.state else 0
    out.say(
        f"{hive.root}: hive.yaml is valid, stored configuration is "
        + (f"version {version}" if version else "empty")
    )
    if out.form is not Format.table:
        out.one(
            "skep.config-check/1", {"hive": str(hive.root), "valid": True, "config_version": version}, "valid"
        )
    return Exit.OK
