"""Who may change the policy, in which order, and what is answered: the core of SY.opa.rules.

Owns the shelf. A change goes through: authorise, check the version, (the shell compiles), work out the new shelf,
persist, publish; only then does the shelf move. So a refused change leaves no trace and takes no number, and an
acknowledged one is on the disk. `check` and a dry run end before the shelf is touched: they change nothing at all.

When the region refuses, the disk goes back to what is in force but keeps the counter: the number is spent, because a
router may have seen it. No socket, no clock, no compiler: the shell passes in what it compiled and when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from skep.protocol.errors import PolicyError
from skep_nodes.sy import opa_shelf
from skep_nodes.sy.config_change import Refusal
from skep_nodes.sy.durable import StoreBroken
from skep_nodes.sy.opa_request import SUBSYSTEM, Request
from skep_nodes.sy.opa_shelf import Shelf, Sign
from skep_nodes.sy.standing import Sender, Standing
from skep_policy.bundle import Compiled
from skep_shm import PolicyState, PolicyStatus, RegionError

PROBLEMS_MAX: Final = 50  # findings in one answer; the rest is counted
REGO_ANSWER_BYTES_MAX: Final = 96 << 10  # what fits beside the other members into a frame of 128 KiB


class Store(Protocol):
    """Where shelves are kept; `opa_store.OpaStore`."""

    def save(self, shelf: Shelf) -> tuple[str, ...]: ...
    def show(self, shelf: Shelf) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back, whether routers have something new, and what an operator should read."""

    payload: dict[str, Any]
    published: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """What the compiler made of a text."""

    compiled: Compiled
    warnings: Sequence[Any] = ()
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is nothing to put in force: the compiler's code, words and findings."""

    code: str
    detail: str
    problems: Sequence[Any] = field(default=())


class OpaDesk:
    """The shelf plus the two places it must reach: the store, then the region."""

    def __init__(
        self, hive_id: str, shelf: Shelf, store: Store, publish: Callable[[PolicyState], object], sign: Sign
    ) -> None:
        self.shelf = shelf
        self.last_error = ""
        self._hive_id, self._store, self._publish, self._sign = hive_id, store, publish, sign

    # -- changes -----------------------------------------------------------------------------------------------

    def prepare(self, request: Request, sender: Sender) -> str:
        """Everything that can be refused before the compiler runs; the Rego to compile, "" for none. Raises Refusal."""
        authorise(sender)
        if not request.compiles:
            return ""
        if request.action != "check":
            opa_shelf.next_version(self.shelf, request.version)
        if request.rego is not None:
            return request.rego
        if self.shelf.current is None:
            raise Refusal(
                "COMPILE_ERROR", "rego is missing, and no policy is in force that could be compiled again"
            )
        return self.shelf.current.bundle.rego

    def carry_out(self, request: Request, built: Built | None) -> Answer:
        """The change, once the compiler has done its part. Exactly one answer."""
        try:
            return self._carry_out(request, built)
        except (Refusal, PolicyError) as refusal:
            return self.refused(request.action, refusal.code, refusal.detail)

    def _carry_out(self, request: Request, built: Built | None) -> Answer:
        told = _told_of(built)
        if request.action == "check" or request.dry_run:
            new = self._worked_out(request, built) if request.action != "check" else self.shelf
            return Answer(
                self._ok(request.action, new)
                | told
                | {"check_only": True, "version": self._version(self.shelf)}
            )
        new = self._worked_out(request, built)
        published = state_of(new) != state_of(self.shelf)
        warnings = self._put_in_force(new)
        self.last_error = ""  # what went wrong before is put right, or was given up
        return Answer(told | self._ok(request.action, new), published, warnings)

    def _worked_out(self, request: Request, built: Built | None) -> Shelf:
        if request.action == "apply":
            return opa_shelf.apply(self.shelf, request.version, self._sign)
        if request.action == "rollback":
            return opa_shelf.rollback(self.shelf, request.version, self._sign)
        if request.action in ("shadow", "shadow_stop"):
            compiled = built.compiled if built else None
            return opa_shelf.shade(self.shelf, compiled, request.version, self._sign)
        if built is None:
            raise Refusal("COMPILE_ERROR", "nothing was compiled")
        staged = opa_shelf.stage(self.shelf, built.compiled, request.version, self._sign)
        return staged if request.action == "compile" else opa_shelf.apply(staged, 0, self._sign)

    def _put_in_force(self, new: Shelf) -> tuple[str, ...]:
        """Disk first, region second; folders last, because nothing depends on them."""
        try:
            warnings = self._store.save(new)
        except (OSError, StoreBroken) as error:
            raise Refusal("PERSIST_FAILED", f"nothing was changed: {error}") from error
        if state_of(new) != state_of(self.shelf):
            try:
                self._publish(state_of(new))
            except (RegionError, OSError) as error:
                raise Refusal("SHM_ERROR", f"{error}; {self._withdraw(new.counter)}") from error
        self.shelf = new
        return warnings + self._store.show(new)

    def _withdraw(self, counter: int) -> str:
        self.shelf = replace(self.shelf, counter=counter)
        try:
            self._store.save(self.shelf)
        except (OSError, StoreBroken) as error:
            return f"and the file could not be put back ({error}): it will come into force at the next start"
        return "nothing was changed"

    # -- answers -----------------------------------------------------------------------------------------------

    def failed(self, action: str, trouble: Trouble, took_ms: int) -> Answer:
        """The answer when the compiler refused."""
        shown = [_plain(problem) for problem in trouble.problems[:PROBLEMS_MAX]]
        answer = self.refused(action, trouble.code, trouble.detail)
        return Answer(answer.payload | {"compile_time_ms": took_ms, "problems": shown})

    def refused(self, action: str, code: str, detail: str) -> Answer:
        """The answer to what is not done."""
        if action not in ("check", "") and code not in ("FORBIDDEN", "BUSY"):
            self.last_error = f"{action}: {code}: {detail}"
        facts = self._facts(action, self._version(self.shelf), "error")
        return Answer({**facts, "error_code": code, "error_detail": detail})

    def _ok(self, action: str, new: Shelf) -> dict[str, Any]:
        """The answer to what is done. It speaks of the bundle that the action was about."""
        about = {"compile": new.staged, "shadow": new.shadow}.get(action, new.current)
        if about is None:
            return self._facts(action, 0, "ok")
        facts = {"hash": about.hash, "wasm_size_bytes": len(about.bundle.wasm)}
        return self._facts(action, about.version, "ok") | facts

    def _facts(self, action: str, version: int, status: str) -> dict[str, Any]:
        return {
            "subsystem": SUBSYSTEM, "action": action, "version": version, "status": status, "hive": self._hive_id,
            "next_version": self.shelf.counter + 1,
        }  # fmt: skip

    @staticmethod
    def _version(shelf: Shelf) -> int:
        return shelf.current.version if shelf.current else 0

    def get_policy(self) -> dict[str, Any]:
        """The policy in force. A text too long for a frame is named by its place instead."""
        current = self.shelf.current
        if current is None:
            return {"status": "error", "hive": self._hive_id, "error_code": "NOT_FOUND",
                    "error_detail": "no policy is in force"}  # fmt: skip
        rego = current.bundle.rego
        fits = len(rego.encode()) + rego.count("\n") + rego.count('"') <= REGO_ANSWER_BYTES_MAX
        text = {"rego": rego} if fits else {"rego": None, "rego_path": "state/opa/current/policy.rego"}
        return {"status": "ok", "hive": self._hive_id, **text, **current.facts()}

    def get_status(self) -> dict[str, Any]:
        """Versions, and the last thing that went wrong; the shell adds the routers."""
        current, slots = self.shelf.current, self.shelf.entries()
        return {
            "status": "ok" if current else "error", "hive": self._hive_id, "next_version": self.shelf.counter + 1,
            "current_version": current.version if current else 0, "current_hash": current.hash if current else "",
            **{f"{slot}_version": slots[slot].version if slot in slots else 0 for slot in opa_shelf.SLOTS[1:]},
            "wasm_size_bytes": len(current.bundle.wasm) if current else 0, "last_error": self.last_error,
        }  # fmt: skip


def authorise(sender: Sender) -> None:
    """Only the hive's own system names: the policy is what everybody else is judged by. Raises Refusal."""
    if sender.standing is not Standing.SYSTEM or not sender.name.startswith("SY."):
        raise Refusal(
            "FORBIDDEN",
            f"{sender.name or 'an unknown node'} may not read or change the policy; SY.admin, SY.orchestrator and the "
            "hive's other SY.* may",
        )


def state_of(shelf: Shelf) -> PolicyState:
    """What is published of a shelf."""
    shadow = shelf.shadow.data if shelf.shadow else b""
    if shelf.current is None:
        return PolicyState(0, PolicyStatus.ERROR if shelf.counter else PolicyStatus.LOADING, b"", shadow)
    return PolicyState(shelf.current.version, PolicyStatus.OK, shelf.current.data, shadow)


def _told_of(built: Built | None) -> dict[str, Any]:
    """What an answer says about a compilation."""
    if built is None:
        return {}
    findings = [_plain(finding) for finding in built.warnings[:PROBLEMS_MAX]]
    size = {"wasm_size_bytes": len(built.compiled.wasm), "hash": built.compiled.manifest.wasm_sha256}
    return {"compile_time_ms": built.took_ms, **size, **({"warnings": findings} if findings else {})}


def _plain(problem: Any) -> dict[str, Any]:
    """One of the compiler's findings as an object."""
    return {"line": problem.line, "column": problem.column, "code": problem.code, "message": problem.message}
