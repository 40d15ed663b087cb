"""SY.opa.rules: the node that owns the hive's policy. `python -m skep_nodes.sy.opa_rules --hive ROOT`.

This is the shell around `OpaDesk`: it holds the region and the hive's key, runs the compiler off the loop, and asks the
routers. At its first start it makes the key and puts the packaged default policy in force; the region is published
before the node links, so a router needs no message to have a policy.

One change at a time: a second one hears BUSY instead of waiting behind a compiler run. What only reads is answered at
any time. After a publish routers are told twice (doorbell, OPA_RELOAD) and then asked until they run it; the answer
names those that do not. A change is done when it is published, whatever a router says: the answer's `status` is that
of the change.

A broadcast CONFIG_CHANGED about anything but `opa` belongs to another system node and is passed over in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from functools import partial
from typing import Any, Final

from skep import DeliveryError, Hive, Message, Node, RemoteError
from skep.protocol.errors import PolicyError
from skep.protocol.message import BROADCAST
from skep_nodes.sy import opa_request, opa_routers
from skep_nodes.sy.config_change import Refusal
from skep_nodes.sy.durable import Disk, StoreBroken
from skep_nodes.sy.opa_desk import Answer, Built, OpaDesk, Trouble, authorise, state_of
from skep_nodes.sy.opa_request import QUERIES, SUBSYSTEM, Request
from skep_nodes.sy.opa_shelf import Entry, entry_of
from skep_nodes.sy.opa_start import start_with
from skep_nodes.sy.opa_store import OpaStore
from skep_nodes.sy.standing import FindSender, sender_of
from skep_nodes.sy.system_node import beat, hive_of_arguments, ring_doorbell, say, wall_ms
from skep_policy.authority import Authority
from skep_policy.bundle import Bundle, Compiled, open_bundle, pack
from skep_shm import PolicyReader, PolicyState, PolicyWriter, RegionError, RegionKind

NAME: Final = "SY.opa.rules"
READY_FILE: Final = "SY.opa.rules.json"
SWITCH_S: Final = 3.0  # routers switch within one; the rest is for a busy machine
STATUS_S: Final = 0.5  # for `get_status`: whoever is silent so long is named
CONCURRENCY: Final = 8  # answers to reads while a compiler runs


class OpaRules:
    """The node: key, store, region and desk, joined."""

    def __init__(self, hive: Hive, disk: Disk | None = None) -> None:
        self.hive = hive
        self._authority = Authority.load_or_create(hive.root)
        store = OpaStore(hive.state_dir / "opa", self._open, disk)
        left = left_behind(hive)
        start = start_with(store.load(), left, packaged_default, self._open, self._sign)
        for warning in start.warnings:
            say(NAME, f"WARNING {warning}")
        if start.changed:
            store.save(start.shelf)
        self.region = PolicyWriter.create(hive.root, hive.hive_id)
        if state_of(start.shelf) != left:
            self.region.publish(state_of(start.shelf))
        self.desk = OpaDesk(hive.hive_id, start.shelf, store, self.region.publish, self._sign)
        self._tidy(store, start.shelf.current is not None)
        self.desk.last_error = start.warnings[-1] if start.warnings else ""
        self.find_sender: FindSender = partial(sender_of, hive.root)
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=CONCURRENCY)
        self._changing = False
        self._ready_file = hive.root / "run" / READY_FILE
        self._tasks: set[asyncio.Task[None]] = set()
        self._declare()

    def _declare(self) -> None:
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        self.node.on_system("CONFIG_CHANGED")(self._changed)
        for action in opa_request.COMMANDS:
            self.node.on_message(self._command, action=action)
        for action in QUERIES:
            self.node.on_message(self._query, action=action)

    def _open(self, data: bytes) -> Bundle:
        return open_bundle(data, self._authority.public, self.hive.hive_id)

    def _sign(self, compiled: Compiled, version: int) -> Entry:
        data = pack(compiled, version, self.hive.hive_id, self._authority, compiled_at_ms=wall_ms())
        return entry_of(self._open(data), data)

    def _tidy(self, store: OpaStore, usable: bool) -> None:
        """Files that a crash left behind; not when bundles are lost, for what is left may help somebody."""
        if not usable:
            return
        for warning in store.repair(self.desk.shelf):
            say(NAME, f"WARNING {warning}")

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.region.close()

    async def _start(self) -> None:
        self._tasks.add(asyncio.create_task(beat(self.region.heartbeat)))
        self._tasks.add(asyncio.create_task(self._say_when_ready()))
        ring_doorbell(self.node, RegionKind.POLICY)

    async def _say_when_ready(self) -> None:
        """A file for whoever started us: routers run the policy, or have had their time. Before, they admit nobody."""
        current = self.desk.shelf.current
        if current is not None:
            await self._routers(current.version, SWITCH_S)
        with contextlib.suppress(OSError):
            self._ready_file.write_text(json.dumps({"pid": os.getpid()}))

    async def _stop(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # -- what is asked -----------------------------------------------------------------------------------------

    async def _changed(self, message: Message) -> dict[str, Any] | None:
        payload = _payload(message)
        subsystem = payload.get("subsystem")
        if message.destination == BROADCAST and subsystem != SUBSYSTEM:
            return None
        try:
            if subsystem != SUBSYSTEM:
                raise Refusal("INVALID_PAYLOAD", f"subsystem {str(subsystem)[:40]!r} is not {SUBSYSTEM}")
            request = opa_request.changed_request(payload)
        except Refusal as refusal:
            return self.desk.refused("", refusal.code, refusal.detail).payload
        return await self._change(message, request)

    async def _command(self, message: Message) -> dict[str, Any]:
        try:
            request = opa_request.command_request(message.action, _payload(message))
        except Refusal as refusal:
            return self.desk.refused("", refusal.code, refusal.detail).payload
        return await self._change(message, request)

    async def _query(self, message: Message) -> dict[str, Any]:
        try:
            authorise(self.find_sender(message.source))
        except Refusal as refusal:
            return self.desk.refused("", refusal.code, refusal.detail).payload
        if message.action == "get_policy":
            return self.desk.get_policy()
        return {**self.desk.get_status(), **await self._routers(0, STATUS_S)}

    # -- a change ----------------------------------------------------------------------------------------------

    async def _change(self, message: Message, request: Request) -> dict[str, Any]:
        try:
            rego = self.desk.prepare(request, self.find_sender(message.source))
            if self._changing:
                raise Refusal(
                    "BUSY", "another change of the policy is under way; repeat this one in a moment"
                )
        except Refusal as refusal:
            return self.desk.refused(request.action, refusal.code, refusal.detail).payload
        self._changing = True
        try:
            answer = await self._carried_out(request, rego)
        finally:
            self._changing = False
        return await self._answered(answer)

    async def _carried_out(self, request: Request, rego: str) -> Answer:
        if not request.compiles:
            return self.desk.carry_out(request, None)
        began = time.monotonic()
        built = await asyncio.to_thread(_built, rego, request.entrypoint, began)
        if isinstance(built, Trouble):
            return self.desk.failed(request.action, built, _since_ms(began))
        return self.desk.carry_out(request, built)

    async def _answered(self, answer: Answer) -> dict[str, Any]:
        for warning in answer.warnings:
            say(NAME, f"WARNING {warning}")
        if not answer.published:
            return answer.payload
        current = self.desk.shelf.current
        version, digest = (current.version, current.hash) if current else (0, "")
        ring_doorbell(self.node, RegionKind.POLICY)
        with contextlib.suppress(
            DeliveryError
        ):  # it only shortens the wait; the doorbell and the region remain
            await self.node.broadcast(
                {"version": version, "hash": digest}, type="system", verb="OPA_RELOAD", ttl=2
            )
        return answer.payload | await self._routers(version, SWITCH_S)

    async def _routers(self, version: int, within_s: float) -> dict[str, Any]:
        routers = await asyncio.to_thread(opa_routers.routers_of, self.hive.root)
        found = await opa_routers.collect(routers, self._ask, version, within_s)
        return {"routers": found.rows, "pending": found.pending}

    async def _ask(self, router: str, seconds: float) -> dict[str, Any] | None:
        try:
            reply = await self.node.request(router, {}, timeout=seconds, type="system", verb="ROUTER_STATS")
        except (DeliveryError, RemoteError):
            return None
        return reply.payload if isinstance(reply.payload, dict) else None


def left_behind(hive: Hive) -> PolicyState:
    """What the region of a predecessor that crashed still holds."""
    try:
        reader = PolicyReader.attach(hive.root)
    except RegionError:
        return PolicyState()
    try:
        return reader.read()
    except RegionError:
        return PolicyState()
    finally:
        reader.close()


def packaged_default() -> Compiled:
    """The policy that comes with the package. Raises PolicyError, OSError."""
    from skep_policy.default import default_policy

    return default_policy()


def _built(rego: str, entrypoint: str, began: float) -> Built | Trouble:
    """The compiler's work, in a thread: `opa` runs in a child process with limits of its own.

    So does a trial load, as routers will do it: what they would refuse is refused here, before they hear of it.
    """
    from skep_policy.compiler import CompileError, compile_policy
    from skep_policy.module import vet

    try:
        compiled = compile_policy(rego, entrypoint=entrypoint)
        vet(compiled.wasm)
    except CompileError as error:
        return Trouble(error.code, error.detail, error.problems)
    except (PolicyError, OSError) as error:
        code = error.code if isinstance(error, PolicyError) else "COMPILE_ERROR"
        return Trouble(code, str(error))
    return Built(compiled, compiled.warnings, _since_ms(began))


def _since_ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)


def _payload(message: Message) -> dict[str, Any]:
    """The payload, or {} when it is no object; the desk answers that like any wrong payload."""
    try:
        payload = message.payload
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}


def main() -> int:
    """Run the node; 1 when it cannot own the policy."""
    hive = hive_of_arguments("SY.opa.rules: owns the hive's policy.")
    try:
        node = OpaRules(hive)
    except (PolicyError, RegionError, StoreBroken, OSError) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
