"""The router's side of the policy region: a new bundle is verified, compiled and filled with data off the loop, and
then decides from one tick to the next.

What the thread is given is a copy of what the router knows of identities; what changes meanwhile is written down and
made up for at the switch. No frame waits: until the switch the old policy decides. A bundle that cannot be used changes
nothing but what the router says about itself. A hive whose region holds a policy has one: until it is loaded for the
first time, what it would be asked about hears NOT_READY, and so it does when the first one is refused.

Nothing of the engine is imported before there is a policy to load: a hive without one starts without it.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skep.protocol.errors import PolicyError
from skep_router import changes
from skep_router.core import Core
from skep_router.log import Log
from skep_router.staged import StagedWatcher
from skep_router.watch_identity import IdentityWatcher
from skep_shm import IlkRecord, PolicyReader, PolicyState, RegionError, TenantRecord, region_path

if TYPE_CHECKING:
    from skep_policy.bundle import Bundle
    from skep_policy.decider import Decider, Shadow
    from skep_policy.documents import Documents
    from skep_policy.evaluator import Evaluator

_RETRY_NS: Final = 50_000_000  # between two attempts to attach a region that is not there
_REBUILD_NS: Final = 1_000_000_000  # between two attempts to make an engine that follows its data again
_SWITCH_S: Final = 0.0005
"""How long the loading thread may keep the interpreter from the loop; Python's own 5 ms would be felt by everybody."""


class Order(NamedTuple):
    """What a loading thread is given: nothing of it is the loop's own."""

    root: Path
    hive: str
    router: str
    config: dict[str, Any]
    records: tuple[IlkRecord, ...]
    tenants: tuple[TenantRecord, ...]
    version: int  # in force
    loaded: tuple[str, str] | None  # hashes of its bundle and of its shadow's; None: load again what is in force


class Loaded(NamedTuple):
    """What it made of the region. Neither decider nor error: what is published is in force already, or nothing is."""

    version: int = 0
    hashes: tuple[str, str] = ("", "")
    decider: Decider | None = None
    error: str = ""
    shadow_error: str = ""


class PolicyWatcher:
    """Follows the region `policy`. `look` is called every tick: one load when nothing moved."""

    def __init__(
        self, root: Path, core: Core, log: Log, pool: ThreadPoolExecutor, identity: IdentityWatcher
    ) -> None:
        self._root = root
        self._core = core
        self._log = log
        self._pool = pool
        self._identity = identity
        self._anchor = region_path(root, "policy")
        self._reader: PolicyReader | None = None
        self._seen = -1
        self._load: Future[Loaded] | None = None
        self._retry_at = 0
        self._hashes: tuple[str, str] = ("", "")
        self._staged = StagedWatcher(root, core.settings.hive, log, pool)
        self._usual_s = sys.getswitchinterval()

    def look(self, now: int) -> None:
        if self._load is not None:
            if self._load.done():
                self._finish(self._load, now)
        elif self._reader is None:
            self._attach(now)
        elif self._identity.walking:
            pass  # better one look later than ten thousand records one by one at the switch
        elif self._reader.revision != self._seen:
            self._begin(self._reader)
        elif now >= self._retry_at and self._broken():
            self._retry_at = now + _REBUILD_NS
            self._begin(self._reader)
        else:
            self._staged.look(now)
        self._note_revisions()

    def _attach(self, now: int) -> None:
        if now < self._retry_at:
            return
        self._retry_at = now + _RETRY_NS
        if not exists(self._anchor):
            return
        try:
            self._reader = PolicyReader.attach(self._root)
            state = self._reader.read()
        except (RegionError, OSError):
            return  # a hive without a policy, or one whose policy's owner has not started
        if state.version and state.bundle:
            self._expect()

    def _expect(self) -> None:
        """There is a policy: until it decides, nothing may pass for allowed."""
        if self._core.policies.decider is None:
            self._core.policies.required = self._core.governed = True

    def _broken(self) -> bool:
        """Must the policy that is in force be loaded anew, with the data of now?"""
        policies = self._core.policies
        return policies.decider is not None and (policies.stale or bool(policies.decider.broken))

    def _note_revisions(self) -> None:
        decider = self._core.policies.decider
        if decider is not None:
            decider.revision = self._identity.revisions

    def _begin(self, reader: PolicyReader) -> None:
        self._seen = reader.revision
        self._identity.journal = []
        sys.setswitchinterval(_SWITCH_S)
        self._core.policies.loading()
        order = self._order()
        self._core.policies.stale = False
        self._load = self._pool.submit(load, order)

    def _order(self) -> Order:
        core, known = self._core, self._core.identities
        config = {"frontdesk": core.frontdesk, "identity": known.there, "seals": core.settings.seals}
        tenants = tuple(TenantRecord(tenant, status) for tenant, status in known.tenants.items())
        return Order(
            self._root, core.settings.hive, core.name, config, tuple(known.records.values()), tenants,
            core.policies.version, None if self._broken() else self._hashes,
        )  # fmt: skip

    def _finish(self, load: Future[Loaded], now: int) -> None:
        self._load = None
        sys.setswitchinterval(self._usual_s)
        journal, self._identity.journal = self._identity.journal or [], None
        try:
            loaded = load.result()
        except (RegionError, OSError) as error:
            loaded = Loaded(error=str(error))
        if loaded.shadow_error:
            self._log.write("shadow policy refused", reason=loaded.shadow_error)
        if loaded.decider is not None:
            self._switch(loaded.decider, loaded, journal, now)
        elif loaded.error:
            self._refused(loaded)
        else:
            self._core.policies.idle()

    def _switch(
        self, decider: Decider, loaded: Loaded, journal: list[changes.IdentityChange], now: int
    ) -> None:
        """In one tick: no frame meets half of it."""
        for change in journal:
            changes.tell(decider, change)
        decider.apply(decider.documents.set_config("identity", self._core.identities.there))
        self._hashes = loaded.hashes
        hash_ = decider.manifest.wasm_sha256
        before = self._core.use_policy(decider, loaded.version, hash_, now)
        if before is not None:
            self._pool.submit(before.close)  # an engine is torn down for a millisecond
        self._log.write("policy loaded", version=loaded.version, hash=hash_)

    def _refused(self, loaded: Loaded) -> None:
        policies = self._core.policies
        self._expect()
        policies.refused(loaded.error, loaded.version)
        in_force = f"version {policies.version}" if policies.decider is not None else "none"
        self._log.write(
            "policy refused", version=loaded.version, reason=loaded.error, in_force=in_force,
            hint="run: skep policy status",
        )  # fmt: skip

    def close(self) -> None:
        if self._load is not None:
            self._load.cancel()
        if self._reader is not None:
            self._reader.close()
        if self._core.policies.decider is not None:
            self._core.policies.decider.close()


# -- in the thread -------------------------------------------------------------------------------------------------


def load(order: Order) -> Loaded:
    """Read, verify, compile and fill what is published. Raises RegionError, OSError when it cannot even be read."""
    reader = PolicyReader.attach(order.root)
    try:
        state = reader.read()
    finally:
        reader.close()
    if not state.version or not state.bundle:
        return Loaded()
    try:
        return _built(order, state)
    except (PolicyError, OSError) as error:
        return Loaded(state.version, error=str(error))


def _built(order: Order, state: PolicyState) -> Loaded:
    from skep_policy.authority import public_key
    from skep_policy.bundle import hash_of, open_bundle
    from skep_policy.decider import Decider

    hashes = hash_of(state.bundle), hash_of(state.shadow) if state.shadow else ""
    if hashes == order.loaded:
        return Loaded(order.version, hashes)
    public = public_key(order.root)
    same = order.loaded is None or hashes[0] == order.loaded[0]
    bundle = open_bundle(state.bundle, public, order.hive, 0 if same else order.version)
    documents = _documents(order)
    data = documents.whole()
    shadow, error = _shadow(order, state.shadow, public, data)
    labels = {"hive": order.hive, "router": order.router}
    decider = Decider(_engine(bundle, data), bundle.manifest, documents, labels=labels, shadow=shadow)
    return Loaded(bundle.version, hashes, decider, shadow_error=error)


def _documents(order: Order) -> Documents:
    from skep_policy.documents import Documents

    documents = Documents(order.config)
    for record in order.records:
        documents.set(record)
    for tenant in order.tenants:
        documents.set_tenant(tenant)
    return documents


def _engine(bundle: Bundle, data: bytes) -> Evaluator:
    """The engine of a bundle that was verified. Data that the policy does not read are not loaded."""
    from skep_policy.evaluator import Evaluator
    from skep_policy.module import Module

    reads = bundle.manifest.reads.values()
    roots = {root for read in reads for root in read.data} if reads else None
    return Evaluator(Module.load(bundle.wasm), data, roots=roots)


def _shadow(order: Order, data: bytes, public: bytes, documents: bytes) -> tuple[Shadow | None, str]:
    """A candidate that cannot be used is none, and no reason to refuse the policy."""
    from skep_policy.bundle import open_bundle
    from skep_policy.decider import Shadow

    if not data:
        return None, ""
    try:
        bundle = open_bundle(data, public, order.hive)
        return Shadow(_engine(bundle, documents), bundle.manifest), ""
    except PolicyError as error:
        return None, str(error)
