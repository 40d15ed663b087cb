"""hive.yaml: what a hive is called and which nodes `skep up` starts.

Every problem is named with its file and line, and a key that nobody knows is an error with the nearest one that
exists: a misspelt key that is ignored is a setting that is not in force. Values are looked up in layers, and the
layer that won is remembered, so `skep config view --origin` can show it: environment > hive.d/*.yaml (last file
first) > hive.yaml > default. Where the folder itself comes from is `skep.find_hive`'s business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from skep.protocol.errors import ProtocolError
from skep.protocol.names import kind_of, parse_base
from skep_nodes.cli.failure import Exit, Failure

FILE_NAME = "hive.yaml"
FILE_BYTES_MAX = 1 << 20
BRACKETS_MAX = 100
NODES_MAX = 256  # children of one `skep up`; past that a hive belongs under a service manager
_ENVIRONMENT = {
    "SKEP_READY_S": "ready_s",
    "SKEP_STOP_S": "stop_s",
    "SKEP_TAP": "tap",
    "SKEP_ROUTER_NAME": "router_name",
}

Seconds = Annotated[float, Field(gt=0, le=600)]


class NodeEntry(BaseModel):
    """One node that `skep up` starts as `python -m <module> --hive … --name … --config …`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    module: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    settings: dict[str, Any] = {}
    config: str = ""
    path: str = ""
    args: list[str] = []
    env: dict[str, str] = {}
    restart: Literal["always", "never"] = "always"

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        try:
            parse_base(name)
        except ProtocolError as error:
            raise ValueError(error.detail) from error
        if kind_of(name) in ("RT", "SY"):
            raise ValueError("routers and system nodes are started by `skep up` itself")
        return name


class HiveFile(BaseModel):
    """The settings of a hive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hive_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,50}$")
    router_name: str = Field("RT.main", pattern=r"^RT\.[A-Za-z0-9_.-]+$")
    tap: bool = True
    seals: Literal["off", "warn", "require"] = "off"
    ready_s: Seconds = 10.0
    stop_s: Seconds = 8.0
    decisions: dict[str, Any] = {}
    nodes: Annotated[list[NodeEntry], Field(max_length=NODES_MAX)] = []

    @field_validator("decisions")
    @classmethod
    def _decisions(cls, decisions: dict[str, Any]) -> dict[str, Any]:
        from skep.protocol.errors import PolicyError
        from skep_nodes.sy.decisions_desk import settings_of

        try:
            settings_of(decisions)
        except PolicyError as error:
            raise ValueError(error.detail) from error
        return decisions

    @field_validator("nodes")
    @classmethod
    def _names(cls, nodes: list[NodeEntry]) -> list[NodeEntry]:
        names = [node.name for node in nodes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two nodes are called {twice}; `skep up` starts one process for each name")
        return nodes


@dataclass(slots=True)
class Loaded:
    """The settings, and which layer each top-level value came from."""

    settings: HiveFile
    origins: dict[str, str] = field(default_factory=dict)
    lines: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)

    def place(self, *at: str | int) -> str:
        """The file and line of a value, or of what it stands in."""
        return nearest(self.lines, at) or FILE_NAME


def load(root: Path) -> Loaded:
    """Read and check all layers of a hive's settings. Raises Failure."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(HiveFile.model_fields, "default")
    lines: dict[tuple[str | int, ...], str] = {}
    for path in [root / FILE_NAME, *sorted((root / "hive.d").glob("*.yaml"))]:
        try:
            layer = _read(path)
            lines |= _lines_of(path, layer)
        except RecursionError as error:  # brackets without end, or an alias for what it stands in
            raise invalid(f"{path}:1", "nested too deeply") from error
        for key in layer:
            origins[str(key)] = _place(path, layer, (key,))
        values |= layer
    for variable, key in _ENVIRONMENT.items():
        if variable in os.environ:
            values[key], origins[key] = os.environ[variable], variable
    try:
        return Loaded(HiveFile.model_validate(values), origins, lines)
    except ValidationError as error:
        raise _failure(error, lines, origins, root) from error


def _read(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise Failure(
                "INVALID_CONFIG", f"{path}: larger than {FILE_BYTES_MAX} bytes", exit_code=Exit.USAGE
            )
        text = path.read_text(encoding="utf-8")
        if _brackets_deep(text) > BRACKETS_MAX:
            raise invalid(f"{path}:1", "nested too deeply")
        value = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise invalid(f"{path}:{line}", str(error.problem)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise invalid(str(path), " ".join(str(error).split())) from error
    if not isinstance(value, dict):
        raise invalid(f"{path}:1", "must be a mapping such as `hive_id: dev`")
    return value


def _brackets_deep(text: str) -> int:
    """How deep its brackets are nested: the reader's time grows with the square of that."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _lines_of(path: Path, value: Any, at: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], str]:
    """Where each value stands, by its path of keys and indexes."""
    found: dict[tuple[str | int, ...], str] = {}
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        found[(*at, key)] = _place(path, value, (key,))
        found |= _lines_of(path, inner, (*at, key))
    return found


def _place(path: Path, value: Any, at: tuple[Any, ...]) -> str:
    marks = getattr(getattr(value, "lc", None), "data", None) or {}
    mark = marks.get(at[0])
    return f"{path}:{mark[0] + 1}" if mark else str(path)


def _failure(
    error: ValidationError, lines: Mapping[tuple[str | int, ...], str], origins: Mapping[str, str], root: Path
) -> Failure:
    problems = [_problem(dict(one), lines, origins, root) for one in error.errors()]
    return invalid(*problems[0], more=[f"{place}: {text}" for place, text in problems[1:]])


def _problem(
    one: dict[str, Any], lines: Mapping[tuple[str | int, ...], str], origins: Mapping[str, str], root: Path
) -> tuple[str, str]:
    at = tuple(one["loc"])
    place = nearest(lines, at) or str(root / FILE_NAME)
    if at and origins.get(str(at[0]), "").startswith("SKEP_"):
        place = origins[str(at[0])]
    dotted = ".".join(str(part) for part in at)
    if one["type"] == "extra_forbidden":
        known = (NodeEntry if len(at) > 1 and at[0] == "nodes" else HiveFile).model_fields
        near = get_close_matches(str(at[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return place, f"unknown key {dotted!r}; {hint}"
    return place, f"{dotted}: {one['msg'].removeprefix('Value error, ')}"


def nearest(lines: Mapping[tuple[str | int, ...], str], at: tuple[str | int, ...]) -> str:
    """Where a value stands, or the innermost thing around it that stands somewhere; empty for neither."""
    return next((lines[at[:size]] for size in range(len(at), 0, -1) if at[:size] in lines), "")


def invalid(place: str, problem: str, more: list[str] | None = None) -> Failure:
    """A setting that cannot be used, and others beside it."""
    why = "also " + "; ".join(more) if more else ""
    return Failure(
        "INVALID_CONFIG", f"{place}: {problem}", why=why, then="correct it, then `skep config validate`",
        exit_code=Exit.USAGE,
    )  # fmt: skip
