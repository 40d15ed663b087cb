"""Requests in groups: read, decide, write and sync once, publish, answer each. The one task that changes identity.

Whatever waits when a turn begins shares one transaction and one sync (`GROUP_MAX`), so sixty-four callers pay for one.
The order is database, regions, answer: a reader sees a change before its requester hears of it, and a crash between the
first two is repaired at the start, when the regions are filled from the database.

When the write fails, everything that the group had changed in memory is undone and each of it hears so; a group in
which two requests violate one of the database's own rules is done again, one by one, so that only the guilty one is
refused. `at` is told the name of every place where a crash must be harmless; production passes nothing there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from skep_nodes.identity import audit, kinds, limits
from skep_nodes.identity.action import ROUNDS_MAX, Action
from skep_nodes.identity.audit import FIRST, Head, HeadFile
from skep_nodes.identity.counting import Counts
from skep_nodes.identity.ids import NONE, ilk_text, new_id
from skep_nodes.identity.kinds import Image
from skep_nodes.identity.records import Entry
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.store import Conflict, Store, StoreBroken, StoreError, StoreUnready, scan
from skep_nodes.identity.tables import AUDIT, RESIDENT, Damaged
from skep_nodes.identity.view import Ask, Shelf, View

CRASH_POINTS: Final = (
    "group.begin", "group.loaded", "group.decided", "write.before", "write.after", "head.before", "head.after",
    "publish.before", "publish.after", "answer.before", "answer.after",
)  # fmt: skip


class Publisher(Protocol):
    """Who shows changes to readers."""

    async def fill(self, store: Store, tenants: Iterable[Any]) -> None:
        """Show everything."""
        ...

    def publish(self, image: Image) -> None:
        """Show these. What cannot be shown is kept and tried again; never raises for it."""
        ...


class Waiting(NamedTuple):
    """A request and who waits for its answer."""

    action: Action
    answer: asyncio.Future[dict[str, Any]]


class Service:
    """The store, what is published of it, and what waits."""

    def __init__(
        self, store: Store, publisher: Publisher, clock_ms: Callable[[], int], head_file: HeadFile,
        *, make_id: Callable[[], bytes] = new_id, warn: Callable[[str], None] = lambda text: None,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:  # fmt: skip
        self.store, self.publisher, self.head_file = store, publisher, head_file
        self.head: Head = FIRST
        self.counts = Counts()
        self.damaged: dict[tuple[str, Any], Damaged] = {}
        self.broken = ""
        self._clock_ms, self._make_id, self._warn, self._at = clock_ms, make_id, warn, at
        self._resident = {table.name: Shelf(table) for table in RESIDENT}
        self._waiting: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the store, check that nothing acknowledged is missing, publish. Raises StoreError, StoreBroken."""
        try:
            await self._open()
        except BaseException:
            await self.store.close()
            self.head_file.close()
            raise
        self._task = asyncio.create_task(self._serve())

    async def _open(self) -> None:
        await self.store.open()
        for table in RESIDENT:
            async for found in scan(self.store, table):
                self._note_damage(found.damaged)
                for _, record in found.rows:
                    self._resident[table.name].put(record)
        self.counts = Counts(await self.store.counts())
        await self._check_head()
        await self.publisher.fill(self.store, list(self._resident["identity_tenants"].rows.values()))

    async def _check_head(self) -> None:
        """Compare the end of the chain with the note of what was acknowledged."""
        noted = self.head_file.read()
        self.head = await last_link(self.store)
        if noted is None or noted == self.head:
            return
        link = await self._link(noted.seq) if noted.seq <= self.head.seq else None
        if link is None or link.chain != noted.chain:
            raise StoreBroken(
                f"the database ends at change {self.head.seq}, but change {noted.seq} was acknowledged:"
                f" restore a newer copy, or accept the loss by removing {self.head_file.path}"
            )

    async def _link(self, seq: int) -> Entry | None:
        found = await self.store.page(AUDIT, seq - 1, 1)
        return next((record for _, record in found.rows if record.seq == seq), None)

    async def close(self) -> None:
        """Finish what waits, then let go of the store."""
        task, self._task = self._task, None
        self._closing = True
        self._wake.set()
        if task is not None:
            await task
        await self.store.close()
        self.head_file.close()

    # -- requests ----------------------------------------------------------------------------------------------

    def submit(self, action: Action) -> asyncio.Future[dict[str, Any]]:
        """The answer, once everything it promises is true."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= limits.WAITING_MAX:
            answer.set_result(
                Refusal(Code.BUSY, "too many requests wait for the database; try again").answer()
            )
        else:
            self._waiting.append(Waiting(action, answer))
            self._wake.set()
        return answer

    async def _serve(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                size = min(len(self._waiting), limits.GROUP_MAX)
                await self._group([self._waiting.popleft() for _ in range(size)])

    async def _group(self, group: list[Waiting]) -> None:
        """Answer every request of a group, whatever happens."""
        try:
            answers = await self._carry_out([each.action for each in group])
        except Exception as error:  # noqa: BLE001  a fault of ours in one request must not end identity for all
            self._warn(f"a group of {len(group)} failed: {type(error).__name__}: {error}")
            answers = [_failed(str(error))] * len(group)
        self._at("answer.before")
        for waiting, answer in zip(group, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        self._at("answer.after")

    async def _carry_out(self, actions: list[Action]) -> list[dict[str, Any]]:
        self._at("group.begin")
        view = View(self._resident, self.counts, self._clock_ms(), self._make_id)
        try:
            await self._load(view, actions)
            self._at("group.loaded")
            answers = [await self._decide(view, action) for action in actions]
            self._at("group.decided")
            await self._keep(view)
        except Conflict as conflict:
            view.rewind(view.START)
            if len(actions) == 1:
                return [Refusal(Code.DUPLICATE_CONSTRAINT, f"the database refused it: {conflict}").answer()]
            return [(await self._carry_out([action]))[0] for action in actions]
        except StoreError as error:
            view.rewind(view.START)
            self._warn(f"WARNING {error}")
            code = Code.DB_NOT_READY if isinstance(error, StoreUnready) else Code.DB_WRITE_FAILED
            return [Refusal(code, f"nothing was changed: {error}").answer()] * len(actions)
        except StoreBroken as error:
            view.rewind(view.START)
            self._end(str(error))
            return [_failed(str(error))] * len(actions)
        except BaseException:
            view.rewind(view.START)
            raise
        return answers

    def _end(self, problem: str) -> None:
        """The store is broken: say so once; routing goes on with what is published."""
        if not self.broken:
            self.broken = problem
            self._warn(f"ERROR {problem}")

    # -- a group, step by step ---------------------------------------------------------------------------------

    async def _load(self, view: View, actions: list[Action]) -> None:
        """Read in bulk what the requests ask for at first sight; what they then find out, `_decide` reads."""
        for _ in range(ROUNDS_MAX):
            asks = set().union(*(_missing(view, action) for action in actions))
            if not asks:
                return
            await self._fetch(view, asks)

    async def _decide(self, view: View, action: Action) -> dict[str, Any]:
        for _ in range(ROUNDS_MAX):  # those before it may have led it somewhere else
            asks = _missing(view, action)
            if not asks:
                break
            await self._fetch(view, asks)
        mark = view.mark()
        try:
            return action.run(view)
        except Refusal as refusal:
            view.rewind(mark)
            return refusal.answer()

    async def _fetch(self, view: View, asks: Iterable[Any]) -> None:
        asked = sorted(asks, key=_order)
        found = await self.store.fetch(asked)
        self._note_damage(found.damaged)
        view.load(asked, found.rows)

    async def _keep(self, view: View) -> None:
        """Database, note, regions: in this order."""
        changes = view.changes()
        if not changes and not view.entries:
            return
        asks = view.unknown(kinds.asks(changes))
        if asks:
            await self._fetch(view, asks)
        head, entries = self.head, []
        for what in (*arrivals(view.arrivals), *view.entries):
            entries.append(audit.link(head, view.now_ms, what))
            head = Head(entries[-1].seq, entries[-1].chain)
        self._at("write.before")
        await self.store.write(changes, entries)
        self._at("write.after")
        self._kept(head, kinds.image(view, changes))

    def _kept(self, head: Head, image: Image) -> None:
        """What follows from changes that are on the disk. Nothing here may fail them."""
        self.head = head
        self._at("head.before")
        try:
            self.head_file.write(head)
        except OSError as error:
            self._warn(f"WARNING {self.head_file.path}: {error.strerror}; a later loss would go unnoticed")
        self._at("head.after")
        self._at("publish.before")
        self.publisher.publish(image)
        self._at("publish.after")

    def _note_damage(self, damaged: Iterable[Damaged]) -> None:
        for each in damaged:
            if (each.table, each.key) not in self.damaged:
                self.damaged[each.table, each.key] = each
                self._warn(f"WARNING {each}; it is not served")


def _missing(view: View, action: Action) -> set[Ask]:
    """What a request must see and the view has not; nearly always nothing."""
    asks = tuple(action.needs(view))
    return set() if view.knows(asks) else view.unknown(asks)


def arrivals(found: list[tuple[str, bytes]]) -> Iterator[tuple[str, str, bytes, bytes, str, dict[str, Any]]]:
    """What the audit chain says of those who wrote for the first time: one link a channel node."""
    by_actor: dict[str, list[str]] = {}
    for actor, ilk in found:
        by_actor.setdefault(actor, []).append(ilk_text(ilk))
    for actor, ilks in by_actor.items():
        yield actor, "ILK_PROVISION", NONE, NONE, "", {"ilks": ilks}


async def last_link(store: Store) -> Head:
    """The end of the audit chain as the database has it."""
    seq = await store.last_seq()
    if not seq:
        return FIRST
    found = await store.page(AUDIT, seq - 1, 1)
    if not found.rows:
        raise StoreBroken(f"the last link of the audit chain, {seq}, is damaged; restore a backup")
    return Head(seq, found.rows[0][1].chain)


def _order(ask: Any) -> tuple[str, str, Any]:
    return ask.table.name, ask.column, ask.value


def _failed(problem: str) -> dict[str, Any]:
    return Refusal(Code.DB_WRITE_FAILED, problem).answer()
