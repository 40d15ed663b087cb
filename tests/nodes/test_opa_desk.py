"""SY.opa.rules without sockets, compiler or clock: versions, actions, codes, and who may do what."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.opa_parts import (
    ADMIN,
    KEY,
    Swift,
    SwiftTroubled,
    a_bench,
    a_shelf,
    a_store,
    compiled,
    open_one,
    sign,
)
from nodes.sy_disk import Crash
from skep.protocol.errors import PolicyError
from skep_nodes.sy import opa_shelf
from skep_nodes.sy.config_change import Refusal
from skep_nodes.sy.opa_desk import Built, Trouble, authorise, state_of
from skep_nodes.sy.opa_request import Request, changed_request, command_request
from skep_nodes.sy.opa_shelf import VERSION_GAP_MAX, Shelf
from skep_nodes.sy.standing import Sender, Standing
from skep_policy.bundle import open_bundle
from skep_policy.lint import Problem
from skep_shm import PolicyStatus, RegionError
from skep_shm.errors import RegionCode


def code_of(ask: Any) -> str:
    """The code of a request that is refused, before the compiler or after."""
    try:
        payload = ask().payload
    except Refusal as refusal:
        return refusal.code
    assert payload["status"] == "error", payload
    return str(payload["error_code"])


# -- the life of a policy ----------------------------------------------------------------------------------------


def test_compile_stages_and_apply_puts_in_force(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    staged = bench.do("compile", "second")
    assert (staged.payload["version"], staged.published) == (2, False)
    assert bench.rego() == "first"
    assert not bench.region.states, "a staged policy is nobody's business"
    applied = bench.do("apply", version=2)
    assert (applied.payload["version"], applied.published) == (2, True)
    assert bench.versions() == {"current": 2, "backup": 1}
    assert bench.region.last.version == 2
    assert open_one(bench.region.last.bundle).rego == compiled("second").rego


def test_answers_have_the_members_that_an_admin_reads(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    payload = bench.do("compile_apply", "second").payload
    assert payload == {
        "subsystem": "opa", "action": "compile_apply", "version": 2, "status": "ok", "hive": "hive",
        "next_version": 3, "compile_time_ms": 3, "wasm_size_bytes": len(b"wasm of second"),
        "hash": bench.desk.shelf.current.hash,  # type: ignore[union-attr]
    }  # fmt: skip
    refused = bench.desk.carry_out(Request("apply"), None).payload
    assert refused.keys() == {
        "subsystem", "action", "version", "status", "hive", "next_version", "error_code", "error_detail",
    }  # fmt: skip


def test_rollback_is_a_newer_version_with_the_older_content_and_can_be_undone(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.do("compile_apply", "second")
    assert bench.do("rollback").payload["version"] == 3
    assert bench.rego() == "first"
    open_bundle(bench.region.last.bundle, KEY.public, "hive", newest=2)  # a router on 2 takes it
    assert bench.do("rollback").payload["version"] == 4
    assert bench.rego() == "second"


def test_a_staged_policy_that_was_overtaken_gets_a_new_number_when_it_is_applied(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.do("compile_apply", "second")
    bench.do("compile", "third")  # 3
    bench.do("rollback")  # 4
    applied = bench.do("apply", version=3)
    assert applied.payload["version"] == 5
    assert bench.rego() == "third"
    open_bundle(bench.region.last.bundle, KEY.public, "hive", newest=4)


def test_compile_without_rego_compiles_the_policy_in_force(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    assert bench.do("compile").payload["version"] == 2
    assert bench.desk.shelf.staged.bundle.rego == compiled("first").rego  # type: ignore[union-attr]
    bench.desk.shelf = Shelf()
    assert code_of(lambda: bench.do("compile")) == "COMPILE_ERROR"


def test_a_shadow_decides_nothing_and_ends(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    assert bench.do("shadow", "tried").payload["version"] == 2
    assert (bench.rego(), bench.region.last.version) == ("first", 1)
    assert open_one(bench.region.last.shadow).rego == compiled("tried").rego
    assert bench.do("shadow_stop").published
    assert bench.region.last.shadow == b""
    assert bench.do("compile").payload["version"] == 3, "its number is spent"


def test_auto_apply_is_compile_and_apply() -> None:
    assert changed_request({"action": "compile", "config": {"auto_apply": True}}).action == "compile_apply"
    assert changed_request({"action": "compile", "auto_apply": True}).action == "compile_apply"


# -- what changes nothing ----------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "ask",
    [
        {"action": "check", "name": "other"},
        {"action": "check"},
        {"action": "check", "name": "other", "version": 1},
        *(
            {"action": action, "name": "other", "dry_run": True}
            for action in ("compile", "compile_apply", "shadow")
        ),
        {"action": "apply", "dry_run": True},
        {"action": "rollback", "dry_run": True},
    ],
)
def test_check_and_dry_runs_change_nothing_and_spend_no_number(tmp_path: Path, ask: dict[str, Any]) -> None:
    bench = a_bench(tmp_path)
    bench.do("compile_apply", "second")
    bench.do("compile", "third")
    shelf, files, published = bench.desk.shelf, everything(tmp_path), list(bench.region.states)
    answer = bench.do(**ask)
    assert (answer.payload["status"], answer.payload["check_only"]) == ("ok", True)
    assert not answer.published
    assert (bench.desk.shelf, everything(tmp_path), bench.region.states) == (shelf, files, published)
    assert bench.do("compile", "fourth").payload["version"] == 4


def test_a_failed_compilation_changes_nothing_and_says_where(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    shelf, files = bench.desk.shelf, everything(tmp_path)
    problems = [Problem(number, 1, "rego_parse_error", "no") for number in range(1, 80)]
    answer = bench.desk.failed("compile", Trouble("COMPILE_ERROR", "policy.rego:1:1: no", problems), 7)
    assert answer.payload["error_code"] == "COMPILE_ERROR"
    assert answer.payload["problems"][0] == {
        "line": 1,
        "column": 1,
        "code": "rego_parse_error",
        "message": "no",
    }
    assert len(answer.payload["problems"]) == 50
    assert (bench.desk.shelf, everything(tmp_path)) == (shelf, files)
    assert "COMPILE_ERROR" in bench.desk.get_status()["last_error"]
    assert bench.do("compile", "second").payload["status"] == "ok"
    assert bench.desk.get_status()["last_error"] == "", "what was put right is no error any more"


def test_a_policy_too_large_to_pack_spends_no_number(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    huge = replace(compiled("x"), wasm=bytes((4 << 20) + 1))  # type: ignore[type-var]
    answer = bench.desk.carry_out(Request("compile", rego="x"), Built(huge))
    assert answer.payload["error_code"] == "BUNDLE_TOO_LARGE"
    assert bench.do("compile", "second").payload["version"] == 2


# -- codes -------------------------------------------------------------------------------------------------------


def test_what_is_not_there_has_a_code(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    assert code_of(lambda: bench.do("apply")) == "NOTHING_STAGED"
    assert code_of(lambda: bench.do("rollback")) == "NO_BACKUP"
    bench.do("compile", "second")
    assert code_of(lambda: bench.do("apply", version=3)) == "VERSION_MISMATCH"


@pytest.mark.parametrize("version", [1, 5, 5 + VERSION_GAP_MAX + 1])
def test_a_version_that_is_used_or_far_ahead_is_refused_and_the_next_is_named(
    tmp_path: Path, version: int
) -> None:
    bench = a_bench(tmp_path, a_shelf(version=5))
    with pytest.raises(Refusal) as caught:
        bench.do("compile", "x", version=version)
    assert caught.value.code == "VERSION_CONFLICT"
    assert "6 is next" in caught.value.detail
    assert bench.do("compile", "x", version=8).payload["version"] == 8
    assert bench.do("compile", "x").payload["version"] == 9


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"action": "explode"}, "INVALID_PAYLOAD"), ({"action": None}, "INVALID_PAYLOAD"), ({}, "INVALID_PAYLOAD"),
        ({"action": ["compile"]}, "INVALID_PAYLOAD"),
        *(({"action": "apply", "version": wrong}, "INVALID_PAYLOAD") for wrong in ("2", True, -1, 1 << 63, 1.5)),
        ({"action": "compile", "config": []}, "INVALID_PAYLOAD"),
        ({"action": "compile", "config": {"rego": 7}}, "INVALID_PAYLOAD"),
        ({"action": "compile", "config": {"rego": " "}}, "INVALID_PAYLOAD"),
        ({"action": "compile", "config": {"rego": "x" * ((1 << 20) + 1)}}, "REGO_TOO_LARGE"),
        ({"action": "compile", "config": {"entrypoint": "other/rule"}}, "INVALID_PAYLOAD"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_before_anything_runs(facts: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        changed_request(facts)
    assert caught.value.code == code
    assert len(caught.value.detail) < 200


def test_commands_are_the_same_requests() -> None:
    assert command_request("compile_policy", {"rego": "x", "version": 3}) == Request("compile", 3, "x")
    assert command_request("apply_policy", {"version": 3}) == Request("apply", 3)
    assert command_request("rollback_policy", None) == Request("rollback")


@pytest.mark.goal("G14")
@pytest.mark.parametrize(
    "sender",
    [
        Sender("AI.mallory@hive", Standing.OWN), Sender("AI.mallory@hive", Standing.FOREIGN),
        Sender("SY.admin@hive", Standing.FOREIGN), Sender("SY.admin@hive", Standing.OWN), Sender("", Standing.SYSTEM),
        Sender("", Standing.UNKNOWN), Sender("RT.main@hive", Standing.SYSTEM), Sender("SYX.a@hive", Standing.SYSTEM),
    ],
)  # fmt: skip
def test_only_the_hives_own_system_names_may_change_anything(tmp_path: Path, sender: Sender) -> None:
    bench = a_bench(tmp_path)
    before = bench.desk.shelf
    for action in ("compile", "check", "compile_apply", "apply", "rollback", "shadow"):
        assert code_of(lambda action=action: bench.do(action, sender=sender)) == "FORBIDDEN"
    assert bench.desk.shelf == before
    for name in ("SY.admin@hive", "SY.orchestrator@hive", "SY.cli.77@hive"):
        authorise(Sender(name, Standing.SYSTEM))


# -- disk and region ---------------------------------------------------------------------------------------------


def test_a_region_that_refuses_takes_the_disk_back_but_spends_the_number(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.region.trouble = RegionError(RegionCode.NO_SPACE, "policy", "no room", "free some")
    assert code_of(lambda: bench.do("compile_apply", "second")) == "SHM_ERROR"
    assert bench.rego() == "first"
    loaded = bench.store.load().shelf
    assert loaded is not None
    assert loaded.current.version == 1  # type: ignore[union-attr]
    assert loaded.counter == 2
    bench.region.trouble = None
    assert bench.do("compile_apply", "second").payload["version"] == 3


@pytest.mark.goal("G5")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_the_nth_disk_error_leaves_the_old_policy_in_force_until_a_run_passes_untouched(
    tmp_path: Path, number: int
) -> None:
    for nth in range(1, 200):
        folder = tmp_path / str(nth)
        disk = SwiftTroubled(nth, OSError(number, "no"))
        bench = a_bench(folder, disk=disk)
        answer = bench.do("compile_apply", "second").payload
        stored = bench.store.load().shelf
        assert stored is not None
        if answer["status"] == "ok":
            assert bench.rego() == "second"
            assert stored.current.version == bench.region.last.version == 2  # type: ignore[union-attr]
        else:
            assert answer["error_code"] == "PERSIST_FAILED"
            assert bench.rego() == "first"
            assert not bench.region.states
            assert stored.current.version == 1  # type: ignore[union-attr]
        if nth > len(disk.calls):
            return
    raise AssertionError("no run was untouched")


@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_disk_call_leaves_one_whole_policy(tmp_path: Path, after: bool) -> None:
    """Before and after each call of each action; what was published is never newer than what the files hold."""
    script = [
        ("compile", "second"),
        ("apply", None),
        ("compile_apply", "third"),
        ("rollback", None),
        ("shadow", "s"),
    ]
    for nth in range(1, 500):
        folder = tmp_path / str(nth)
        disk = SwiftTroubled(nth, Crash(), after=after)
        bench = a_bench(folder, disk=disk)
        acknowledged = 1
        try:
            for action, name in script:
                answer = bench.do(action, name).payload
                if action not in ("compile", "shadow"):
                    acknowledged = answer["version"]
        except Crash:
            assert_sound(folder, bench.region.last.version, acknowledged)
            continue
        return
    raise AssertionError("no run was untouched")


def assert_sound(folder: Path, published: int, acknowledged: int) -> None:
    store = a_store(folder, Swift())
    loaded = store.load()
    assert not loaded.lost
    shelf = loaded.shelf
    assert shelf is not None
    assert shelf.current is not None
    assert shelf.current.version >= max(published, acknowledged)
    assert shelf.counter >= max(entry.version for entry in shelf.entries().values())
    store.repair(shelf)
    again = store.load()
    assert (again.shelf, again.warnings) == (shelf, ())
    assert (folder / "current" / "bundle").read_bytes() == shelf.current.data
    names = {path.name for path in (folder / "bundles").iterdir()}
    assert names == {f"{entry.name}.bundle" for entry in shelf.entries().values()}


# -- versions, over any history ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["compile", "apply", "compile_apply", "rollback", "shadow", "shadow_stop"]),
                          st.integers(0, 12)), max_size=14))  # fmt: skip
def test_versions_never_collide_and_never_go_back(history: list[tuple[str, int]]) -> None:
    shelf, in_force, given_out = a_shelf(), [1], {1}
    for action, version in history:
        before = shelf
        try:
            if action == "compile":
                shelf = opa_shelf.stage(shelf, compiled(str(version)), version, sign)
            elif action == "apply":
                shelf = opa_shelf.apply(shelf, version, sign)
            elif action == "compile_apply":
                shelf = opa_shelf.apply(opa_shelf.stage(shelf, compiled("c"), version, sign), 0, sign)
            elif action == "rollback":
                shelf = opa_shelf.rollback(shelf, version, sign)
            else:
                shelf = opa_shelf.shade(shelf, compiled("s") if action == "shadow" else None, version, sign)
        except Refusal:
            assert shelf == before
            continue
        fresh = {entry.name: entry.version for entry in shelf.entries().values()}
        old = {entry.name: entry.version for entry in before.entries().values()}
        for name in fresh.keys() - old.keys():
            assert fresh[name] not in given_out
            given_out.add(fresh[name])
        assert shelf.counter >= before.counter
        assert shelf.counter >= max(fresh.values())
        assert shelf.current is not None
        if shelf.current.version != in_force[-1]:
            assert shelf.current.version > in_force[-1]
            in_force.append(shelf.current.version)


# -- what is read ------------------------------------------------------------------------------------------------


def test_status_and_policy(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.do("compile", "second")
    status = bench.desk.get_status()
    assert (status["current_version"], status["staged_version"], status["next_version"]) == (1, 2, 3)
    policy = bench.desk.get_policy()
    assert (policy["rego"], policy["version"]) == (compiled("first").rego, 1)
    assert policy["compiled_at"] == "2023-11-14T22:13:20Z"
    bench.desk.shelf = Shelf()
    assert bench.desk.get_policy()["error_code"] == "NOT_FOUND"
    assert bench.desk.get_status()["status"] == "error"


def test_a_text_too_long_for_a_frame_is_named_by_its_place(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    long = replace(compiled("x"), rego="#" * (1 << 20))  # type: ignore[type-var]
    bench.desk.carry_out(Request("compile_apply", rego="x"), Built(long))
    assert bench.desk.get_policy()["rego"] is None
    assert (tmp_path / "current" / "policy.rego").read_text() == "#" * (1 << 20)


def test_what_is_published_of_a_shelf() -> None:
    assert state_of(Shelf()).status is PolicyStatus.LOADING
    assert state_of(Shelf(3)).status is PolicyStatus.ERROR
    state = state_of(a_shelf())
    assert (state.version, state.status) == (1, PolicyStatus.OK)
    with pytest.raises(PolicyError):
        open_bundle(state.bundle, KEY.public, "hive", newest=1)
    assert ADMIN.trusted
