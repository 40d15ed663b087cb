"""What a router keeps on disk: its uuid stays, its epoch grows, and a full disk is no reason not to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from skep_router import state


def test_the_uuid_stays_and_the_epoch_grows(tmp_path: Path) -> None:
    first, second = state.start(tmp_path, "RT.a"), state.start(tmp_path, "RT.a")
    assert first.uuid == second.uuid
    assert (first.epoch, second.epoch) == (1, 2)
    assert state.start(tmp_path, "RT.b").uuid != first.uuid
    assert (tmp_path / "RT.a.router.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.goal("G4")
@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"uuid":"x","epoch":1}'])
def test_a_damaged_file_is_put_aside_and_the_epoch_is_above_any_count(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "RT.a.router.json"
    path.write_bytes(damage)
    assert state.start(tmp_path, "RT.a").epoch > 100_000
    assert [p.read_bytes() for p in tmp_path.glob("*.damaged-*")] == [damage]


@pytest.mark.goal("G5")
def test_a_disk_that_takes_nothing_is_told_and_the_router_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = state.start(tmp_path, "RT.a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_atomic", full)
        during = state.start(tmp_path, "RT.a")
    assert during.uuid == before.uuid
    assert during.epoch > 100_000
    assert "No space left" in capfd.readouterr().err
