"""What SY.identity is configured with, and which database that means.

Settings stand where those of every node stand (`state/nodes/SY/SY.identity@<hive>/`), written by CONFIG_SET or by hand.
The URL of a PostgreSQL server is a secret: it stands in `secrets.json` there (0600), never in an argument, the
environment or a log. Without one the database is SQLite, in `state/identity/identity.db`.
"""

from __future__ import annotations

import grp
from dataclasses import dataclass
from typing import Any, Final

from skep import Hive
from skep.config_store import ConfigStore
from skep.contract import Contract, Secret
from skep_nodes.identity import limits
from skep_nodes.identity.sqlite import FILE_NAME, SqliteStore
from skep_nodes.identity.store import Store

NODE: Final = "SY.identity"
KNOWN: Final = frozenset({"database", "merge_alias_ttl_secs", "frontdesk", "group"})
DATABASES: Final = ("sqlite", "postgres")


def check(config: dict[str, Any]) -> None:
    """Raises ValueError for a configuration that cannot be used."""
    unknown = config.keys() - KNOWN
    if unknown:
        raise ValueError(f"unknown setting {min(unknown)!r}; known are {', '.join(sorted(KNOWN))}")
    if config.get("database", "sqlite") not in DATABASES:
        raise ValueError(f"database must be one of {', '.join(DATABASES)}")
    ttl = config.get("merge_alias_ttl_secs", limits.ALIAS_TTL_S)
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 <= ttl <= limits.ALIAS_TTL_S_MAX:
        raise ValueError(f"merge_alias_ttl_secs must be a whole number of 0..{limits.ALIAS_TTL_S_MAX}")
    for name in ("frontdesk", "group"):
        if not isinstance(config.get(name, ""), str):
            raise ValueError(f"{name} must be text")


CONTRACT: Final = Contract(
    optional_fields=tuple(sorted(KNOWN)), secrets=(Secret("postgres_url"),), validate=check,
    notes=("A change comes into force at the next start.",),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """The settings in force."""

    database: str = "sqlite"
    merge_alias_ttl_secs: int = limits.ALIAS_TTL_S
    frontdesk: str = ""
    group: int | None = None  # gid that may read the regions and the key of channels
    postgres_url: str = ""


def read_config(hive: Hive) -> IdentityConfig:
    """The settings from the hive's folder. Raises ConfigError, ValueError."""
    stored = ConfigStore(hive, f"{NODE}@{hive.hive_id}").load()
    found = stored.config or {}
    check(found)
    group = str(found.get("group", ""))
    return IdentityConfig(
        str(found.get("database", "sqlite")), int(found.get("merge_alias_ttl_secs", limits.ALIAS_TTL_S)),
        str(found.get("frontdesk", "")), _gid(group) if group else None, _url(stored.secrets),
    )  # fmt: skip


def _url(secrets: dict[str, str]) -> str:
    """The URL, whether it was set as `postgres_url` or below `secrets`."""
    return secrets.get("postgres_url") or secrets.get("secrets.postgres_url", "")


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"group: no group is called {name!r}") from None


def open_store(hive: Hive, config: IdentityConfig) -> Store:
    """The store that the settings name. Raises ValueError."""
    if config.database == "sqlite":
        return SqliteStore(hive.state_dir / "identity" / FILE_NAME)
    if not config.postgres_url:
        path = ConfigStore(hive, f"{NODE}@{hive.hive_id}").folder / "secrets.json"
        raise ValueError(f"missing_secret: database is postgres, but {path} holds no postgres_url")
    from skep_nodes.identity.postgres import PostgresStore

    return PostgresStore(config.postgres_url)
