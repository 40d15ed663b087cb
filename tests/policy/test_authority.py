"""The hive's key: made once, kept private, bound to contexts, and verified strictly."""

from __future__ import annotations

import base64
import copy
import multiprocessing
import os
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol.errors import PolicyError
from skep_policy import authority as module
from skep_policy.authority import KEY_PATH, PUBLIC_PATH, Authority, fingerprint, public_key, verify

SEED = bytes(range(32))
KEY = Authority(SEED)


def made(root: Path) -> Authority:
    return Authority.load_or_create(root)


def test_the_first_start_makes_the_pair_and_the_next_finds_it(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert public_key(tmp_path) == first.public == made(tmp_path).public
    assert stat.S_IMODE((tmp_path / KEY_PATH).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / KEY_PATH).parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / PUBLIC_PATH).stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "authority.pub",
        "hive.key",
    ]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / KEY_PATH).stat().st_mode) == 0o600


def _make_and_send(root: Path, barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put(Authority.load_or_create(root).public)  # type: ignore[attr-defined]


def test_processes_that_start_together_end_up_with_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    makers = [context.Process(target=_make_and_send, args=(tmp_path, barrier, queue)) for _ in range(4)]
    for maker in makers:
        maker.start()
    found = {queue.get(timeout=20) for _ in makers}
    for maker in makers:
        maker.join(20)
    assert found == {public_key(tmp_path)}


def test_a_crash_between_the_two_files_is_repaired(tmp_path: Path) -> None:
    key = made(tmp_path)
    (tmp_path / PUBLIC_PATH).unlink()
    (tmp_path / KEY_PATH).with_name("hive.key.new").write_bytes(b"half")
    assert made(tmp_path).public == key.public == public_key(tmp_path)


def code_of(root: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        made(root)
    assert SEED.hex() not in str(caught.value)
    return caught.value.code


def test_a_lost_key_is_never_replaced_by_itself(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / KEY_PATH).unlink()
    assert code_of(tmp_path) == "KEY_MISSING"
    (tmp_path / PUBLIC_PATH).unlink()
    made(tmp_path)


@pytest.mark.goal("G21")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o001])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    made(tmp_path)
    (tmp_path / KEY_PATH).chmod(mode)
    assert code_of(tmp_path) == "KEY_EXPOSED"


def test_a_key_that_is_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / KEY_PATH
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        made(tmp_path)
    path.unlink()
    path.mkdir()
    assert code_of(tmp_path) == "KEY_DAMAGED"


@pytest.mark.goal("G4")
def test_every_flipped_bit_and_every_cut_of_the_key_is_noticed(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / KEY_PATH
    whole = path.read_bytes()
    for index in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :])
            assert code_of(tmp_path) == "KEY_DAMAGED", (index, bit)
        path.write_bytes(whole[:index])
        assert code_of(tmp_path) == "KEY_DAMAGED", index
    path.write_bytes(whole + b"x")
    assert code_of(tmp_path) == "KEY_DAMAGED"


@pytest.mark.goal("G4")
def test_a_damaged_public_half_is_refused_to_readers_and_repaired_by_the_owner(tmp_path: Path) -> None:
    key = made(tmp_path)
    path = tmp_path / PUBLIC_PATH
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(PolicyError, match="KEY_DAMAGED"):
            public_key(tmp_path)
    made(tmp_path)
    assert public_key(tmp_path) == key.public
    path.unlink()
    with pytest.raises(PolicyError, match="KEY_MISSING"):
        public_key(tmp_path)


def test_halves_of_different_hives_do_not_start(tmp_path: Path) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b")
    (tmp_path / "a" / PUBLIC_PATH).write_bytes((tmp_path / "b" / PUBLIC_PATH).read_bytes())
    assert code_of(tmp_path / "a") == "KEY_MISMATCH"


def test_the_private_file_is_not_taken_for_the_public_one(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / PUBLIC_PATH).write_bytes((tmp_path / KEY_PATH).read_bytes())
    with pytest.raises(PolicyError, match="KEY_DAMAGED"):
        public_key(tmp_path)


@pytest.mark.goal("G21")
def test_the_private_half_leaves_the_module_in_no_form() -> None:
    told = f"{KEY!r} {KEY} {KEY.public!r} {KEY.fingerprint()} {vars(type(KEY)).keys()}"
    forms = (SEED.hex(), base64.b64encode(SEED).decode(), repr(SEED)[2:-1], SEED.decode("latin-1"))
    assert not [form for form in forms if form in told]
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    with pytest.raises(TypeError):
        copy.deepcopy(KEY)


# -- signatures --------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=64), other=st.binary(max_size=64))
def test_a_signature_is_worth_something_only_for_its_bytes_and_its_context(data: bytes, other: bytes) -> None:
    signature = KEY.sign("bundle", data)
    assert verify(KEY.public, "bundle", data, signature)
    assert not verify(KEY.public, "seal", data, signature)
    assert verify(KEY.public, "bundle", other, signature) == (other == data)


def test_context_and_data_cannot_be_shifted_into_each_other() -> None:
    signature = KEY.sign("ab", b"c")
    assert not verify(KEY.public, "a", b"bc", signature)
    assert not verify(KEY.public, "abc", b"", signature)
    for context in ("", "x" * 65):
        with pytest.raises(ValueError, match="context"):
            KEY.sign(context, b"")


@pytest.mark.goal("G17")
def test_every_flipped_bit_of_a_signature_or_a_key_is_refused() -> None:
    signature = KEY.sign("bundle", b"data")
    for index in range(64):
        for bit in range(8):
            flipped = bytearray(signature)
            flipped[index] ^= 1 << bit
            assert not verify(KEY.public, "bundle", b"data", bytes(flipped))
    for index in range(32):
        public = bytearray(KEY.public)
        public[index] ^= 1
        assert not verify(bytes(public), "bundle", b"data", signature)


def test_a_signature_has_one_length_and_one_encoding() -> None:
    signature = KEY.sign("bundle", b"data")
    s = int.from_bytes(signature[32:], "little") + module.GROUP_ORDER
    malleable = signature[:32] + s.to_bytes(32, "little")
    for wrong in (b"", signature[:-1], signature + b"\0", malleable, bytes(64)):
        assert not verify(KEY.public, "bundle", b"data", wrong)
    assert not verify(KEY.public[:-1], "bundle", b"data", signature)


def test_points_of_small_order_are_refused_as_keys_and_in_signatures() -> None:
    signature = KEY.sign("bundle", b"data")
    for y in [*small_order_ys(), module.FIELD_PRIME, module.FIELD_PRIME + 1]:
        for sign_of_x in (0, 1 << 255):
            point = (y | sign_of_x).to_bytes(32, "little")
            assert not verify(point, "bundle", b"data", point + bytes(32))
            assert not verify(KEY.public, "bundle", b"data", point + signature[32:])


def small_order_ys() -> set[int]:
    """y of all points P with 8 P = 0, by walking multiples of any point of the curve outside the prime-order group."""
    p = module.FIELD_PRIME
    d = -121665 * pow(121666, -1, p) % p

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        t = d * a[0] * b[0] * a[1] * b[1] % p
        x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + t, -1, p)
        return x % p, (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, p) % p

    def times(number: int, point: tuple[int, int]) -> tuple[int, int]:
        total = (0, 1)
        for bit in bin(number)[2:]:
            total = add(total, total)
            total = add(total, point) if bit == "1" else total
        return total

    def root(square: int) -> int | None:
        x = pow(square, (p + 3) // 8, p)
        x = x if x * x % p == square else x * pow(2, (p - 1) // 4, p) % p
        return x if x * x % p == square else None

    found: set[int] = set()
    for y in range(2, 40):
        x = root((y * y - 1) * pow(d * y * y + 1, -1, p) % p)
        if x is not None:
            torsion = times(module.GROUP_ORDER, (x, y))
            found |= {times(multiple, torsion)[1] for multiple in range(8)}
    return found


def test_the_small_order_points_are_all_of_them() -> None:
    assert small_order_ys() == module.SMALL_ORDER_Y


def test_vectors_of_rfc_8032_hold_for_the_library_we_build_on() -> None:
    """Section 7.1, test 1: our seed handling is theirs; our messages carry a context, so only the key compares."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert Authority(seed).public.hex() == public
    assert len(fingerprint(bytes.fromhex(public))) == 16
