"""Who speaks on a channel: from (kind, address, tenant) to an interlocutor, made when there is none.

The channels region is looked up first, which costs microseconds; on a miss SY.identity is asked (ILK_PROVISION),
which is idempotent, so a look-up that cannot be made (a key this account may not read, a region that is being
replaced) only costs a question. Messages of one address that arrive together ask once. How many questions may wait is
bounded; whoever finds no room, no answer or a no hears it (`IdentityAway`, `IdentityRefused`) and tells the sender:
nothing goes on without knowing who speaks.

A channel speaks for interlocutors in a hive that was set up with them: somebody said who is who
(`config/identity.yaml`), or SY.identity has made its key and the channel's own settings name a `tenant_id`. Whether
SY.identity runs just now does not matter: a channel that went on without, merely because it restarts, would let
strangers in. A hive without works by names, as before there was identity. The setting `identity` may say `on` or
`off` instead.

A channel without a tenant speaks for the hive's default one. Which that is, only SY.identity knows; it is asked once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from skep import Hive, Node
from skep.protocol.names import thread_id_channel, thread_id_v3
from skep_nodes.io.counters import Counters
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused, IdentityVoice
from skep_nodes.io.settings import SettingsError
from skep_shm import ChannelRecord, ChannelsReader, RegionError, channel_key

log = logging.getLogger("skep.nodes.provision")

KEY_FILE: Final = Path("state") / "identity" / "channel.key"
FIRST_FILES: Final = tuple(Path("config") / f"identity.{ending}" for ending in ("yaml", "yml", "json"))
WAITING_MAX: Final = 1024  # addresses that are being asked about; a flood of strangers past that is told to wait
MODES: Final = ("auto", "on", "off")
THREADS: Final = ("v3", "v2")
NO_TENANT: Final = "-"  # in keys and threads of a channel that names none
COUNTERS: Final = ("known", "provisioned", "joined", "refused", "away", "busy", "unreadable")


class Provision:
    """The look-up of one channel node."""

    def __init__(
        self, root: Path, voice: IdentityVoice, mode: str = "auto", tenants: Iterable[str] = ()
    ) -> None:
        """`tenants` are those that the channel's settings name. Raises ValueError for a mode that there is not."""
        if mode not in MODES:
            raise ValueError(f"identity must be one of {', '.join(MODES)}")
        self._root, self._voice, self._mode = root, voice, mode
        self._secret: bytes | None = None
        self._reader: ChannelsReader | None = None
        self._default: bytes | None = None
        self._there = False
        self._named = any(tenant.startswith("tnt:") for tenant in tenants)
        self._asking: dict[tuple[str, str, str], asyncio.Task[str]] = {}
        self.counters = Counters(COUNTERS, log)

    @property
    def present(self) -> bool:
        """Whether this hive knows who is who."""
        if self._mode != "auto":
            return self._mode == "on"
        if not self._there:
            told = any((self._root / name).exists() for name in FIRST_FILES)
            self._there = told or (self._named and (self._root / KEY_FILE).exists())
        return self._there

    async def speaker(self, kind: str, address: str, tenant: str = "") -> str:
        """The ILK behind an address. Raises IdentityRefused, IdentityAway."""
        key = _tenant_bytes(tenant) if tenant else self._default
        known = self._find(kind, address, key) if key is not None else None
        if known is not None:
            self.counters["known"] += 1
            return f"ilk:{uuid.UUID(bytes=known.ilk)}"
        return await self._asked(kind, address, tenant)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    # ---- looking up ----------------------------------------------------------------------------------------------

    def _find(self, kind: str, address: str, tenant: bytes) -> ChannelRecord | None:
        try:
            if self._secret is None:
                self._secret = bytes.fromhex((self._root / KEY_FILE).read_text().strip())
            if self._reader is None:
                self._reader = ChannelsReader.attach(self._root)
            return self._reader.find(channel_key(self._secret, kind, address, tenant))
        except (OSError, ValueError, RegionError) as error:
            self.counters.trouble("unreadable", "channels cannot be looked up, so each is asked for: %s", error)
            self.close()
            return None

    # ---- asking --------------------------------------------------------------------------------------------------

    async def _asked(self, kind: str, address: str, tenant: str) -> str:
        """Shielded: a sender who gives up must not end the question of the others."""
        about = (kind, address, tenant)
        task = self._asking.get(about)
        if task is not None:
            self.counters["joined"] += 1
            return await asyncio.shield(task)
        if len(self._asking) >= WAITING_MAX:
            self.counters.trouble("busy", "%d addresses wait for SY.identity", len(self._asking))
            raise IdentityAway(f"{WAITING_MAX} others wait already")
        task = asyncio.get_running_loop().create_task(self._provision(*about))
        self._asking[about] = task
        task.add_done_callback(lambda done: self._ended(about, done))
        return await asyncio.shield(task)

    def _ended(self, about: tuple[str, str, str], done: asyncio.Task[str]) -> None:
        del self._asking[about]
        if not done.cancelled():
            done.exception()  # seen: whoever waited has it

    async def _provision(self, kind: str, address: str, tenant: str) -> str:
        asked = {"ich_id": f"ich:{uuid.uuid4()}", "channel_type": kind, "address": address}
        try:
            answer = await self._voice.ask("ILK_PROVISION", {**asked, "tenant_id": tenant} if tenant else asked)
            ilk = str(answer["ilk_id"])
            if not tenant and self._default is None:
                self._default = await self._tenant_of(ilk)
        except IdentityRefused as refused:
            self.counters.trouble("refused", "a sender on %s is not admitted: %s", kind, refused)
            raise
        except IdentityAway as away:
            self.counters.trouble("away", "a sender on %s is unknown: %s", kind, away)
            raise
        self.counters["provisioned"] += 1
        return ilk

    async def _tenant_of(self, ilk: str) -> bytes:
        answer = await self._voice.ask("ILK_GET", {"ilk_id": ilk})
        return _tenant_bytes(str(answer["ilk"]["tenant_id"]))


def open_provision(
    node: Node, hive: Hive, mode: str, threads: str, places: Iterable[tuple[str, str]]
) -> Provision:
    """The look-up of a channel's process; its settings are judged. `places` are the channel's (tenant, entry point),
    each once. Raises SettingsError."""
    places = list(places)
    if threads not in THREADS:
        raise SettingsError(f"threads must be one of {', '.join(THREADS)}")
    shared = next((name for name, count in Counter(point for _, point in places).items() if count > 1), None)
    if threads == "v2" and shared is not None:
        raise SettingsError(f"threads: v2 ids hold no tenant, and several tenants share {shared!r}; use v3")
    try:
        return Provision(hive.root, IdentityVoice(node), mode, [tenant for tenant, _ in places])
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _tenant_bytes(tenant: str) -> bytes:
    try:
        return uuid.UUID(tenant.removeprefix("tnt:")).bytes
    except ValueError:
        detail = f"the setting tenant_id names {tenant!r}; tenants are called tnt:<uuid> (skep tenant ls)"
        raise IdentityRefused({"error_code": "INVALID_TENANT", "message": detail}) from None


def thread_of(version: str, tenant: str, kind: str, entrypoint: str, conversation: str) -> str:
    """The thread of a conversation. `v3` holds the tenant and the length of each part; `v2` is what clients of the
    system before compute for themselves, and keeps tenants apart only where no two share an entry point."""
    if version == "v2":
        return thread_id_channel(kind, entrypoint, conversation)
    return thread_id_v3(tenant or NO_TENANT, kind, entrypoint, conversation)
