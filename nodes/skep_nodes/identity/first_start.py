"""What a hive knows at its first start: a default tenant, and whoever `config/identity.yaml` names.

An empty database gets one active tenant with the hive's name, which is written down as the default one, so that nobody
ever lands in a tenant that merely came first. `config/identity.yaml` (or `.json`) is read only then; afterwards the
database is the truth, and the file is for the next hive. Ids may be given, so that files and rules can name them.

    default_tenant: acme
    tenants:
      - {name: acme, domain: acme.example}
    agents:
      - {node: AI.desk, tenant: acme, roles: [support], capabilities: [orders, spanish]}
    humans:
      - {display_name: Ana, email: ana@acme.example, tenant: acme, subtype: internal, roles: [approver],
         channels: [{type: whatsapp, address: "+54 9 11 5555 0000"}]}

The file goes through the same actions as messages do, with the same rules. One that breaks a rule stops the start and
says which entry: half a hive would be worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skep import Hive
from skep_nodes.identity import admission, ids, limits
from skep_nodes.identity.action import Action
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.records import Fact
from skep_nodes.identity.service import Service
from skep_nodes.identity.tables import FACTS
from skep_nodes.identity.verbs import Settings, verbs
from skep_nodes.identity.view import Ask, View
from skep_nodes.sy.standing import Standing

ACTOR: Final = "SY.identity"
NAMES: Final = ("identity.yaml", "identity.yml", "identity.json")
FILE_BYTES_MAX: Final = 1 << 20
ENTRIES_MAX: Final = 1000  # of each list: a file for trying a hive; more is imported (skep identity import)
_MEMBERS: Final = {"default_tenant", "tenants", "agents", "humans"}


class FirstStartInvalid(Exception):
    """The file cannot be used: which entry, and why."""


@dataclass(frozen=True, slots=True)
class SetDefault:
    """Write down which tenant is the default one."""

    tenant: bytes

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        view.put(FACTS, Fact(admission.DEFAULT_TENANT, ids.tenant_text(self.tenant)))
        view.note(ACTOR, "DEFAULT_TENANT", ids.NONE, self.tenant, "")
        return {"status": "ok"}


@dataclass(frozen=True, slots=True)
class IsEmpty:
    """Whether no first start was ever completed."""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        return {"status": "ok", "empty": not view.fact(admission.DEFAULT_TENANT)}


async def first_start(service: Service, hive: Hive, say: Callable[[str], None]) -> None:
    """Fill an empty store. Raises FirstStartInvalid."""
    if not (await service.submit(IsEmpty()))["empty"]:
        return
    path = next((hive.config_dir / name for name in NAMES if (hive.config_dir / name).exists()), None)
    document = _document(path) if path is not None else {}
    filling = _Filling(service, hive.hive_id, path.name if path else "first start", document)
    await filling.fill(document)
    if path is not None:
        say(f"read {path}: {filling.summary()}")


def _document(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    data = path.read_bytes()
    if len(data) > FILE_BYTES_MAX:
        raise FirstStartInvalid(f"{path}: {len(data)} bytes, {FILE_BYTES_MAX} at most")
    try:
        document = YAML(typ="safe", pure=True).load(data.decode())
    except (YAMLError, UnicodeDecodeError) as error:
        raise FirstStartInvalid(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not document.keys() <= _MEMBERS:
        raise FirstStartInvalid(f"{path}: must be a mapping with {', '.join(sorted(_MEMBERS))}")
    for name in _MEMBERS - {"default_tenant"}:
        entries = document.get(name) or []
        if not isinstance(entries, list) or len(entries) > ENTRIES_MAX:
            raise FirstStartInvalid(f"{path}: {name} must be a list of at most {ENTRIES_MAX}")
    return document


class _Filling:
    """One pass over the document."""

    def __init__(self, service: Service, hive: str, where: str, document: dict[str, Any]) -> None:
        self._service, self._hive, self._where = service, hive, where
        self._verbs = verbs(Settings(hive))
        self._caller = Caller(f"SY.identity@{hive}", Standing.SYSTEM)
        self._admin = Caller(f"SY.admin@{hive}", Standing.SYSTEM)
        self._tenants: dict[str, str] = {}
        self._content = repr(document).encode()
        self._counts = {"tenants": 0, "agents": 0, "humans": 0}

    def summary(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self._counts.items())

    async def fill(self, document: dict[str, Any]) -> None:
        """Tenants, then those in them; the default tenant last, so that an interrupted start begins again."""
        default = str(document.get("default_tenant") or "")
        named = [dict(entry) if isinstance(entry, dict) else entry for entry in document.get("tenants") or []]
        if not named:
            named = [{"name": default or self._hive}]
        for number, entry in enumerate(named):
            await self._tenant(entry, f"tenants[{number}]")
        chosen = default or next(iter(self._tenants))
        if chosen not in self._tenants:
            raise FirstStartInvalid(f"{self._where}: default_tenant {chosen!r} is none of tenants")
        for number, entry in enumerate(document.get("agents") or []):
            await self._agent(entry, chosen, f"agents[{number}]")
        for number, entry in enumerate(document.get("humans") or []):
            await self._human(entry, chosen, f"humans[{number}]")
        key = ids.parse(ids.TENANT, self._tenants[chosen])
        assert key is not None
        await self._do(SetDefault(key), "default_tenant")

    async def _tenant(self, entry: Any, where: str) -> None:
        members = self._members(entry, where, {"name", "domain", "settings"})
        answer = await self._say("TNT_CREATE", {**members, "status": "active"}, where)
        self._tenants[str(members.get("name"))] = answer["tenant_id"]
        self._counts["tenants"] += 1

    async def _agent(self, entry: Any, default: str, where: str) -> None:
        members = self._members(
            entry, where, {"ilk", "node", "tenant", "roles", "capabilities", "display_name"}
        )
        known = {"node_name": members.get("node"), "display_name": members.get("display_name")}
        await self._register("agent", members, default, known, where)
        self._counts["agents"] += 1

    async def _human(self, entry: Any, default: str, where: str) -> None:
        names = {
            "ilk",
            "tenant",
            "roles",
            "capabilities",
            "display_name",
            "email",
            "phone",
            "subtype",
            "channels",
        }
        members = self._members(entry, where, names)
        known = {name: members.get(name) for name in ("display_name", "email", "phone")}
        ilk = await self._register("human", members, default, known, where)
        added = [
            {"ich_id": ids.channel_text(self._id(f"{where}.channels[{at}]")), **channel}
            if isinstance(channel, dict)
            else channel
            for at, channel in enumerate(members.get("channels") or [])
        ]
        if added:
            await self._say("ILK_UPDATE", {"ilk_id": ilk, "add_channels": added}, f"{where}.channels")
        self._counts["humans"] += 1

    async def _register(
        self, kind: str, members: dict[str, Any], default: str, known: dict[str, Any], where: str
    ) -> str:
        tenant = str(members.get("tenant") or default)
        if tenant not in self._tenants:
            raise FirstStartInvalid(f"{self._where}: {where}: tenant {tenant!r} is none of tenants")
        asked = {
            "ilk_id": members.get("ilk") or ids.ilk_text(self._id(where)), "ilk_type": kind,
            "tenant_id": self._tenants[tenant],
            "identification": {name: value for name, value in known.items() if value is not None},
            "roles": members.get("roles"),
            "capabilities": members.get("capabilities"), "human_subtype": members.get("subtype"),
        }  # fmt: skip
        return str((await self._say("ILK_REGISTER", asked, where))["ilk_id"])

    def _id(self, where: str) -> bytes:
        """The id of an entry: the same when an interrupted first start begins again, for this hive and file alone."""
        return ids.as_version_4(
            ids.digest16(self._hive.encode(), self._where.encode(), self._content, where.encode())
        )

    def _members(self, entry: Any, where: str, known: set[str]) -> dict[str, Any]:
        if not isinstance(entry, dict):
            raise FirstStartInvalid(f"{self._where}: {where} must be a mapping")
        for name in entry:
            if name not in known:
                raise FirstStartInvalid(f"{self._where}: {where}: unknown member {str(name)[:64]!r}")
        return entry

    async def _say(self, verb: str, payload: dict[str, Any], where: str) -> dict[str, Any]:
        from skep_nodes.identity.refusal import Refusal

        caller = self._admin if verb.startswith("TNT_") else self._caller
        try:
            action = self._verbs[verb].read(payload, caller)
        except Refusal as refusal:
            raise FirstStartInvalid(f"{self._where}: {where}: {refusal.message}") from refusal
        return await self._do(action, where)

    async def _do(self, action: Action, where: str) -> dict[str, Any]:
        answer = await self._service.submit(action)
        if answer["status"] != "ok":
            raise FirstStartInvalid(f"{self._where}: {where}: {answer['error_code']}: {answer['message']}")
        return answer


assert ENTRIES_MAX <= limits.WAITING_MAX
