"""A table against a dictionary: whatever is done in whatever order, a reader sees exactly what the dictionary holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from shm.writers import ROUTER, node
from skep_shm import ChangeKind, NodeRecord, NodesReader, NodesWriter, inspect

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64)


class NodesModel(RuleBasedStateMachine):
    """Adds, updates, removes, restarts; two readers: one attached for ever, one that follows the changes only."""

    slots = Bundle("slots")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="skshm"))
        self.writer = self.start()
        self.reader = NodesReader.attach(self.root, ROUTER)
        self.model: dict[int, NodeRecord] = {}
        self.follower: dict[int, NodeRecord] = {}
        self.seen = self.reader.revision
        self.added = 0

    def start(self) -> NodesWriter:
        return NodesWriter.create(self.root, ROUTER, "RT.main@test", "test", capacity=4)

    @rule(target=slots, name=names, repeat=st.integers(1, 4))
    def add(self, name: str, repeat: int) -> int:
        self.added += 1
        record = node(self.added, (name * repeat).encode()[:256].decode(errors="ignore"))
        slot = self.writer.add(record)
        assert slot not in self.model
        self.model[slot] = record
        return slot

    @rule(slot=consumes(slots))
    def remove(self, slot: int) -> None:
        if self.model.pop(slot, None) is not None:
            self.writer.remove(slot)

    @rule(slot=slots, vpn_id=st.integers(0, 2**32 - 1), ilk=st.binary(min_size=16, max_size=16))
    def update(self, slot: int, vpn_id: int, ilk: bytes) -> None:
        if slot in self.model:
            self.writer.update(slot, vpn_id=vpn_id, ilk=ilk)
            self.model[slot] = self.model[slot]._replace(vpn_id=vpn_id, ilk=ilk)

    @rule()
    def crash_and_restart(self) -> None:
        self.writer._owner.anchor.close()  # as death does: the lock is gone, everything else stays
        self.writer = self.start()
        self.model.clear()

    @rule()
    def end_and_restart(self) -> None:
        self.writer.close()
        self.writer = self.start()
        self.model.clear()

    @rule()
    def follow(self) -> None:
        """What `changes()` says is enough to keep a copy."""
        revision = self.reader.revision
        changes = self.reader.changes(self.seen)
        if changes is None:
            self.follower = dict(self.reader.items())
        for change in changes or ():
            record = self.reader.get(change.slot)
            if record is None:
                self.follower.pop(change.slot, None)
            else:
                assert change.kind in (ChangeKind.ADDED, ChangeKind.UPDATED, ChangeKind.REMOVED)
                self.follower[change.slot] = record
        self.seen = revision
        assert self.follower == self.model

    @invariant()
    def reader_agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        assert dict(self.reader.items()) == self.model
        for slot, record in self.model.items():
            assert self.reader.find(record.uuid) == self.reader.read(slot) == record
        assert self.reader.find(node(self.added + 1).uuid) is None
        assert self.writer.statistics()["live"] == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            assert inspect.check(self.root) == []
            self.writer.close()
            assert inspect.list_regions(self.root) == []
            shutil.rmtree(self.root)


TestNodesModel: Any = NodesModel.TestCase
TestNodesModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
