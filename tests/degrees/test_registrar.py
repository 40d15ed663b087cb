"""The registrar: composing, graduating, rolling back, revoking, rotating; and what is left after trouble."""

from __future__ import annotations

import errno
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from degrees.school import AGENT, BY, ILK, OTHER_ILK, School
from degrees.test_modules import refusal
from nodes.sy_disk import Crash, TroubledDisk
from skep.degree import SEAL_FILE, verify_folder
from skep.errors import DegreeError
from skep_nodes.degrees import roll
from skep_nodes.degrees.degrees import Composition
from skep_nodes.degrees.history import HistoryDamaged
from skep_nodes.degrees.registrar import DAY_MS, Graduation
from skep_nodes.degrees.registrar_key import KeyUnusable
from skep_nodes.sy.durable import Disk, StoreBroken
from skep_shm import SealStatus


def verified(school: School, **options: object) -> str:
    """The prompt that the agent would speak with, or the code of its refusal."""
    try:
        found = verify_folder(school.folder, school.ring(), **{"now_ms": school.now_ms, "handler": AGENT, **options})
    except DegreeError as error:
        return error.code
    return found.prompt


# -- degrees ----------------------------------------------------------------------------------------------------


def test_a_degree_pins_its_modules_and_the_next_of_its_name_is_its_next_version(school: School) -> None:
    school.publish("spanish", "1.0.0", "one")
    school.publish("spanish", "1.1.0", "two")
    first = school.degree("spanish@1.0.0")
    second = school.degree("spanish@1.1.0")
    assert (first.id, first.version, second.version) == (second.id, 1, 2)
    assert school.degree("spanish@1.1.0") == second, "the same again makes nothing"
    school.restart()
    assert school.registrar.degrees.all() == [first, second]
    assert school.registrar.degrees.get("support") == second
    assert school.registrar.degrees.get(first.id, 1) == first


def test_a_composition_is_judged(school: School) -> None:
    school.publish("spanish")
    pair = ("spanish", "1.0.0")
    cases = {
        "NOT_FOUND": Composition("a", (("nobody", "1.0.0"),)),
        "INVALID_NAME": Composition("../a", (pair,)),
        "INVALID_PAYLOAD": Composition("a", ()),
    }
    for code, wanted in cases.items():
        assert refusal(lambda wanted=wanted: school.registrar.degrees.create(wanted, BY, "")).code == code
    twice, wrong = Composition("a", (pair,), ("x", "x")), Composition("a", (pair,), ("X!",))
    for wanted in (Composition("a", (pair, pair)), twice, wrong, Composition("a", (pair,) * 65)):
        found = refusal(lambda wanted=wanted: school.registrar.degrees.create(wanted, BY, ""))
        assert found.code == "INVALID_PAYLOAD"


@pytest.mark.goal("G4")
def test_a_damaged_degree_is_named_and_its_number_is_not_given_again(school: School) -> None:
    school.publish("spanish", "1.0.0", "one")
    school.publish("spanish", "1.1.0", "two")
    first = school.degree("spanish@1.0.0")
    place = school.root / "state/degrees" / first.id.removeprefix("degree:") / "2"
    school.degree("spanish@1.1.0")
    (place / "degree.json").write_bytes(b"{}")
    school.restart()
    assert any(str(place) in each for each in school.warnings)
    assert school.registrar.degrees.get("support") == first
    assert school.degree("spanish@1.1.0").version == 3


# -- graduations ------------------------------------------------------------------------------------------------


def test_a_graduate_speaks_with_the_compiled_prompt_until_its_seal_ends(school: School) -> None:
    carrier = school.graduate(school.degree(), days=1)
    assert verified(school) == "You speak Spanish."
    school.now_ms = carrier.seal.until_ms
    assert verified(school) == "SEAL_EXPIRED"
    assert [each.status for each in school.registrar.audit()] == [SealStatus.EXPIRED]


def test_a_roll_back_is_a_graduation_to_an_older_version_and_the_way_back_by_file_is_shut(
    school: School, tmp_path: Path
) -> None:
    school.publish("tone", "1.0.0", "Be kind.")
    school.publish("tone", "2.0.0", "Be curt.")
    old, new = school.degree("tone@1.0.0"), school.degree("tone@2.0.0")
    school.graduate(old)
    kept = tmp_path / "kept"
    shutil.copytree(school.folder.resolve(), kept)
    school.graduate(new)
    assert verified(school) == "Be curt."
    with pytest.raises(DegreeError, match="SEAL_REVOKED"):
        verify_folder(kept, school.ring(), now_ms=school.now_ms, handler=AGENT)
    school.graduate(old)
    assert verified(school) == "Be kind."
    assert [each.degree for each in school.registrar.ledger.carriers.values()] == [old.title]


def test_a_revoked_agent_is_refused_also_after_a_restart(school: School) -> None:
    carrier = school.graduate(school.degree())
    school.registrar.revoke(AGENT, BY, "left the company")
    assert school.registrar.settle() == []
    assert verified(school) == "SEAL_REVOKED"
    (school.root / "config/registrar.pub").unlink()
    school.restart()
    assert verified(school) == "SEAL_REVOKED"
    again = school.registrar.revoke(carrier.seal.serial, BY, "")
    assert again.detail == "left the company", "revoking again changes nothing"
    school.graduate(school.registrar.degrees.get("support"))
    assert verified(school) == "You speak Spanish."


@pytest.mark.parametrize("damage", ["flipped", "empty", "gone", "a link"])
def test_a_damaged_seal_is_written_again_at_the_next_start(school: School, damage: str) -> None:
    """It is a copy of what the history says; the texts beside it are not touched."""
    school.graduate(school.degree())
    seal = school.folder / SEAL_FILE
    whole = seal.read_bytes()
    if damage == "flipped":
        seal.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    elif damage == "empty":
        seal.write_bytes(b"")
    else:
        seal.unlink()
        if damage == "a link":
            seal.symlink_to("degree.json")
    assert verified(school) != "You speak Spanish."
    school.restart()
    assert any(f"{AGENT}: its seal.json was damaged" in each for each in school.warnings)
    assert (verified(school), seal.read_bytes()) == ("You speak Spanish.", whole)
    assert {path.name for path in school.folder.iterdir()} == {"SHA256SUMS", "degree.json", "modules", SEAL_FILE}
    school.restart()
    assert school.warnings == []


def test_the_roll_names_who_should_have_a_seal_whatever_became_of_the_folders(school: School) -> None:
    assert roll.carriers(school.root) == []
    school.graduate(school.degree())
    school.graduate(school.registrar.degrees.get("support"), ilk=OTHER_ILK, handler="AI.other@test")
    shutil.rmtree(school.root / "state/degrees/agents")
    assert [each.seal.handler for each in roll.carriers(school.root)] == [AGENT, "AI.other@test"]
    school.registrar.revoke(AGENT, BY, "")
    with (school.root / "state/degrees/history").open("ab") as journal:
        journal.write(b"a line that was torn")
    assert [each.seal.handler for each in roll.carriers(school.root)] == ["AI.other@test"]


def test_one_changed_character_is_found_by_the_audit_and_mended_by_putting_it_back(school: School) -> None:
    school.graduate(school.degree())
    assert school.registrar.audit() == []
    text = next((school.folder / "modules").iterdir())
    before = text.read_bytes()
    text.write_bytes(before.replace(b"Spanish", b"Spamish"))
    (found,) = school.registrar.audit()
    assert found.status is SealStatus.BROKEN
    assert "spanish@1.0.0" in found.detail
    school.restart()
    assert text.read_bytes() != before, "a changed text is never mended silently"
    text.write_bytes(before)
    school.registrar.audit()
    assert [each.status for each in school.registrar.ledger.carriers.values()] == [SealStatus.VALID]


def test_an_audit_looks_at_all_agents_in_turn(school: School) -> None:
    degree = school.degree()
    for number in range(5):
        ilk = f"ilk:00000000-0000-4000-8000-{number:012d}"
        school.graduate(degree, ilk=ilk, handler=f"AI.a{number}")
    for number in range(5):
        shutil.rmtree(school.registrar.carried.path(f"AI.a{number}@test").resolve())
    found = [each.seal.handler for _ in range(3) for each in school.registrar.audit(2)]
    assert sorted(found) == [f"AI.a{number}@test" for number in range(5)]


def test_who_may_graduate_is_judged(school: School) -> None:
    degree = school.degree()
    cases = {
        "INVALID_PAYLOAD": [{"ilk": "ilk:x"}, {"ilk": ""}, {"days": 0}, {"until_ms": school.now_ms},
                            {"until_ms": school.now_ms + 3651 * DAY_MS}, {"reason": "x" * 513}],
        "INVALID_NAME": [{"handler": "../x"}, {"handler": ""}],
        "NOT_FOUND": [{"degree": "degree:nobody"}, {"version": 9}],
    }  # fmt: skip
    for code, changes in cases.items():
        for change in changes:
            wanted = {"ilk": ILK, "handler": AGENT, "degree": degree.id, **change}
            found = refusal(lambda wanted=wanted: school.registrar.graduate(Graduation(**wanted), BY))
            assert found.code == code, change
    school.graduate(degree)
    assert refusal(lambda: school.graduate(degree, ilk=OTHER_ILK)).code == "HANDLER_TAKEN"
    assert refusal(lambda: school.registrar.revoke("AI.nobody", BY, "")).code == "NOT_FOUND"


# -- the key ----------------------------------------------------------------------------------------------------


def test_old_seals_stay_valid_through_a_rotation_until_the_old_key_is_revoked(school: School) -> None:
    carrier = school.graduate(school.degree())
    old = carrier.seal.key_id
    new = school.registrar.rotate_key(BY, reseal=False, revoke_old=False)
    school.registrar.settle()
    assert new.id != old
    assert verified(school) == "You speak Spanish."
    assert school.registrar.audit() == []
    school.registrar.revoke_key(old, BY, "stolen")
    school.registrar.settle()
    assert verified(school) == "KEY_REVOKED"
    assert [each.status for each in school.registrar.ledger.carriers.values()] == [SealStatus.REVOKED]
    assert refusal(lambda: school.registrar.revoke_key(new.id, BY, "")).code == "KEY_ACTIVE"
    assert refusal(lambda: school.registrar.revoke_key("nobody", BY, "")).code == "NOT_FOUND"


def test_resealing_lets_the_old_key_go_without_silencing_anybody(school: School) -> None:
    before = school.graduate(school.degree())
    school.registrar.rotate_key(BY, reseal=True, revoke_old=True)
    assert school.registrar.settle() == []
    (after,) = school.registrar.ledger.carriers.values()
    assert verified(school) == "You speak Spanish."
    assert (after.seal.until_ms, after.degree) == (before.seal.until_ms, before.degree)
    assert after.seal.key_id != before.seal.key_id
    school.restart()
    assert verified(school) == "You speak Spanish."


def test_the_private_key_is_private_and_shown_nowhere(school: School) -> None:
    path = school.root / "state/authority/registrar.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (school.root / "config/registrar.pub").stat().st_mode & 0o777 == 0o644
    seed = path.read_bytes().split()[1]
    key = school.registrar._key
    assert seed.decode() not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    for other in school.root.rglob("*"):
        assert other == path or not other.is_file() or seed not in other.read_bytes(), other


@pytest.mark.goal("G4")
def test_a_key_file_that_is_damaged_or_open_to_others_is_refused(school: School) -> None:
    path = school.root / "state/authority/registrar.key"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])
        with pytest.raises(KeyUnusable):
            school.restart()
    path.write_bytes(whole)
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="0600"):
        school.restart()
    path.chmod(0o600)
    school.restart()


def test_a_lost_or_an_old_key_gives_way_to_a_new_one_and_old_seals_stay_valid(school: School) -> None:
    school.graduate(school.degree())
    path = school.root / "state/authority/registrar.key"
    first = path.read_bytes()
    path.unlink()
    school.restart()
    assert any("was gone" in each for each in school.warnings)
    assert verified(school) == "You speak Spanish."
    path.write_bytes(first)
    school.restart()
    assert any("from a backup" in each for each in school.warnings)
    states = [key.state for key in school.registrar.ledger.keys.values()]
    assert states == ["retired", "retired", "active"]
    assert verified(school) == "You speak Spanish."


# -- trouble ----------------------------------------------------------------------------------------------------


@pytest.mark.goal("G4")
def test_the_history_is_a_chain_and_its_copy_stands_in(school: School) -> None:
    school.graduate(school.degree())
    school.registrar.revoke(AGENT, BY, "gone")
    path = school.root / "state/degrees/history"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (whole.replace(b'"gone"', b'"gine"'), b"".join(lines[1:]), b"".join([lines[0], *lines[2:]]), b""):
        path.write_bytes(damaged)
        school.restart()
        assert school.warnings[0].endswith("using the copy history.bak"), damaged
        assert path.read_bytes() == whole
        assert [each.status for each in school.registrar.ledger.carriers.values()] == [SealStatus.REVOKED]


@pytest.mark.goal("G4")
def test_a_history_that_is_damaged_twice_is_not_guessed(school: School) -> None:
    school.graduate(school.degree())
    for name in ("history", "history.bak"):
        path = school.root / "state/degrees" / name
        path.write_bytes(path.read_bytes().replace(b'"op":"graduate"', b'"op":"graduata"'))
    with pytest.raises(HistoryDamaged, match="backup"):
        school.restart()


@pytest.mark.goal("G1")
def test_a_torn_last_line_was_never_acknowledged_and_is_dropped(school: School) -> None:
    school.graduate(school.degree())
    path = school.root / "state/degrees/history"
    with path.open("ab") as file:
        file.write(b"0123 torn")
    school.restart()
    assert verified(school) == "You speak Spanish."
    school.registrar.revoke(AGENT, BY, "")
    school.restart()
    assert [each.status for each in school.registrar.ledger.carriers.values()] == [SealStatus.REVOKED]


def the_whole_life(school: School) -> None:
    """Everything that writes, once."""
    school.publish("tone", "2.0.0", "Be curt.")
    degree = school.degree("tone@2.0.0")
    school.registrar.graduate(Graduation(ILK, AGENT, degree.id), BY)
    school.registrar.settle()
    school.registrar.rotate_key(BY, reseal=True, revoke_old=True)
    school.registrar.settle()


@dataclass
class Trouble:
    """A hive in which an agent graduated once, to be copied for each way in which the next steps can end."""

    folder: Path
    calls: int = 0

    def __post_init__(self) -> None:
        (self.folder / "before").mkdir()
        with School(self.folder / "before") as school:
            school.publish("tone", "1.0.0", "Be kind.")
            school.graduate(school.degree("tone@1.0.0"))
        self.calls = self._count()

    def _count(self) -> int:
        disk = TroubledDisk(100_000, Crash())
        with self.copy() as school:
            school.restart(disk)
            the_whole_life(school)
        return len(disk.calls)

    @contextmanager
    def copy(self) -> Iterator[School]:
        root = self.folder / "now"
        shutil.copytree(self.folder / "before", root, symlinks=True)
        with School(root) as school:
            yield school
        shutil.rmtree(root)


@pytest.fixture
def trouble(tmp_path: Path) -> Trouble:
    return Trouble(tmp_path)


def check_after(school: School, nth: int) -> None:
    """What was told is still so, the agent speaks one whole prompt, and the same requests again lead to the end."""
    told = [dict(event) for event in school.registrar.history.events]
    school.restart(Disk())
    assert school.registrar.history.events[: len(told)] == told, f"call {nth}: an event was lost"
    assert verified(school) in ("Be kind.", "Be curt."), f"call {nth}"
    assert not [*school.root.glob("state/**/*.new"), *school.root.glob("state/**/*.prev")], f"call {nth}"
    if "2.0.0" not in school.registrar.modules.versions("tone"):
        school.publish("tone", "2.0.0", "Be curt.")
    school.graduate(school.degree("tone@2.0.0"))
    assert verified(school) == "Be curt.", f"call {nth}"


@pytest.mark.slow
@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_every_call_leaves_a_registrar_that_starts_and_an_agent_that_speaks(
    trouble: Trouble, after: bool
) -> None:
    assert trouble.calls > 60
    for nth in range(1, trouble.calls + 1):
        with trouble.copy() as school:
            try:
                school.restart(TroubledDisk(nth, Crash(), after=after))
                the_whole_life(school)
            except Crash:
                check_after(school, nth)
            else:
                pytest.fail(f"call {nth} was never reached")


@pytest.mark.slow
@pytest.mark.goal("G5")
def test_a_disk_that_fails_at_any_call_loses_nothing_that_was_acknowledged(trouble: Trouble) -> None:
    for nth in range(1, trouble.calls + 1):
        code = (errno.ENOSPC, errno.EIO)[nth % 2]
        with trouble.copy() as school:
            with suppress(OSError, StoreBroken):
                school.restart(TroubledDisk(nth, OSError(code, "trouble")))
                the_whole_life(school)
            check_after(school, nth)
