"""Asking routers: who runs the new policy, who refused it, and whose silence is named."""

from __future__ import annotations

from typing import Any

from skep_nodes.sy.opa_routers import Router, collect, row_of

MAIN, EDGE = Router("RT.main@h", bytes(16)), Router("RT.edge@h", bytes(15) + b"\1")


class Hive:
    """Routers that answer from a script; the last answer repeats."""

    def __init__(self, **scripts: list[dict[str, Any] | None]) -> None:
        self.scripts = scripts
        self.asked = 0

    async def ask(self, router: str, seconds: float) -> dict[str, Any] | None:
        assert 0 < seconds <= 1
        self.asked += 1
        script = self.scripts[router.partition("@")[0].removeprefix("RT.")]
        policy = script.pop(0) if len(script) > 1 else script[0]
        return None if policy is None else {"schema": "skep.router-stats/1", "policy": policy}


def runs(version: int, load: int = 0, **more: Any) -> dict[str, Any]:
    return {"version": version, "load_status": load, "error": "", **more}


async def test_routers_are_asked_until_they_run_it() -> None:
    hive = Hive(main=[runs(1, 2), runs(1, 2), runs(2)], edge=[runs(2)])
    found = await collect([MAIN, EDGE], hive.ask, 2, 2.0)
    assert [(row["router"], row["policy_version"], row["status"]) for row in found.rows] == [
        ("RT.main@h", 2, "ok"),
        ("RT.edge@h", 2, "ok"),
    ]
    assert (found.pending, found.failed, hive.asked) == ([], [], 4)


async def test_silence_and_lateness_are_named() -> None:
    hive = Hive(main=[None], edge=[runs(1)])
    found = await collect([MAIN, EDGE], hive.ask, 2, 0.05)
    assert found.pending == ["RT.main@h", "RT.edge@h"]
    assert "does not answer" in found.rows[0]["error"]
    assert found.rows[1]["policy_version"] == 1


async def test_a_router_that_refuses_it_says_why_at_once() -> None:
    hive = Hive(main=[runs(1, 1, error="SIGNATURE_INVALID: no", refused_version=2)])
    found = await collect([MAIN], hive.ask, 2, 5.0)
    assert (found.failed, found.pending, hive.asked) == (["RT.main@h"], [], 1)
    assert found.rows[0]["error"] == "SIGNATURE_INVALID: no"


async def test_trouble_with_an_older_version_is_not_taken_for_the_new_one() -> None:
    stale = runs(1, 1, error="old trouble", refused_version=2)
    hive = Hive(main=[stale, stale, runs(3)])
    found = await collect([MAIN], hive.ask, 3, 5.0)
    assert (found.rows[0]["status"], hive.asked) == ("ok", 3)


async def test_a_newer_version_than_the_asked_one_is_fine() -> None:
    assert (await collect([MAIN], Hive(main=[runs(7)]).ask, 2, 1.0)).pending == []


def test_nonsense_of_a_router_is_no_version() -> None:
    for policy in ({"version": "2"}, {"version": None}, {}):
        assert row_of(MAIN, policy, 2)["status"] == "pending"
    assert row_of(MAIN, {"version": 2, "load_status": 0}, 0)["status"] == "ok"
    assert row_of(MAIN, {"version": 2, "load_status": 1}, 0)["status"] == "ok", (
        "it runs one, whatever it refused"
    )


async def test_trouble_that_names_no_version_counts_when_it_lasts() -> None:
    hive = Hive(main=[runs(1, 1, error="old trouble"), runs(2)], edge=[runs(1, 1, error="new trouble")])
    found = await collect([MAIN, EDGE], hive.ask, 2, 0.1)
    assert [row["status"] for row in found.rows] == ["ok", "error"]
    assert found.failed == ["RT.edge@h"]


async def test_a_hive_without_routers_has_nobody_to_wait_for() -> None:
    found = await collect([], Hive().ask, 2, 1.0)
    assert (found.rows, found.pending) == ([], [])
