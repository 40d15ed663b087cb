"""`skep identity` and `skep tenant` on a real hive, and everybody from one store into another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from identity.parts import START_MS, Office, agent, new_ich, new_ilk
from identity.parts import office as make_office
from skep_nodes.cli.identity_transfer import Reading
from skep_nodes.identity.sqlite import SqliteStore
from support.forked import command
from support.hives import HiveFolder, environment
from support.wait import eventually

WHY = {"change_reason": "the same person"}


async def lines_of(office: Office) -> list[dict[str, Any]]:
    """An export, as the command makes it."""
    lines: list[dict[str, Any]] = [{"tenant": one} for one in (await office.ok("TNT_LIST", {}))["tenants"]]
    lines += [{"word": one} for one in (await office.ok("VOCABULARY_LIST", {}))["vocabulary"]]
    asked: dict[str, Any] = {}
    while True:
        page = await office.ok("IDENTITY_EXPORT", asked)
        lines += page["lines"]
        if "next" not in page:
            return lines
        asked = {"after": page["next"]}


async def some_people(office: Office) -> tuple[str, str, str]:
    tenant = await office.tenant("acme", domain="acme.example", settings={"max_ilks": 500})
    await office.ok("VOCABULARY_ADD", {"tag": "vip", "category": "role"})
    ana = await office.person(tenant, "+1", "ana@b.cd")
    bob = await office.person(tenant, "+2", "bob@b.cd")
    await office.ok("ILK_REGISTER", agent(new_ilk(), tenant))
    for number in range(3, 130):
        await office.provision(tenant, f"+{number}")
    await office.ok("ILK_UPDATE", {"ilk_id": ana, "add_roles": ["vip"]})
    await office.ok("ILK_MERGE", {"ilk_id": ana, "merge_from_ilk_id": bob, **WHY})
    return tenant, ana, bob


async def test_everybody_moves_to_another_database(make_store: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with make_office(SqliteStore(tmp_path / "a" / "identity.db"), tmp_path / "a") as first:
        tenant, ana, bob = await some_people(first)
        lines = await lines_of(first)
        whole = await first.whole(ana)
    async with make_office(make_store(), tmp_path) as second:
        for at in range(0, len(lines), 100):
            answer = await second.ok("IDENTITY_IMPORT", {"first": at + 1, "lines": lines[at : at + 100]})
            assert not answer["refused"], answer
        assert await lines_of(second) == lines
        again = await second.ok("IDENTITY_IMPORT", {"lines": lines[:100]})
        assert (again["unchanged"], again["created"], again["changed"]) == (100, 0, 0)
        assert await second.whole(ana) == whole
        assert await second.owner(tenant, "+2") == ana
        await second.ok("ILK_SPLIT", {"ilk_id": bob, **WHY})
        assert await second.owner(tenant, "+2") == bob, "a merge can be taken back in the other hive too"


async def test_a_line_that_cannot_be_kept_is_refused_alone(office: Office) -> None:
    tenant, ana, _ = await some_people(office)
    (line,) = [one for one in await lines_of(office) if one.get("ilk", {}).get("ilk_id") == ana]
    twin = {"ilk": {**line["ilk"], "ilk_id": new_ilk(), "channels": [], "roles": []}}
    stolen = {
        "ilk": {**twin["ilk"], "email": "x@y.zz", "ilk_id": new_ilk(), "channels": line["ilk"]["channels"]}
    }
    fine = {"ilk": {**twin["ilk"], "email": "new@y.zz", "ilk_id": new_ilk(),
                    "channels": [{"ich_id": new_ich(), "type": "sms", "address": "+900"}]}}  # fmt: skip
    nowhere = {
        "ilk": {**fine["ilk"], "tenant_id": "tnt:" + new_ilk()[4:], "email": "z@z.zz", "ilk_id": new_ilk()}
    }
    lines = [twin, {"ilk": {"ilk_id": "x"}}, stolen, fine, nowhere, [], {"tenant": {}}, {"other": 1}]
    answer = await office.ok("IDENTITY_IMPORT", {"first": 10, "lines": lines})
    assert [(each["line"], each["error_code"]) for each in answer["refused"]] == [
        (10, "DUPLICATE_EMAIL"), (11, "INVALID_REQUEST"), (12, "DUPLICATE_ICH"), (14, "INVALID_TENANT"),
        (15, "INVALID_REQUEST"), (16, "INVALID_REQUEST"), (17, "INVALID_REQUEST"),
    ]  # fmt: skip
    assert answer["created"] == 1
    assert await office.owner(tenant, "+900", "sms") == fine["ilk"]["ilk_id"]


async def test_who_is_imported_has_times_and_a_history(office: Office) -> None:
    """A line that says nothing of when: it is now, and stays what it was when the file is read again."""
    tenant, ilk = await office.tenant(), new_ilk()
    person: dict[str, Any] = {
        "ilk_id": ilk, "ilk_type": "human", "registration_status": "complete", "tenant_id": tenant, "roles": ["buyer"],
        "channels": [{"ich_id": new_ich(), "type": "sms", "address": "+1"}],
    }  # fmt: skip
    lines = [{"ilk": person}, {"tenant": {"tenant_id": f"tnt:{new_ich()[4:]}", "name": "old"}}]
    for expected in ("created", "unchanged"):
        assert (await office.ok("IDENTITY_IMPORT", {"lines": lines}))[expected] == 2
        (whole,) = [one["ilk"] for one in await lines_of(office) if "ilk" in one]
        assert (whole["created_at_ms"], whole["updated_at_ms"]) == (START_MS, START_MS)
        assert whole["channels"][0]["added_at_ms"] == START_MS
        assert min(each["created_at_ms"] for each in (await office.ok("TNT_LIST", {}))["tenants"]) == START_MS
        office.now_ms += 1000
    link, begun = (await office.ok("ILK_HISTORY", {"ilk_id": ilk}))["history"]
    assert begun["at_ms"] == START_MS
    assert (link["action"], link["detail"]["now"]["roles"]) == ("IDENTITY_IMPORT", ["buyer"])
    dated = {**person, "created_at_ms": 1, "updated_at_ms": 2}
    assert (await office.ok("IDENTITY_IMPORT", {"lines": [{"ilk": dated}]}))["changed"] == 1
    assert len((await office.ok("ILK_HISTORY", {"ilk_id": ilk}))["history"]) == 3


def test_an_import_notes_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "people.ndjson"
    path.write_bytes(b"".join(json.dumps({"n": number}).encode() + b"\n" for number in range(450)))
    reading = Reading(path)
    first, lines, offset = next(reading.pieces())
    assert (first, len(lines)) == (1, 200)
    reading.keep(offset, first + len(lines))
    again = Reading(path)
    pieces = list(again.pieces())
    assert [(first, lines[0]["n"], len(lines)) for first, lines, _ in pieces] == [
        (201, 200, 200),
        (401, 400, 50),
    ]
    assert pieces[-1][2] == path.stat().st_size
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert Reading(path).line == 1, "another file by now"


# -- the commands ----------------------------------------------------------------------------------------------------


class Skep:
    """The command, on one hive."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *words: str, code: int = 0) -> Any:
        done = self.run(*words, "-o", "json")
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return command((*words, "--hive", str(self.root)), environment())


@pytest.fixture
def skep(hive_folder: HiveFolder, router: object) -> Iterator[Skep]:
    skep = Skep(hive_folder.root)
    for module in ("skep_nodes.sy.config_routes", "skep_nodes.sy.identity"):
        hive_folder.start(module, [sys.executable, "-m", module, "--hive", str(hive_folder.root)])
    eventually(lambda: skep.run("tenant", "ls").returncode == 0, within=20, what="identity answers")
    return skep


@pytest.mark.slow
def test_the_commands(skep: Skep, tmp_path: Path) -> None:
    tenant = skep("tenant", "create", "acme", "--domain", "acme.example")["tenant_id"]
    assert skep("tenant", "create", "ACME")["matched_by"] == "name"
    assert [one["name"] for one in skep("tenant", "ls")["tenants"]] == ["acme", "test"]
    people = [new_ilk(), new_ilk()]
    lines = [
        {"ilk": {"ilk_id": ilk, "ilk_type": "human", "registration_status": "complete", "tenant_id": tenant,
                 "identification": {"display_name": name}, "email": f"{name}@acme.example",
                 "channels": [{"ich_id": new_ich(), "type": "whatsapp", "address": f"+{name}1"}]}}
        for ilk, name in zip(people, ("ana", "bob"), strict=True)
    ]  # fmt: skip
    path = tmp_path / "people.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert skep("identity", "import", str(path))["created"] == 2
    assert skep("identity", "import", str(path))["unchanged"] == 2
    assert len(skep("identity", "ls")["ilks"]) == 2
    ana, bob = people
    assert "error USAGE" in skep.run("identity", "merge", ana, bob, "--yes").stderr
    assert "NOT_CONFIRMED" in skep.run("identity", "merge", ana, bob, "--reason", "one").stderr
    merged = skep("identity", "merge", ana, bob, "--reason", "one", "--yes")
    assert skep("identity", "show", bob)["canonical_ilk_id"] == ana
    assert "an alias until" in skep.run("identity", "show", bob).stdout
    assert skep("identity", "split", bob, "--reason", "two")["merge_id"] == merged["merge_id"]
    assert [one["action"] for one in skep("identity", "history", bob)["history"]] == [
        "ILK_SPLIT",
        "ILK_MERGE",
        "IDENTITY_IMPORT",
        "ILK_CREATED",
    ]
    whole = tmp_path / "whole.ndjson"
    assert skep.run("identity", "export", str(whole)).returncode == 0
    assert whole.stat().st_mode & 0o777 == 0o600
    kinds = [next(iter(json.loads(line))) for line in whole.read_text().splitlines()]
    assert kinds == ["tenant", "tenant", "ilk", "ilk"]
    part = whole.with_name(whole.name + ".part")
    part.write_text("".join(f"{line}\n" for line in whole.read_text().splitlines()[:3]) + '{"ilk": {"cut')
    os.rename(whole, tmp_path / "first.ndjson")
    assert skep.run("identity", "export", str(whole)).returncode == 0
    assert whole.read_text() == (tmp_path / "first.ndjson").read_text(), "an interrupted export goes on"
    skep("tenant", "suspend", "acme", "--reason", "bill")
    assert skep("tenant", "resume", tenant)["tenant_status"] == "active"
    assert skep.run("tenant", "approve", "nobody").returncode == 3
    assert skep.run("identity", "show", new_ilk()).returncode == 3
    assert skep.run("identity", "split", ana, "--reason", "x").returncode == 6
    with path.open("a") as file:
        file.write("no json\n")
    failed = skep.run("identity", "import", str(path))
    assert (failed.returncode, ":3: it is no JSON" in failed.stderr) == (2, True), failed.stderr
