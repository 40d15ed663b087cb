"""A client of sockets and json, written from docs/wire.md alone, against a real router."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.plain_client import PlainClient
from skep_shm import ConfigState, ConfigWriter, Grant
from support.hives import HiveFolder, RouterProcess, run_as
from support.wait import eventually

GUEST = 4242


@pytest.fixture
def config(hive_folder: HiveFolder) -> Iterator[ConfigWriter]:
    writer = ConfigWriter.create(hive_folder.root, hive_folder.hive_id)
    writer.publish(ConfigState(version=1))
    yield writer
    writer.close()


@pytest.fixture
def path(config: ConfigWriter, router: RouterProcess) -> Path:
    return router.socket


def test_it_registers_sends_and_receives(path: Path) -> None:
    alice, bob = PlainClient(str(path), "IO.alice"), PlainClient(str(path), "AI.bob")
    assert (alice.name, alice.router_name) == ("IO.alice@test", "RT.main@test")
    trace = alice.send("AI.bob", "user", {"text": "hello"}, thread_id="t1")
    message = bob.receive()
    assert (message["routing"]["src"], message["routing"]["src_l2_name"]) == (alice.uuid, "IO.alice@test")
    assert (message["routing"]["trace_id"], message["payload"]) == (trace, {"text": "hello"})
    bob.send(message["routing"]["src"], "user", {"text": "hi"}, trace=trace)
    assert alice.receive()["payload"] == {"text": "hi"}
    for client in (alice, bob):
        client.close()


def test_it_is_told_what_does_not_arrive(path: Path) -> None:
    client = PlainClient(str(path), "IO.alice")
    trace = client.send("AI.nobody", "user", {})
    told = client.receive()
    assert (told["meta"]["msg"], told["routing"]["trace_id"]) == ("UNREACHABLE", trace)
    assert (told["payload"]["reason"], told["payload"]["original_dst"]) == ("NODE_NOT_FOUND", "AI.nobody")
    client.send("IO.alice", "user", {}, ttl=0)
    told = client.receive()
    assert told["meta"]["msg"] == "TTL_EXCEEDED"
    assert told["payload"]["last_hop"].startswith("router:")
    client.close()


def test_withdraw_frees_the_name_after_what_was_said(path: Path) -> None:
    bob, alice = PlainClient(str(path), "AI.bob"), PlainClient(str(path), "IO.alice")
    for number in range(200):
        alice.send("AI.bob", "user", number)
    alice.close()
    assert [bob.receive()["payload"] for _ in range(200)] == list(range(200))

    def gone() -> bool:
        bob.send("IO.alice", "user", {})
        return bob.receive()["payload"]["reason"] == "NODE_NOT_FOUND"

    eventually(gone)
    bob.close()


@pytest.mark.needs("root")
@pytest.mark.goal("G14")
def test_another_uid_needs_a_grant_and_nothing_else(config: ConfigWriter, path: Path) -> None:
    def refused() -> None:
        with pytest.raises(ConnectionError, match="NAME_NOT_GRANTED"):
            PlainClient(str(path), "IO.guest")

    def welcome() -> None:
        guest = PlainClient(str(path), "IO.guest")
        guest.send("IO.guest", "user", {"to": "myself"})
        assert guest.receive()["payload"] == {"to": "myself"}
        guest.close()

    assert run_as(GUEST, refused) == 0
    config.publish(ConfigState(version=2, grants=(Grant(GUEST, "IO.guest"),)))
    eventually(lambda: run_as(GUEST, welcome) == 0)
    config.publish(ConfigState(version=3))
    eventually(lambda: run_as(GUEST, refused) == 0)
