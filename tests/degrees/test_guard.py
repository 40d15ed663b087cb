"""A node that declares a degree: does not start without, falls silent when it is lost, speaks again when it is back."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from degrees.school import AGENT, ILK, OTHER_ILK, School
from skep import Message, Node, RemoteError
from skep.degree import AGAIN_S, DegreeGuard, advice, degree_folder
from skep.errors import DegreeError
from skep.seal import canonical, degree_facts, read_degree
from skep.testing import Hive
from skep_nodes.ai.desk import DeskNode, DeskSettings, make_desk
from skep_nodes.ai.model import INSTRUCTIONS, Endpoint, request_body
from skep_nodes.degrees.registrar import DAY_MS


class Clocks:
    """Wall and monotonic time, moved by hand."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms, self.seconds = now_ms, 0.0

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds
        self.now_ms += int(seconds * 1000)


@pytest.fixture
def graduate(school: School) -> School:
    school.graduate(school.degree(), days=1)
    return school


def guard_of(school: School, clocks: Clocks, **options: Any) -> DegreeGuard:
    wanted = {"handler": AGENT, **options}
    return DegreeGuard(school.folder, school.root / "config", now_ms=lambda: clocks.now_ms,
                       monotonic=lambda: clocks.seconds, **wanted)  # fmt: skip


def the_text(school: School) -> Path:
    return next((school.folder / "modules").iterdir())


def test_a_change_is_found_by_the_first_look_after_the_pause(graduate: School) -> None:
    clocks = Clocks(graduate.now_ms)
    guard = guard_of(graduate, clocks)
    assert guard.verify().prompt == "You speak Spanish."
    text = the_text(graduate)
    before = text.read_bytes()
    text.write_bytes(before[:-1])
    assert guard.look() is None, "what speaks is the text that was verified"
    clocks.pass_(AGAIN_S)
    found = guard.look()
    assert found is not None
    assert (found.code, found.module) == ("MODULE_CHANGED", "spanish@1.0.0")
    text.write_bytes(before)
    assert guard.look() is found
    assert guard.recheck() is None


def test_expiry_is_asked_every_time(graduate: School) -> None:
    clocks = Clocks(graduate.now_ms)
    guard = guard_of(graduate, clocks)
    guard.verify()
    clocks.now_ms += DAY_MS - 1
    assert guard.look() is None
    clocks.now_ms += 1
    found = guard.look()
    assert found is not None
    assert found.code == "SEAL_EXPIRED"


@pytest.mark.goal("G14")
def test_a_folder_is_worth_nothing_to_another_agent(graduate: School) -> None:
    clocks = Clocks(graduate.now_ms)
    assert guard_of(graduate, clocks, ilk=ILK).verify().seal.ilk == ILK
    for options in ({"handler": "AI.thief@test"}, {"ilk": OTHER_ILK}):
        with pytest.raises(DegreeError, match="SEAL_FOREIGN"):
            guard_of(graduate, clocks, **options).verify()


def test_every_missing_piece_has_its_code_and_advice(graduate: School) -> None:
    clocks = Clocks(graduate.now_ms)
    home = graduate.folder.resolve()
    pieces = {
        home / "degree.json": "DEGREE_MISSING",
        home / "seal.json": "SEAL_MISSING",
        the_text(graduate): "MODULE_MISSING",
        graduate.root / "config/registrar.pub": "REGISTRAR_MISSING",
    }
    for path, code in pieces.items():
        aside = path.with_name("aside")
        path.rename(aside)
        with pytest.raises(DegreeError) as caught:
            guard_of(graduate, clocks).verify()
        assert caught.value.code == code
        assert advice(code)
        aside.rename(path)
    guard_of(graduate, clocks).verify()


@pytest.mark.goal("G17")
def test_a_degree_folder_that_leads_elsewhere_or_hangs_is_refused(graduate: School) -> None:
    clocks = Clocks(graduate.now_ms)
    text = the_text(graduate)
    before = text.read_bytes()
    kept = text.with_name("kept")
    kept.write_bytes(before)
    for make in (lambda: text.symlink_to(kept), lambda: os.mkfifo(text), text.mkdir):
        shutil.rmtree(text) if text.is_dir() and not text.is_symlink() else text.unlink()
        make()
        with pytest.raises(DegreeError, match="MODULE_MISSING"):
            guard_of(graduate, clocks).verify()


# -- in a hive ---------------------------------------------------------------------------------------------------


def papers_in(hive: Hive, school: School) -> Path:
    """The school's papers, in the hive of the test."""
    folder = degree_folder(hive.root, "AI.desk")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(school.folder.resolve(), folder)
    (hive.root / "config").mkdir(exist_ok=True)
    shutil.copy(school.root / "config/registrar.pub", hive.root / "config")
    return folder


def an_agent(folder: Path) -> Node:
    node = Node("AI.desk", degree=folder)

    @node.on_message
    async def speak(message: Message) -> dict[str, str]:
        return {"prompt": node.degree.prompt}

    return node


@pytest.fixture
def now_school(school: School) -> School:
    """Its seals are valid at the time of the test's own machine, which nodes go by."""
    school.now_ms = time.time_ns() // 1_000_000
    school.graduate(school.degree())
    return school


async def test_a_node_without_a_good_degree_does_not_start_and_says_what_to_do(now_school: School) -> None:
    async with Hive() as hive:
        folder = papers_in(hive, now_school)
        text = next((folder / "modules").iterdir())
        text.write_bytes(text.read_bytes().replace(b"S", b"s"))
        node = an_agent(folder)
        with pytest.raises(DegreeError) as caught:
            await hive.start(node)
        for words in ("AI.desk@test", "spanish@1.0.0", str(folder), "skep degree graduate"):
            assert words in str(caught.value)
        assert caught.value.module == "spanish@1.0.0"


async def test_a_node_is_told_falls_silent_and_is_told_again(now_school: School) -> None:
    async with Hive() as hive:
        folder = papers_in(hive, now_school)
        await hive.start(an_agent(folder))
        asker, system = await hive.node("IO.test"), await hive.node("SY.registrar")
        assert (await asker.request("AI.desk", {})).payload == {"prompt": "You speak Spanish."}
        text = next((folder / "modules").iterdir())
        before = text.read_bytes()
        text.write_bytes(before + b"!")
        told = await system.request("AI.desk", {}, type="system", verb="DEGREE_CHANGED")
        assert told.payload["degree"]["code"] == "MODULE_CHANGED"
        with pytest.raises(RemoteError, match=r"degree_invalid: MODULE_CHANGED: .*spanish@1\.0\.0"):
            await asker.request("AI.desk", {})
        status = await asker.request("AI.desk", {}, type="system", verb="NODE_STATUS_GET")
        assert status.payload["health_state"] == "ERROR"
        text.write_bytes(before)
        with pytest.raises(RemoteError, match="forbidden"):
            await asker.request("AI.desk", {}, type="system", verb="DEGREE_CHANGED")
        await system.request("AI.desk", {}, type="system", verb="DEGREE_CHANGED")
        assert (await asker.request("AI.desk", {})).payload == {"prompt": "You speak Spanish."}


async def test_a_new_configuration_is_a_reason_to_look(now_school: School) -> None:
    async with Hive() as hive:
        folder = papers_in(hive, now_school)
        await hive.start(an_agent(folder))
        system = await hive.node("SY.admin")
        (folder / "seal.json").unlink()
        config = {"node_name": "AI.desk@test", "schema_version": 1, "config_version": 1, "config": {"a": 1}}
        answer = await system.request("AI.desk", config, type="system", verb="CONFIG_SET")
        assert answer.payload["ok"]
        with pytest.raises(RemoteError, match="SEAL_MISSING"):
            await system.request("AI.desk", {})


async def test_a_node_that_declares_none_is_as_before(now_school: School) -> None:
    async with Hive() as hive:
        plain, system = await hive.node("AI.plain"), await hive.node("SY.registrar")
        assert plain.guard is None
        told = await system.request("AI.plain", {}, type="system", verb="DEGREE_CHANGED")
        assert told.payload == {"status": "ok", "node_name": "AI.plain@test", "degree": None}


async def test_the_desk_speaks_only_with_its_degree(now_school: School) -> None:
    async with Hive() as hive:
        folder = papers_in(hive, now_school)
        settings = DeskSettings(degree=folder)
        desk = make_desk(settings, None)
        node = Node("AI.desk", degree=settings.degree)
        DeskNode(settings, node, desk)
        await hive.start(node)
        assert desk.taught() == "You speak Spanish."
        asker = await hive.node("IO.test")
        question = {"type": "text", "content": "How long does delivery take?"}
        assert "content" in (await asker.request("AI.desk", question)).payload
        (folder / "seal.json").unlink()
        assert node.guard is not None
        node.guard.recheck()
        with pytest.raises(RemoteError, match="degree_invalid"):
            await asker.request("AI.desk", question)


def test_the_model_is_given_the_degree_before_the_rules_of_citing() -> None:
    body = json.loads(request_body(Endpoint("http://x", "m"), [], (), "?", "You speak Spanish."))
    assert body["messages"][0]["content"] == f"You speak Spanish.\n\n{INSTRUCTIONS}"


@pytest.mark.goal("G17")
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "a/b", "..", "", "a\0b"])
def test_a_name_in_a_forged_degree_opens_no_other_file(graduate: School, name: str) -> None:
    """Names are read before the signature is checked, so they are judged before they are part of a path."""
    home = graduate.folder.resolve()
    degree = read_degree((home / "degree.json").read_bytes())
    for forged in (degree.modules[0]._replace(name=name), degree.modules[0]._replace(version=name)):
        (home / "degree.json").write_bytes(canonical(degree_facts(replace(degree, modules=(forged,)))))
        with pytest.raises(DegreeError, match="DEGREE_DAMAGED"):
            guard_of(graduate, Clocks(graduate.now_ms)).verify()
