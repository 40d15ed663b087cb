"""SY.config.routes without sockets: the document, one change, the store, and who is answered what."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.sy_disk import Crash, TroubledDisk
from skep_nodes.sy.config_change import Refusal, changed
from skep_nodes.sy.config_desk import Answer, ConfigDesk
from skep_nodes.sy.config_document import ConfigInvalid, plain, state_from
from skep_nodes.sy.config_store import ConfigDamaged, ConfigStore, sealed
from skep_nodes.sy.durable import Disk, StoreBroken
from skep_shm import ConfigState, MatchKind, RegionError, RouteAction

AT = "2026-01-01T00:00:00Z"
DROP = {"prefix": "AI.bad.*", "action": "DROP"}
SALES = {"prefix": "AI.sales", "action": "FORWARD", "next_hop_name": "AI.desk@hive", "match_kind": "EXACT"}
ADMIN = "SY.admin@hive"


def document(**sections: Any) -> dict[str, Any]:
    return {"version": 3, "routes": [DROP, SALES], "vpns": [{"pattern": "AI.*", "vpn_id": 7}], **sections}


def a_state(**sections: Any) -> ConfigState:
    return state_from(document(**sections))


class Published:
    """The region as the desk sees it."""

    def __init__(self) -> None:
        self.states: list[ConfigState] = []
        self.trouble: Exception | None = None

    def __call__(self, state: ConfigState) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.states.append(state)


def a_desk(folder: Path, disk: Disk | None = None) -> tuple[ConfigDesk, Published]:
    region = Published()
    return ConfigDesk("hive", a_state(), ConfigStore(folder, disk), region), region


def ask(desk: ConfigDesk, subsystem: str, config: object, **facts: Any) -> Answer:
    return desk.change({"subsystem": subsystem, "config": config, **facts}, ADMIN, 5, AT)


# -- document ----------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_wire_format() -> None:
    route = a_state().routes[0]
    assert (route.match_kind, route.action) == (MatchKind.PREFIX, RouteAction.DROP)
    assert (route.metric, route.priority) == (0, 100)
    assert a_state().vpns[0].priority == 100


def test_plain_and_typed_are_the_same_document() -> None:
    grants = [
        {"uid": 1000, "pattern": "AI.*", "ilk": "any"},
        {
            "uid": 1001,
            "pattern": "*",
            "ilk": "ilk:00000000-0000-4000-8000-000000000001",
            "channel_kinds": "web",
        },
        {"uid": 2, "pattern": "IO.x@hive", "tenant": "tnt:00000000-0000-4000-8000-000000000002"},
    ]
    state = a_state(grants=grants, limits={"QUEUE_BYTES_MAX": 4 << 20})
    assert state_from(plain(state)) == state


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"routes": [{"prefix": "AI.x", "action": "drop"}]}, "routes[0].action"),
        ({"routes": [{"prefix": "AI.x", "action": "FORWARD"}]}, "exactly one of next_hop"),
        ({"routes": [{"prefix": "AI.x", "action": "DROP", "next_hop_hive": "b"}]}, "DROP has no next hop"),
        ({"routes": [{"prefix": "A*B", "action": "DROP"}]}, "use GLOB"),
        ({"routes": [{"action": "DROP"}]}, "prefix is missing"),
        ({"routes": [{**DROP, "metric": 1 << 32}]}, "not a whole number of 0..4294967295"),
        ({"routes": [{**DROP, "priority": True}]}, "not a whole number"),
        ({"routes": [{**DROP, "prefixx": 1}]}, "did you mean 'prefix'"),
        ({"routes": [DROP, DROP]}, "the same as routes[0]"),
        ({"routes": [{"prefix": "АI.x", "action": "DROP"}]}, "characters outside"),  # a look-alike
        ({"routes": [{"prefix": "A" * 257, "action": "DROP"}]}, "257 bytes, 256 at most"),
        ({"routes": {}}, "must be a list"),
        ({"vpns": [{"pattern": "AI.*"}]}, "vpn_id is missing"),
        ({"grants": [{"uid": -1, "pattern": "*"}]}, "not a whole number"),
        ({"grants": [{"uid": 1, "pattern": "*", "ilk": "some"}]}, "ilk"),
        ({"limits": {"QUEUE_BYTES_MAXX": 1}}, "did you mean 'QUEUE_BYTES_MAX'"),
        ({"limits": {"QUEUE_BYTES_MAX": 1 << 40}}, "not a whole number"),
        ({"limits": []}, "must be a mapping"),
    ],
)
def test_a_wrong_entry_is_named(section: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        a_state(**section)
    assert problem in str(caught.value)


# -- one change --------------------------------------------------------------------------------------------------


def test_add_and_remove_are_inverses() -> None:
    state = changed(a_state(), "routes", {"routes": [DROP, SALES]}, "", 4)
    more = changed(state, "routes", {"route": {"prefix": "WF.x", "action": "DROP"}}, "add", 5)
    assert len(more.routes) == 3
    assert changed(more, "routes", {"route": {"prefix": "WF.x"}}, "remove", 6).routes == state.routes


def test_a_route_listed_again_keeps_its_time() -> None:
    first = changed(a_state(routes=[]), "routes", {"routes": [DROP]}, "", 5)
    second = changed(first, "routes", {"routes": [DROP, SALES]}, "", 9)
    assert [route.installed_at_ms for route in second.routes] == [5, 9]


@pytest.mark.parametrize(
    ("subsystem", "config", "action", "code"),
    [
        ("opa", {}, "", "INVALID_PAYLOAD"),
        ("routes", [], "", "INVALID_PAYLOAD"),
        ("routes", {}, "", "INVALID_PAYLOAD"),
        ("routes", {"route": DROP}, "upsert", "INVALID_PAYLOAD"),
        ("routes", {"route": DROP}, "add", "DUPLICATE_PREFIX"),
        ("vpn", {"vpn": {"pattern": "AI.*", "vpn_id": 1}}, "add", "DUPLICATE_PATTERN"),
        ("routes", {"route": {"prefix": "WF.none"}}, "remove", "NOT_FOUND"),
        ("routes", {"routes": [{"prefix": "x"}]}, "", "INVALID_CONFIG"),
    ],
)
def test_refusals_have_a_code(subsystem: str, config: object, action: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        changed(a_state(), subsystem, config, action, 5)
    assert caught.value.code == code


def test_removing_must_name_one_entry() -> None:
    state = a_state(routes=[DROP, {**DROP, "match_kind": "GLOB"}])
    with pytest.raises(Refusal, match="2 routes match"):
        changed(state, "routes", {"route": {"prefix": "AI.bad.*"}}, "remove", 5)
    left = changed(state, "routes", {"route": {"prefix": "AI.bad.*", "match_kind": "GLOB"}}, "remove", 5)
    assert [route.match_kind for route in left.routes] == [MatchKind.PREFIX]


def test_limits_are_replaced_added_and_removed() -> None:
    state = changed(a_state(), "limits", {"limits": {"QUEUE_BYTES_MAX": 5, "TURN_BYTES": 6}}, "", 0)
    state = changed(state, "limits", {"limits": {"TURN_BYTES": 7}}, "add", 0)
    assert changed(state, "limits", {"limits": ["QUEUE_BYTES_MAX"]}, "remove", 0).limits == {"TURN_BYTES": 7}


# -- the store ---------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path)
    assert store.load().state is None
    assert store.save(a_state(), AT) == ()
    assert store.load().state == a_state()
    assert store.load().warnings == ()


def test_a_file_without_checksum_was_written_by_hand(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path)
    store.path.write_text("version: 9\nroutes:\n- prefix: AI.x\n  action: DROP\n")
    state = store.load().state
    assert state is not None
    assert state.version == 9


@pytest.mark.goal("G4")
def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path)
    store.save(a_state(), AT)
    data = store.path.read_bytes()
    damages = [data[:cut] for cut in range(0, len(data), 37)]
    damages += [_flipped(data, bit) for bit in range(len(b"# skep-config") * 8, len(data) * 8, 61)]
    for damage in damages:
        store.path.write_bytes(damage)
        loaded = store.load()
        assert loaded.state == a_state()
        assert "using the copy" in loaded.warnings[0]


def _flipped(data: bytes, bit: int) -> bytes:
    mutable = bytearray(data)
    mutable[bit // 8] ^= 1 << bit % 8
    return bytes(mutable)


def test_two_damaged_files_stop_the_start(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path)
    store.save(a_state(), AT)
    store.path.write_bytes(b"# skep-config/1 sha256:00\n")
    store.backup.write_bytes(b"\0" * 100)
    with pytest.raises(ConfigDamaged, match="copy cannot be used either"):
        store.load()


def test_a_hostile_yaml_file_is_damage(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path)
    for text in ("[", "!!python/object:os.system x", "version: 1\nversion: 2", "routes: 7", "\xff"):
        store.path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigDamaged):
            store.load()


@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_call_of_a_save_loses_nothing_acknowledged(tmp_path: Path, after: bool) -> None:
    old, new = a_state(), replace(a_state(), version=4, routes=())
    nth = 0
    while True:
        nth += 1
        ConfigStore(tmp_path).save(old, AT)
        try:
            ConfigStore(tmp_path, TroubledDisk(nth, Crash(), after=after)).save(new, AT)
        except Crash:
            assert ConfigStore(tmp_path).load().state in (old, new)
            continue
        break
    assert nth > 12
    assert ConfigStore(tmp_path).load().state == new


# -- who is answered what ----------------------------------------------------------------------------------------


def test_a_change_is_persisted_published_and_answered_once(tmp_path: Path) -> None:
    desk, region = a_desk(tmp_path)
    answer = ask(desk, "routes", {"routes": [DROP]}, version=4)
    assert answer.payload == {
        "subsystem": "routes", "version": 4, "status": "ok", "hive": "hive", "changed": True,
    }  # fmt: skip
    assert answer.published
    assert region.states == [desk.state]
    assert ConfigStore(tmp_path).load().state == desk.state


def test_two_writers_of_one_version_cannot_both_succeed(tmp_path: Path) -> None:
    desk, _ = a_desk(tmp_path)
    assert ask(desk, "routes", {"routes": []}, version=4).payload["status"] == "ok"
    refused = ask(desk, "routes", {"routes": [SALES]}, version=4).payload
    assert refused["error_code"] == "VERSION_CONFLICT"
    assert refused["version"] == 4
    assert desk.state.routes == ()


@pytest.mark.parametrize("version", [1, 3, 5, 99])
def test_stale_and_future_versions_are_answered(tmp_path: Path, version: int) -> None:
    desk, region = a_desk(tmp_path)
    assert ask(desk, "routes", {"routes": []}, version=version).payload["error_code"] == "VERSION_CONFLICT"
    assert not region.states


def test_no_change_is_answered_and_touches_nothing(tmp_path: Path) -> None:
    desk, region = a_desk(tmp_path, TroubledDisk(1, Crash()))
    vpns = {"vpns": plain(desk.state)["vpns"]}
    for subsystem in ("vpn", "vpns"):
        answer = ask(desk, subsystem, vpns)
        assert answer.payload == {
            "subsystem": subsystem, "version": 3, "status": "ok", "hive": "hive", "changed": False,
        }  # fmt: skip
    assert not region.states


def test_a_dry_run_tells_and_changes_nothing(tmp_path: Path) -> None:
    desk, region = a_desk(tmp_path)
    assert ask(desk, "routes", {"routes": []}, dry_run=True).payload["changed"] is True
    assert desk.state.version == 3
    assert not region.states


@pytest.mark.goal("G14")
@pytest.mark.parametrize("name", ["AI.x@hive", "IO.SY.x@hive", "", "sy.admin@hive", "RTX@hive"])
def test_only_system_accounts_change_the_configuration(tmp_path: Path, name: str) -> None:
    desk, _ = a_desk(tmp_path)
    request = {"subsystem": "routes", "config": {"routes": []}}
    assert desk.change(request, name, 5, AT).payload["error_code"] == "FORBIDDEN"


@given(payload=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["subsystem", "version", "config", "action", "routes", "route", "vpns", "grants", "limits",
                         "prefix", "pattern", "uid", "vpn_id"]) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_payload_gets_exactly_one_answer(
    tmp_path_factory: pytest.TempPathFactory, payload: object
) -> None:
    desk, _ = a_desk(tmp_path_factory.getbasetemp())
    answer = desk.change(payload, ADMIN, 5, AT)
    assert answer.payload["status"] in ("ok", "error")
    assert answer.payload["version"] == desk.state.version


@pytest.mark.goal("G5")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failing_disk_call_is_answered_and_nothing_is_applied(tmp_path: Path, code: int) -> None:
    nth, refused = 0, 0
    while True:
        nth += 1
        ConfigStore(tmp_path).save(a_state(), AT)
        disk = TroubledDisk(nth, OSError(code, "trouble"))
        desk, region = a_desk(tmp_path, disk)
        answer = ask(desk, "routes", {"routes": []})
        if answer.payload["status"] == "ok":
            if answer.warnings:
                assert "second copy" in answer.warnings[0]
                continue
            break
        refused += 1
        assert answer.payload["error_code"] == "PERSIST_FAILED"
        assert (desk.state, region.states) == (a_state(), [])
        assert ConfigStore(tmp_path).load().state == a_state()
    assert refused >= 6


@pytest.mark.goal("G5")
def test_after_a_failed_fsync_the_store_takes_nothing_more(tmp_path: Path) -> None:
    desk, _ = a_desk(tmp_path, TroubledDisk(3, OSError(errno.EIO, "trouble")))
    for _ in range(2):
        assert ask(desk, "routes", {"routes": []}).payload["error_code"] == "PERSIST_FAILED"


def test_a_region_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    desk, region = a_desk(tmp_path)
    region.trouble = RegionError("NO_SPACE", "config", "free /dev/shm")
    answer = ask(desk, "routes", {"routes": []})
    assert answer.payload["error_code"] == "APPLY_FAILED"
    assert "nothing was changed" in answer.payload["error_detail"]
    assert ConfigStore(tmp_path).load().state == desk.state == a_state()


# -- single-entry actions ----------------------------------------------------------------------------------------


def test_admin_actions_list_add_and_delete(tmp_path: Path) -> None:
    desk, region = a_desk(tmp_path)
    vpn = {"pattern": "IO.*", "vpn_id": 9}
    assert desk.admin("add_vpn", vpn, ADMIN, 5, AT).payload == {
        "status": "ok",
        "config_version": 4,
        "vpn": vpn,
    }
    assert [rule["vpn_id"] for rule in desk.admin("list_vpns", {}, "AI.x@hive", 5, AT).payload["vpns"]] == [
        7,
        9,
    ]
    assert desk.admin("delete_route", {"prefix": "AI.sales"}, ADMIN, 5, AT).payload["status"] == "ok"
    assert [state.version for state in region.states] == [4, 5]


@pytest.mark.parametrize(
    ("action", "payload", "code"),
    [
        ("add_route", DROP, "DUPLICATE_PREFIX"),
        ("delete_route", {}, "NOT_FOUND"),
        ("delete_vpn", None, "NOT_FOUND"),
        ("restart", {}, "UNKNOWN_ACTION"),
        ("add_grant", {}, "UNKNOWN_ACTION"),
    ],
)
def test_admin_refusals(tmp_path: Path, action: str, payload: object, code: str) -> None:
    desk, _ = a_desk(tmp_path)
    assert desk.admin(action, payload, ADMIN, 5, AT).payload["error_code"] == code


def test_a_broken_store_is_an_error_of_its_own(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path, TroubledDisk(3, OSError(errno.EIO, "trouble")))
    for _ in range(2):
        with pytest.raises(StoreBroken):
            store.save(a_state(), AT)


def test_the_sealed_form_is_readable() -> None:
    text = sealed(a_state(), AT).decode()
    assert "\nversion: 3\n" in text
    assert "- prefix: AI.bad.*\n" in text
