"""The verbs of SY.identity: who may say each, and how its payload is read. The one list of what it can be asked.

Registrars are named, not guessed: the front desk and the orchestrator complete interlocutors, channels provision them,
administrators do the rest. What is compared is the name that the router proved. `Settings` are the node's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from skep.protocol.errors import ProtocolError
from skep.protocol.names import parse_name
from skep_nodes.identity import channels, ids, limits, merging, people, reading, tenants, transfer, vocabulary
from skep_nodes.identity.action import Action
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.fields import Fields, tag_of
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.verb import Verb
from skep_shm import IlkKind, Subtype, TenantStatus

ADMINS: Final = ("SY.admin", "SY.cli", "SY.cli.*")
"""Whoever may hold these names owns the hive's account, or a ticket."""
FRONT_DESK: Final = ("SY.frontdesk.gov",)
ORCHESTRATOR: Final = ("SY.orchestrator", "SY.orchestrator.relay.*", "SY.identity")
KINDS: Final = {kind.name.lower(): kind for kind in IlkKind}
SUBTYPES: Final = {"internal": Subtype.INTERNAL, "external": Subtype.EXTERNAL}
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the node's configuration says about requests."""

    hive: str
    alias_ttl_s: int = limits.ALIAS_TTL_S
    frontdesk: str = ""  # one more name for a front desk, without its hive


def verbs(settings: Settings) -> dict[str, Verb]:
    """Every verb."""
    desks = (*FRONT_DESK, settings.frontdesk) if settings.frontdesk else FRONT_DESK
    read = _Readers(settings)
    return {
        "ILK_PROVISION": Verb(("IO.*",), read.provision),
        "ILK_REGISTER": Verb((*desks, *ORCHESTRATOR, *ADMINS), read.register),
        "ILK_ADD_CHANNEL": Verb((*desks, *ADMINS), read.add_channel),
        "ILK_UPDATE": Verb((*ORCHESTRATOR, *ADMINS), read.update),
        "ILK_DELETE": Verb(ADMINS, read.delete),
        "ILK_MERGE": Verb(ADMINS, read.merge),
        "ILK_SPLIT": Verb(ADMINS, read.split),
        "TNT_CREATE": Verb((*desks, *ADMINS), read.create_tenant),
        "TNT_APPROVE": Verb(ADMINS, read.approve),
        "TNT_SUSPEND": Verb(ADMINS, read.suspend),
        "TNT_RESUME": Verb(ADMINS, read.resume),
        "TNT_LIST": Verb(ADMINS, read.list_tenants),
        "ILK_LIST": Verb(ADMINS, read.list_ilks),
        "ILK_GET": Verb((*ADMINS, *desks, *ORCHESTRATOR, "AI.*", "WF.*", "IO.*"), read.get),
        "ILK_HISTORY": Verb(ADMINS, read.history),
        "IDENTITY_EXPORT": Verb(ADMINS, read.export),
        "IDENTITY_IMPORT": Verb(ADMINS, read.import_lines),
        "VOCABULARY_LIST": Verb((), read.list_words),
        "VOCABULARY_ADD": Verb(ADMINS, read.add_word),
        "VOCABULARY_DEPRECATE": Verb(ADMINS, read.deprecate_word),
    }


def _administers(caller: Caller) -> bool:
    """Whether it may put anybody anywhere: not those who speak with strangers."""
    return Verb((*ADMINS, *ORCHESTRATOR), _nothing).allows(caller, caller.name.partition("@")[2])


def _nothing(payload: Mapping[str, Any], caller: Caller) -> Action:
    raise AssertionError("only asked for its callers")


class _Readers:
    """Payload → action, for each verb."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    # -- interlocutors -----------------------------------------------------------------------------------------

    def provision(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ich_id", "channel_type", "address", "tenant_id"))
        address = channels.read_address(fields, kind="channel_type")
        return people.Provision(caller, address, fields.key("tenant_id", ids.TENANT, required=False))

    def register(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        known = ("ilk_id", "ilk_type", "tenant_id", "identification", "roles", "capabilities", "human_subtype",
                 "change_reason")  # fmt: skip
        fields = Fields(payload, known)
        kind, may_place = KINDS[_word(fields, "ilk_type", KINDS)], _administers(caller)
        if kind is not IlkKind.HUMAN and not may_place:
            raise Refusal(Code.UNAUTHORIZED_REGISTRAR, f"{caller.base} registers people only")
        identification = fields.object("identification", required=True)
        return people.Register(
            caller.name, may_place, fields.key("ilk_id", ids.ILK), kind, fields.key("tenant_id", ids.TENANT),
            identification, _email(identification) if kind is IlkKind.HUMAN else "",
            "" if kind is IlkKind.HUMAN else self._node_name(identification), _subtype(fields, kind),
            fields.tags("roles"), fields.tags("capabilities"), _reason(fields),
        )  # fmt: skip

    def _node_name(self, identification: dict[str, Any]) -> str:
        """An agent is found by the node it runs as."""
        name = identification.get("node_name")
        if not isinstance(name, str) or not name:
            raise invalid("missing identification.node_name")
        try:
            full = parse_name(name, self._settings.hive)
        except ProtocolError as error:
            raise invalid(f"identification.node_name: {error.detail}") from error
        identification["node_name"] = full
        return full

    def add_channel(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ilk_id", "channel", "merge_from_ilk_id", "proof", "change_reason"))
        address = channels.read_address(fields.inner("channel", ("ich_id", "type", "address")))
        source = fields.key("merge_from_ilk_id", ids.ILK, required=False)
        ilk, ttl_s = fields.key("ilk_id", ids.ILK), self._settings.alias_ttl_s
        proof = _word(fields, "proof", dict.fromkeys(merging.PROOFS, 0)) if fields.has("proof") else ""
        return people.AddChannel(
            caller.name, ilk, address, source, _reason(fields), ttl_s, _administers(caller), proof
        )

    def update(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, (
            "ilk_id", "add_channels", "add_roles", "remove_roles", "add_capabilities", "remove_capabilities",
            "change_reason",
        ))  # fmt: skip
        added = [
            channels.read_address(Fields(entry, ("ich_id", "type", "address"), f"add_channels[{number}]."))
            for number, entry in enumerate(fields.entries("add_channels", limits.CHANNELS_PER_ILK_MAX))
        ]
        ilk, reason = fields.key("ilk_id", ids.ILK), _reason(fields)
        return people.Update(
            caller.name, ilk, tuple(added), fields.tags("add_roles"), fields.tags("remove_roles"),
            fields.tags("add_capabilities"), fields.tags("remove_capabilities"), reason,
        )  # fmt: skip

    def delete(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ilk_id", "change_reason"))
        return people.Delete(caller.name, fields.key("ilk_id", ids.ILK), _reason(fields))

    def merge(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ilk_id", "merge_from_ilk_id", "change_reason", "alias_ttl_secs"))
        ttl_s = fields.whole("alias_ttl_secs", 0, limits.ALIAS_TTL_S_MAX, self._settings.alias_ttl_s)
        target, source = fields.key("ilk_id", ids.ILK), fields.key("merge_from_ilk_id", ids.ILK)
        return merging.MergeIlks(caller.name, target, source, _reason(fields, required=True), ttl_s)

    def split(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ilk_id", "change_reason"))
        return merging.SplitIlk(caller.name, fields.key("ilk_id", ids.ILK), _reason(fields, required=True))

    # -- tenants -----------------------------------------------------------------------------------------------

    def create_tenant(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("name", "domain", "status", "settings", "requested_by_ilk"))
        status = TenantStatus(fields.choice("status", {"pending": 0, "active": 1}, "pending"))
        requested_by = fields.key("requested_by_ilk", ids.ILK, required=False)
        name, domain = fields.text("name", limits.NAME_CHARS_MAX), _domain(fields)
        return tenants.CreateTenant(
            caller.name, _administers(caller), name, domain, status, _settings(fields), requested_by
        )

    def approve(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("tenant_id", "approved_by"))
        by = fields.key("approved_by", ids.ILK, required=False)
        return _move("TNT_APPROVE", fields, caller, TenantStatus.PENDING, TenantStatus.ACTIVE, by)

    def suspend(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("tenant_id", "change_reason"))
        return _move("TNT_SUSPEND", fields, caller, TenantStatus.ACTIVE, TenantStatus.SUSPENDED)

    def resume(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("tenant_id", "change_reason"))
        return _move("TNT_RESUME", fields, caller, TenantStatus.SUSPENDED, TenantStatus.ACTIVE)

    def list_tenants(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        return tenants.ListTenants(Fields(payload, ("after",)).text("after", limits.NAME_CHARS_MAX, ""))

    # -- questions ---------------------------------------------------------------------------------------------

    def list_ilks(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("after", "limit"))
        limit = fields.whole("limit", 1, limits.LIST_MAX, limits.LIST_MAX)
        return reading.ListIlks(fields.key("after", ids.ILK, required=False), limit)

    def get(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        """System nodes see everything, others what their tenant's grant covers, without addresses."""
        ilk = Fields(payload, ("ilk_id",)).key("ilk_id", ids.ILK)
        full = caller.base.startswith("SY.")
        return reading.GetIlk(ilk, ids.NONE if full else caller.tenant, full)

    def history(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("ilk_id", "before"))
        return reading.History(fields.key("ilk_id", ids.ILK), fields.whole("before", 0, 1 << 62, 0))

    def export(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        return transfer.ExportPage(Fields(payload, ("after",)).key("after", ids.ILK, required=False))

    def import_lines(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("lines", "first"))
        lines = transfer.read_lines(fields.entries("lines", transfer.LINES_MAX), caller.name)
        return transfer.ImportLines(caller.name, lines, fields.whole("first", 1, 1 << 40, 1))

    # -- vocabulary --------------------------------------------------------------------------------------------

    def list_words(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        Fields(payload, ())
        return reading.ListWords()

    def add_word(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("tag", "category", "description"))
        tag = tag_of(fields.text("tag", limits.TAG_CHARS_MAX), "tag")
        description = fields.text("description", limits.DESCRIPTION_CHARS_MAX, "")
        return vocabulary.AddWord(
            caller.name, tag, _word(fields, "category", vocabulary.CATEGORIES), description
        )

    def deprecate_word(self, payload: Mapping[str, Any], caller: Caller) -> Action:
        fields = Fields(payload, ("tag", "change_reason"))
        tag = tag_of(fields.text("tag", limits.TAG_CHARS_MAX), "tag")
        return vocabulary.DeprecateWord(caller.name, tag, _reason(fields))


def _move(
    verb: str, fields: Fields, caller: Caller, before: TenantStatus, after: TenantStatus, by: bytes = ids.NONE
) -> Action:
    reason = "" if verb == "TNT_APPROVE" else _reason(fields)
    return tenants.MoveTenant(
        verb, caller.name, fields.key("tenant_id", ids.TENANT), before, after, by, reason
    )


def _word(fields: Fields, name: str, choices: Mapping[str, int]) -> str:
    fields.choice(name, choices)
    return fields.text(name, 64)


def _reason(fields: Fields, required: bool = False) -> str:
    return fields.text("change_reason", limits.REASON_CHARS_MAX, None if required else "")


def _subtype(fields: Fields, kind: IlkKind) -> Subtype | None:
    if not fields.has("human_subtype"):
        return None
    if kind is not IlkKind.HUMAN:
        raise invalid("human_subtype is for people only")
    return SUBTYPES[_word(fields, "human_subtype", SUBTYPES)]


def _email(identification: dict[str, Any]) -> str:
    """The address by which a person is unique in a tenant, as it is compared."""
    value = identification.get("email")
    if value in (None, ""):
        return ""
    text = value.strip().casefold() if isinstance(value, str) else ""
    if len(text) > limits.EMAIL_CHARS_MAX or _EMAIL.fullmatch(text) is None:
        raise invalid("identification.email is no e-mail address")
    return text


def _domain(fields: Fields) -> str:
    domain = fields.text("domain", limits.DOMAIN_CHARS_MAX, "").lower()
    if domain and _DOMAIN.fullmatch(domain) is None:
        raise invalid("domain must be a domain name such as example.org")
    return domain


def _settings(fields: Fields) -> dict[str, Any]:
    settings = fields.object("settings")
    inner = Fields(settings, ("max_ilks", "allowed_channels"), "settings.")
    if inner.has("max_ilks"):
        inner.whole("max_ilks", 0, limits.ILKS_MAX)
    kinds = inner.entries("allowed_channels", 64)
    if not all(isinstance(kind, str) and 0 < len(kind) <= limits.KIND_CHARS_MAX for kind in kinds):
        raise invalid("settings.allowed_channels must be a list of channel types")
    return settings
