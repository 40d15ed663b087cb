"""How a node of this package gets its settings and secrets: one file each, judged whole before anything starts.

`build` turns a mapping into a frozen dataclass and refuses what the dataclass does not name: a misspelt key that is
silently ignored is a limit that is silently absent. Secrets come from a file of their own that only its owner can
read; they are never taken from arguments or the environment, where `ps` shows them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import stat
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

FILE_BYTES_MAX = 1 << 20  # a configuration larger than this is not one
SECRET_BYTES = 32  # 256 bits from the system's generator

Settings = TypeVar("Settings")


class SettingsError(Exception):
    """What is wrong, where, and what would be right."""


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file, or YAML by its suffix (its reader is loaded only then)."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SettingsError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8")
        value = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: must hold one mapping of settings")
    return value


def read_secrets(path: Path) -> dict[str, Any]:
    """The secrets file. Refused when others may read it, or when it is not ours."""
    try:
        found = path.stat()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; create it with mode 0600") from error
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(f"{path}: others may read it; run chmod 600 on it and renew its secrets")
    if found.st_uid not in (os.geteuid(), 0):
        raise SettingsError(f"{path}: belongs to uid {found.st_uid}, not to this node")
    return read_mapping(path)


def write_secrets(path: Path, secrets: Mapping[str, Any]) -> None:
    """Creates the file with mode 0600 from its first byte; never overwrites one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(secrets, file, indent=1)
        file.write("\n")


def build(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """A `cls` (a frozen dataclass) from `values`. Raises SettingsError naming the first wrong setting."""
    hints = typing.get_type_hints(cls)
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise SettingsError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(fields))}")
    given = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    missing = [name for name, each in fields.items() if name not in given and _required(each)]
    if missing:
        raise SettingsError(f"{where}: setting {missing[0]!r} is required")
    return cls(**given)


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments every node of this package takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--hive", type=Path, default=None, help="the hive's folder")
    parser.add_argument("--config", type=Path, default=None, help="settings, JSON or YAML")
    parser.add_argument("--name", default=None, help="the node's name, when not the usual one")
    return parser


def load(cls: type[Settings], options: argparse.Namespace) -> Settings:
    """Settings from `--config` (all defaults without one), with `--name` winning over the file's."""
    values = read_mapping(options.config) if options.config else {}
    if options.name:
        values["name"] = options.name
    return build(cls, values, str(options.config or cls.__name__))


def _required(each: dataclasses.Field[Any]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(next(each for each in inner if each is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise SettingsError(f"{where}: must be a list")
        return tuple(_convert(inner[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where}: must be a mapping")
        return build(typing.cast("type[Any]", hint), value, where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise SettingsError(f"{where}: must be {_spelt(hint)}, not {type(value).__name__}")
    if hint in (int, float) and value < 0:
        raise SettingsError(f"{where}: must not be negative")
    return value


def _spelt(hint: Any) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return words.get(hint, str(hint))


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ValueError(str(error)) from error
