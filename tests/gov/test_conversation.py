"""AI.desk knows the conversation, not only the thread; tenants share neither memory nor documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skep_nodes.ai.conversation import KEEP_S, KEPT_MAX, Conversation, Conversations
from skep_nodes.ai.desk import DeskSettings, TenantDocuments, tenant_desks
from skep_nodes.ai.memory import TURNS_MAX, Memory
from skep_nodes.io.provision_ask import IdentityAway
from skep_nodes.io.settings import SettingsError

ONE, TWO = "tnt:00000000-0000-4000-8000-000000000001", "tnt:00000000-0000-4000-8000-000000000002"


@dataclass
class Asked:
    src_ilk: str = ""
    dst_ilk: str = ""
    thread_id: str | None = "thread:1"
    trace_id: str = "t"


class Voice:
    """SY.identity's answers, from a table."""

    def __init__(self, **canonical: str) -> None:
        self.canonical, self.asked, self.away = canonical, 0, False

    async def ask(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        assert verb == "ILK_GET"
        self.asked += 1
        if self.away:
            raise IdentityAway("for the test")
        ilk = payload["ilk_id"]
        into = self.canonical.get(ilk, ilk)
        merged = [{"old_ilk_id": old} for old, new in self.canonical.items() if new == into and old != into]
        tenant = TWO if into.startswith("other") else ONE
        return {"canonical_ilk_id": into, "ilk": {"tenant_id": tenant}, "merged_aliases": merged}


def conversations(voice: Voice, at: list[float] | None = None) -> Conversations:
    clock = at or [0.0]
    return Conversations(voice, lambda: clock[0])  # type: ignore[arg-type]


async def test_one_person_has_one_conversation_in_two_threads() -> None:
    voice = Voice()
    known = conversations(voice)
    first = await known.of(Asked("ana", thread_id="thread:whatsapp"))
    second = await known.of(Asked("ana", thread_id="thread:email"))
    assert first == second == Conversation(f"{ONE}/ana", ONE)
    assert voice.asked == 1, "and is asked about once"


async def test_a_merge_takes_along_what_was_said() -> None:
    at, voice = [0.0], Voice()
    known, memory = conversations(voice, at), Memory()
    before = await known.of(Asked("stranger"))
    memory.add(before.key, "user", "Do you ship to France?")
    memory.add(f"{ONE}/ana", "user", "Hello")
    voice.canonical = {"stranger": "ana"}
    at[0] += KEEP_S
    after = await known.of(Asked("stranger"))
    assert after.key == f"{ONE}/ana"
    memory.join(after.key, after.before)
    assert [each.text for each in memory.turns(after.key)] == ["Do you ship to France?", "Hello"]
    assert memory.turns(before.key) == ()
    for number in range(TURNS_MAX):
        memory.add("x", "user", str(number))
    memory.join(after.key, ("x",))
    assert len(memory.turns(after.key)) == TURNS_MAX


@pytest.mark.goal("G14")
async def test_nobody_opens_somebody_elses_conversation() -> None:
    voice = Voice()
    known = conversations(voice)
    assert (await known.of(Asked("", dst_ilk="ana", thread_id="thread:mine"))).key == "thread:mine"
    assert (await known.of(Asked("other", thread_id="thread:1"))).key == f"{TWO}/other"
    voice.away = True
    assert await known.of(Asked("bob", thread_id="thread:2")) == Conversation("thread:2"), "the thread, no tenant"
    assert (await known.of(Asked("bob", thread_id=None))).key == "trace:t"


async def test_what_is_remembered_is_bounded() -> None:
    voice = Voice()
    known = conversations(voice)
    for number in range(KEPT_MAX + 1):
        await known.of(Asked(f"ilk{number}"))
    await known.of(Asked("ilk0"))
    assert voice.asked == KEPT_MAX + 2


@pytest.mark.goal("G14")
async def test_each_tenant_is_answered_from_its_own_documents(tmp_path: Path) -> None:
    hive = type("Hive", (), {"state_dir": tmp_path / "state"})()
    folders = []
    for number, days in enumerate((10, 20)):
        folder = tmp_path / f"docs{number}"
        folder.mkdir()
        (folder / "returns.md").write_text(f"# Returns\n\nYou have {days} days to return an item.\n")
        folders.append(folder)
    named = tuple(TenantDocuments(tenant, folder) for tenant, folder in zip((ONE, TWO), folders, strict=True))
    desks = tenant_desks(DeskSettings(tenants=named), hive, "")
    for tenant, own, foreign in ((ONE, "10 days", "20"), (TWO, "20 days", "10")):
        await desks[tenant].start()
        answer = await desks[tenant].decide("k", "How many days do I have to return an item?")
        assert own in answer.text
        assert foreign not in answer.text
        await desks[tenant].close()
    assert len(list((tmp_path / "state" / "desk").glob("*.sqlite"))) == 2
    with pytest.raises(SettingsError, match="no tnt"):
        tenant_desks(DeskSettings(tenants=(TenantDocuments("acme", folders[0]),)), hive, "")
