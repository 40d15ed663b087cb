"""Who speaks on a channel: look-up, question, bounds, and what channels do with it."""

from __future__ import annotations

import asyncio
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from nodes.cloud import text, webhook
from nodes.test_io_http import door
from nodes.test_io_whatsapp import line
from nodes.web import StandInHive
from skep.errors import DeliveryError, RequestTimeout
from skep.protocol.codes import Reason
from skep.protocol.names import thread_id_channel, thread_id_v3
from skep_nodes.io import provision as module
from skep_nodes.io.http_client import Retry
from skep_nodes.io.provision import KEY_FILE, Provision, open_provision, thread_of
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused, IdentityVoice
from skep_nodes.io.settings import SettingsError
from skep_shm import ChannelRecord, ChannelsWriter, channel_key
from support.hives import HIVE_ID, HiveFolder
from support.wait import eventually_async

ANA, BOB = (f"ilk:{uuid.UUID(int=number)}" for number in (1, 2))
TENANT, OTHER = (f"tnt:{uuid.UUID(int=number)}" for number in (8, 9))
SECRET = bytes(range(32))
ADDRESS = "+34600111222"


def identity(to: str, payload: Any, options: dict[str, Any]) -> Any:
    """SY.identity's part of a stand-in hive; everybody else says what the http desk says."""
    if to != "SY.identity":
        return {"type": "text", "content": "hello"}
    if options["verb"] == "ILK_GET":
        return {"status": "ok", "ilk": {"tenant_id": TENANT}}
    return {"status": "ok", "ilk_id": ANA, "registration_status": "temporary"}


async def no_sleep(_seconds: float) -> None:
    return None


def voice(hive: StandInHive) -> IdentityVoice:
    return IdentityVoice(hive, sleep=no_sleep)


def told(root: Path) -> Path:
    """A hive that was told who is who."""
    (root / "config").mkdir(exist_ok=True)
    (root / "config" / "identity.yaml").write_text("agents: []\n")
    return root


# ---- asking ----------------------------------------------------------------------------------------------------


async def test_a_question_is_repeated_until_it_is_answered() -> None:
    hive = StandInHive(identity)
    hive.errors = [DeliveryError(Reason.NODE_NOT_FOUND), RequestTimeout(3.0)]
    assert (await voice(hive).ask("ILK_PROVISION", {}))["ilk_id"] == ANA
    assert len(hive.sent) == 1


async def test_a_no_is_final_and_silence_has_an_end() -> None:
    refusing = StandInHive(lambda *_: {"status": "error", "error_code": "TENANT_SUSPENDED", "message": "shut"})
    with pytest.raises(IdentityRefused, match="TENANT_SUSPENDED: shut"):
        await voice(refusing).ask("ILK_PROVISION", {})
    assert len(refusing.sent) == 1
    for answer in ({"status": "error", "error_code": "BUSY"}, {"status": "error", "error_code": "DB_NOT_READY"}):
        busy = StandInHive(lambda *_, answer=answer: answer)
        with pytest.raises(IdentityAway):
            await voice(busy).ask("ILK_PROVISION", {})
        assert len(busy.sent) == 4
    silent = StandInHive(identity)
    silent.errors = [RequestTimeout(3.0) for _ in range(9)]
    with pytest.raises(IdentityAway) as away:
        await IdentityVoice(silent, sleep=no_sleep, attempts=Retry(3, 0, 0)).ask("ILK_PROVISION", {})
    assert away.value.timed_out
    assert len(silent.errors) == 6
    with pytest.raises(IdentityRefused, match="INVALID_ANSWER"):
        await voice(StandInHive(lambda *_: "what?")).ask("ILK_PROVISION", {})


# ---- looking up ------------------------------------------------------------------------------------------------


async def test_who_is_known_costs_no_question(hive_folder: HiveFolder) -> None:
    path = hive_folder.root / KEY_FILE
    path.parent.mkdir(parents=True)
    path.write_text(SECRET.hex() + "\n")
    writer = ChannelsWriter.create(hive_folder.root, HIVE_ID)
    writer.fill(())
    tenant = uuid.UUID(TENANT.removeprefix("tnt:")).bytes
    key = channel_key(SECRET, "whatsapp", ADDRESS, tenant)
    writer.put(ChannelRecord(key, uuid.UUID(int=2).bytes, tenant, "whatsapp"))
    hive = StandInHive(identity)
    look = Provision(told(hive_folder.root), voice(hive))
    assert look.present
    assert await look.speaker("whatsapp", "+34 600 111 222", TENANT) == BOB
    assert hive.sent == []
    assert await look.speaker("whatsapp", ADDRESS, OTHER) == ANA, "another tenant's is another's"
    assert await look.speaker("email", ADDRESS, TENANT) == ANA, "and so is another kind's"
    assert [payload["tenant_id"] for _, payload, _ in hive.sent] == [OTHER, TENANT]
    hive.sent.clear()
    assert await look.speaker("whatsapp", "+1") == ANA
    assert await look.speaker("whatsapp", ADDRESS) == BOB, "the default tenant is known from then on"
    assert [options["verb"] for _, _, options in hive.sent] == ["ILK_PROVISION", "ILK_GET"]
    look.close()
    writer.close()


async def test_what_cannot_be_looked_up_is_asked_for(tmp_path: Path) -> None:
    hive = StandInHive(identity)
    look = Provision(tmp_path, voice(hive), "on")
    assert await look.speaker("whatsapp", ADDRESS, TENANT) == ANA
    assert look.counters["unreadable"] == 1
    with pytest.raises(IdentityRefused, match="skep tenant ls"):
        await look.speaker("whatsapp", ADDRESS, "acme")


async def test_one_address_is_asked_about_once_and_a_flood_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    hive = StandInHive(identity, gate=asyncio.Event())
    look = Provision(tmp_path, voice(hive), "on")
    first = [asyncio.create_task(look.speaker("whatsapp", "+1", TENANT)) for _ in range(5)]
    second = asyncio.create_task(look.speaker("whatsapp", "+2", TENANT))
    await eventually_async(lambda: len(hive.sent) == 2)
    with pytest.raises(IdentityAway, match="2 others wait"):
        await look.speaker("whatsapp", "+3", TENANT)
    for impatient in first[:2]:  # whoever gives up ends nobody else's question
        impatient.cancel()
    hive.gate.set()  # type: ignore[union-attr]
    assert await asyncio.gather(*first[2:], second) == [ANA] * 4
    assert len(hive.sent) == 2
    assert await look.speaker("whatsapp", "+3", TENANT) == ANA


def test_a_hive_has_identity_when_somebody_said_who_is_who(tmp_path: Path) -> None:
    speak = voice(StandInHive())
    assert not Provision(tmp_path, speak).present
    assert not Provision(tmp_path, speak, tenants=[TENANT]).present, "no SY.identity ever ran here"
    (tmp_path / KEY_FILE).parent.mkdir(parents=True)
    (tmp_path / KEY_FILE).write_text("")
    assert Provision(tmp_path, speak, tenants=[TENANT]).present
    assert not Provision(tmp_path, speak, tenants=["", "label"]).present
    assert Provision(tmp_path, speak, "on").present
    assert Provision(told(tmp_path), speak).present
    assert not Provision(tmp_path, speak, "off").present


@pytest.mark.goal("G14")
def test_threads_hold_the_tenant_and_v2_is_refused_where_it_would_mix_two() -> None:
    assert thread_of("v3", TENANT, "api", "a", "b") == thread_id_v3(TENANT, "api", "a", "b")
    assert thread_of("v3", TENANT, "api", "a", "b") != thread_of("v3", OTHER, "api", "a", "b")
    assert thread_of("v3", "", "api", "a|b", "c") != thread_of("v3", "", "api", "a", "b|c")
    assert thread_of("v2", TENANT, "api", "a", "b") == thread_id_channel("api", "a", "b")
    hive: Any = type("Hive", (), {"root": Path("/nowhere")})()
    node: Any = StandInHive()
    open_provision(node, hive, "auto", "v2", [(TENANT, "a"), (OTHER, "b")])
    with pytest.raises(SettingsError, match="several tenants share 'a'"):
        open_provision(node, hive, "auto", "v2", [(TENANT, "a"), (OTHER, "a")])
    for mode, threads in (("perhaps", "v3"), ("auto", "v1")):
        with pytest.raises(SettingsError, match="must be one of"):
            open_provision(node, hive, mode, threads, [])


# ---- in the channels -------------------------------------------------------------------------------------------


async def test_whatsapp_sends_as_the_customer_to_nobody_in_particular(tmp_path: Path) -> None:
    hive = StandInHive(identity)
    async with line(hive, provision=Provision(told(tmp_path), voice(hive)), tenants=(TENANT, OTHER)) as a:
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: len(hive.sent) == 2)
        (asked_of, asked, _), (to, _, options) = hive.sent
        assert (asked_of, asked["channel_type"], asked["address"]) == ("SY.identity", "whatsapp", ADDRESS)
        assert asked["tenant_id"] == TENANT
        assert (to, options["src_ilk"]) == (None, ANA)


async def test_a_customer_whom_nobody_can_tell_is_told_and_may_try_again(tmp_path: Path) -> None:
    hive = StandInHive(identity)
    async with line(hive, provision=Provision(told(tmp_path), voice(hive)), tenants=(TENANT, OTHER)) as a:
        hive.errors = [DeliveryError(Reason.NODE_NOT_FOUND) for _ in range(4)]
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: a.told() == [a.channel.settings.unreachable])
        assert hive.sent == [], "nothing goes on without knowing who speaks"
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: [to for to, _, _ in hive.sent] == ["SY.identity", None])


async def test_http_whose_key_names_no_tenant_sends_nothing(tmp_path: Path) -> None:
    hive = StandInHive(identity)
    async with door(hive, provision=Provision(told(tmp_path), voice(hive), "on")) as a:
        reply = await a.post({"subject": {"external_user_id": "u1"}, "message": {"text": "hi"}})
        assert (reply.status, reply.code) == (403, "tenant_not_found"), "its key names a tenant that is none"
        assert hive.sent == []


async def test_http_says_why_nobody_is_known(tmp_path: Path) -> None:
    keys = {"ta": TENANT, "tb": OTHER}
    hive = StandInHive(identity)
    body = {"subject": {"external_user_id": "u1"}, "message": {"text": "hi", "external_message_id": "m1"}}
    async with door(hive, tenants=keys, provision=Provision(told(tmp_path), voice(hive))) as a:
        hive.errors = [RequestTimeout(3.0) for _ in range(4)]
        assert (await a.post(body)).code == "identity_timeout"
        hive.errors = [DeliveryError(Reason.NODE_NOT_FOUND) for _ in range(4)]
        assert (await a.post(body)).code == "identity_unavailable"
        assert (await a.post(body)).status == 200, "the same message is tried afresh"
        (_, asked, _), (to, _, options) = hive.sent
        assert asked["address"] == "7:default:u1"
        assert (asked["channel_type"], asked["tenant_id"]) == ("api", TENANT)
        assert (to, options["src_ilk"]) == (None, ANA)
        hive.answer = lambda *_: {"status": "error", "error_code": "CHANNEL_NOT_GRANTED", "message": "no"}
        refused = await a.post({"subject": {"external_user_id": "u2"}, "message": {"text": "hi"}})
        assert (refused.status, refused.code) == (403, "identity_refused")


async def test_http_introduces_a_subject_whose_data_came_along(tmp_path: Path) -> None:
    results: list[Any] = [
        {"status": "error", "result_code": "REGISTER_FAILED", "error_detail": "DUPLICATE_EMAIL: known"},
        {"status": "needs_input", "result_code": "MISSING_REQUIRED_FIELDS"}, "what?",
        {"status": "ok", "result_code": "REGISTERED"},
    ]  # fmt: skip

    def answer(to: str, payload: Any, options: dict[str, Any]) -> Any:
        return results.pop(0) if to == "SY.frontdesk.gov" else identity(to, payload, options)

    hive = StandInHive(answer)
    keys = {"ta": TENANT, "tb": OTHER}
    subject = {"external_user_id": "u1", "display_name": "Ana Ruiz", "email": "ana@example.org"}
    body = {"subject": subject, "message": {"text": "hi", "external_message_id": "m1"}}
    async with door(hive, tenants=keys, provision=Provision(told(tmp_path), voice(hive))) as a:
        for status, code in (
            (502, "register_failed"), (422, "missing_required_fields"), (502, "invalid_frontdesk_response"),
        ):  # fmt: skip
            reply = await a.post(body)
            assert (reply.status, reply.code) == (status, code)
        assert (await a.post(body)).status == 200
        handed = [(payload, options) for to, payload, options in hive.sent if to == "SY.frontdesk.gov"]
        assert {options["src_ilk"] for _, options in handed} == {ANA}
        assert handed[-1][0]["subject"] == {"display_name": "Ana Ruiz", "email": "ana@example.org"}
        body["message"] = {"text": "again"}
        assert (await a.post(body)).status == 200
        assert results == [], "asked once for a person"


@pytest.mark.goal("G14")
def test_ten_thousand_threads_of_two_tenants_never_meet() -> None:
    """Parts that imitate boundaries, tenants that are each other's beginnings: every id belongs to one place."""
    rng = random.Random(4)
    words = ["a", "b", "|", "=", "a|b", "tenant=a", "\x00", "é", TENANT, OTHER, TENANT[:-1], "entrypoint_id=-", "v2"]
    places: dict[str, tuple[str, ...]] = {}
    for _ in range(10_000):
        place = tuple("".join(rng.choices(words, k=rng.randrange(1, 4))) for _ in range(4))
        if all(part.strip() for part in place):
            thread = thread_of("v3", *place)
            assert places.setdefault(thread, place) == place
    assert len(places) > 5_000
