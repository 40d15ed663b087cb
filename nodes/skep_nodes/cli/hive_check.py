"""What would keep a hive from starting, found without starting anything.

A node that cannot start is otherwise found by waiting for it. `skep up` looks at the modules and settings of its nodes
before it starts the first; `skep config validate` also at what system nodes read at their start: the settings of
SY.identity, the file of a first start, which is played through in a folder of its own, and the hive's key. Modules are
looked for, not imported; settings and secrets are read by the functions with which the nodes read them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from skep.hive import Hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_file import Loaded, NodeEntry, invalid

_SETTINGS = {
    "skep_nodes.ai.desk": "skep_nodes.ai.desk:DeskSettings",
    "skep_nodes.io.http": "skep_nodes.io.http_channel:HttpSettings",
    "skep_nodes.io.whatsapp": "skep_nodes.io.whatsapp_channel:WhatsappSettings",
    "skep_nodes.io.email": "skep_nodes.io.email_settings:EmailSettings",
    "skep_nodes.io.terminal": "skep_nodes.io.terminal:TerminalSettings",
}


def check_nodes(hive: Hive, loaded: Loaded) -> None:
    """Raises Failure when the module or the settings of a node cannot be used; it names all of them."""
    found = list(_problems(hive, loaded))
    if found:
        raise invalid(*found[0], more=[f"{place}: {text}" for place, text in found[1:]])


def _problems(hive: Hive, loaded: Loaded) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(loaded.settings.nodes):
        text = module_problem(hive, entry)
        if text:
            yield loaded.place("nodes", number, "module"), f"nodes.{number}.module: {text}"
        elif entry.module in _SETTINGS:
            key = "config" if entry.config else "settings"
            text = settings_problem(hive, entry, f"nodes.{number}.{key}")
            if text:
                yield loaded.place("nodes", number, key), text


def module_problem(hive: Hive, entry: NodeEntry) -> str:
    """Why `python -m MODULE` would find nothing; empty when it would find something."""
    searched = entry.env.get("PYTHONPATH", os.environ.get("PYTHONPATH", "")).split(os.pathsep)
    own = [str(hive.root / entry.path)] if entry.path else []
    ours = sys.path if sys.flags.safe_path else sys.path[1:]  # the first is where we were started from
    path = [*own, *(os.path.abspath(each) for each in searched if each), *ours]
    found, inner = _find(entry.module, path)
    if not found:
        return f"no module named {entry.module!r} is found; `path` or PYTHONPATH says where to look besides"
    if inner is not None and _spec(f"{entry.module}.__main__", inner) is None:
        return f"{entry.module!r} is a package without `__main__`, which cannot be run"
    return ""


def _find(module: str, path: list[str]) -> tuple[bool, list[str] | None]:
    """Whether a module is there, without importing what it stands in; and where to look inside, if it is a package."""
    where: list[str] | None = path
    words = module.split(".")
    for count in range(1, len(words) + 1):
        spec = _spec(".".join(words[:count]), where) if where is not None else None
        if spec is None:
            return False, None
        where = _inside(spec, where or [], words[count - 1])
    return True, where


def _inside(spec: Any, where: list[str], word: str) -> list[str] | None:
    """The folders of a package. One without `__init__` works its own out from modules that were imported."""
    if spec.submodule_search_locations is None:
        return None
    if spec.origin is not None:
        return list(spec.submodule_search_locations)
    return [folder for each in where if os.path.isdir(folder := os.path.join(each, word))]


def _spec(name: str, path: list[str]) -> Any:
    """As the interpreter looks, other finders than that of folders included: an editable installation has its own."""
    found = PathFinder.find_spec(name.rpartition(".")[2], path)  # by its last word: with more it wants what is around
    others = (each for each in sys.meta_path if each is not PathFinder)
    return found or next((spec for each in others if (spec := each.find_spec(name, path))), None)


def settings_problem(hive: Hive, entry: NodeEntry, where: str) -> str:
    """What the node would say about its settings or secrets; empty when nothing."""
    from skep_nodes.io.settings import SettingsError, build, read_mapping

    module, _, name = _SETTINGS[entry.module].partition(":")
    try:
        # What stands in hive.yaml is handed over as JSON, which has no dates, and no numbers that remember their form.
        values = read_mapping(hive.root / entry.config) if entry.config else json.loads(json.dumps(entry.settings))
        settings = build(getattr(import_module(module), name), {**values, "name": entry.name}, where)
        _read_secrets(hive, entry.module, settings)
    except (SettingsError, TypeError) as error:
        return str(error) if str(error).startswith(where) else f"{where}: {error}"
    return ""


def _read_secrets(hive: Hive, module: str, settings: Any) -> None:
    """Raises SettingsError. A file that the node would make itself may be missing."""
    from skep_nodes.io.process import secrets_path

    path = secrets_path(hive, settings.name, getattr(settings, "secrets_file", None))
    if module == "skep_nodes.io.whatsapp" and path.exists():  # without, it starts, and says what it cannot do
        from skep_nodes.io.whatsapp import load_whatsapp_secrets

        load_whatsapp_secrets(path)
    elif module == "skep_nodes.io.email":
        from skep_nodes.io.email_settings import load_accounts

        load_accounts(path, settings)
    elif module == "skep_nodes.io.http" and (path.exists() or settings.secrets_file is not None):
        from skep_nodes.io.http import load_callers

        load_callers(path, settings)
    elif module == "skep_nodes.ai.desk":
        from skep_nodes.ai.desk import load_model_key

        load_model_key(settings, hive)


def check_system(hive: Hive) -> None:
    """Raises Failure when a system node could not start with what it would read."""
    from skep.errors import SkepError
    from skep_nodes.sy.identity_config import read_config

    check_key(hive)
    try:
        config = read_config(hive)
    except (ValueError, SkepError) as error:
        raise _wrong(f"SY.identity: {error}") from error
    if config.database == "sqlite" and not (hive.state_dir / "identity" / "identity.db").exists():
        _check_first_start(hive)


def check_key(hive: Hive) -> None:
    """Raises Failure when the hive's key cannot be used. A folder that was made by hand has none yet."""
    from skep.protocol.errors import PolicyError
    from skep_policy.authority import Authority

    if (hive.config_dir / "authority.pub").exists() or (hive.state_dir / "authority" / "hive.key").exists():
        try:
            Authority.load_or_create(hive.root)
        except PolicyError as error:
            raise Failure(error.code, "the hive's key cannot be used", why=error.detail,
                          then="docs/policy-life.md says what each of these means") from error  # fmt: skip


def _check_first_start(hive: Hive) -> None:
    """Fill a store that is thrown away, as SY.identity would fill its own."""
    import asyncio

    from skep_nodes.identity.first_start import FirstStartInvalid

    with tempfile.TemporaryDirectory(prefix="skep-check-") as folder:
        try:
            asyncio.run(_play(hive, Path(folder)))
        except (FirstStartInvalid, OSError) as error:
            raise _wrong(f"SY.identity: {error}") from error


async def _play(hive: Hive, folder: Path) -> None:
    from skep_nodes.identity.audit import HeadFile
    from skep_nodes.identity.first_start import first_start
    from skep_nodes.identity.service import Service
    from skep_nodes.identity.sqlite import SqliteStore
    from skep_nodes.sy.system_node import wall_ms

    service = Service(SqliteStore(folder / "identity.db"), _Nobody(), wall_ms, HeadFile(folder / "identity.head"))
    await service.open()
    try:
        await first_start(service, hive, _silent)
    finally:
        await service.close()


class _Nobody:
    """A publisher without readers."""

    async def fill(self, store: Any, tenants: Iterable[Any]) -> None:
        """Nobody reads."""

    def publish(self, changes: Iterable[Any]) -> None:
        """Nobody reads."""


_silent: Callable[[str], None] = lambda _text: None  # noqa: E731  nobody is told


def _wrong(text: str) -> Failure:
    return Failure("INVALID_CONFIG", text, then="correct it, then `skep config validate`", exit_code=Exit.USAGE)
