"""The spool: bounded, rotated, readable after damage, every loss counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep_nodes.sy.spool import Spool, read_losses, read_records, spool_files


def everything(folder: Path) -> list[bytes]:
    return [record for path in spool_files(folder) for record in read_records(path)]


@given(records=st.lists(st.binary(max_size=90), max_size=40))
@settings(max_examples=40, deadline=None)
def test_what_is_kept_plus_what_is_lost_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, file_bytes_max=200, files_max=3)
    for record in records:
        assert spool.append(record)
    kept = everything(folder)
    assert kept == records[len(records) - len(kept) :]
    assert len(kept) + spool.lost_count == len(records)
    assert len(spool_files(folder)) <= 3
    assert sum(path.stat().st_size for path in spool_files(folder)) <= 3 * 200
    spool.close()


def test_a_restart_goes_on_in_a_new_file_and_keeps_the_count(tmp_path: Path) -> None:
    for name in (b"a", b"b"):
        spool = Spool(tmp_path)
        spool.append(name)
        assert not spool.append(bytes((1 << 20) + 1))
        spool.close()
    assert everything(tmp_path) == [b"a", b"b"]
    assert read_losses(tmp_path) == 2


@pytest.mark.goal("G4")
def test_damage_ends_a_file_and_no_damaged_record_is_served(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for record in (b"one", b"two", b"three"):
        spool.append(record)
    spool.close()
    [path] = spool_files(tmp_path)
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        mutable = bytearray(data)
        mutable[bit // 8] ^= 1 << bit % 8
        path.write_bytes(mutable)
        assert set(read_records(path)) < {b"one", b"two", b"three"}
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        assert list(read_records(path)) == [b"one", b"two", b"three"][: (cut >= 11) + (cut >= 22)]
