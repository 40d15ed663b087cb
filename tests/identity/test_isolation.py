"""Ten thousand cross-tenant attempts through each door that is not the router's: SY.identity, the regions as other
users, IO.http with its duplicates and keys, and the documents of AI.desk. Nobody gets through. (The router's own are in
hostile/test_policy.py, threads in nodes/test_io_provision.py.)"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from identity.attempts import SEED, attempts, settled, succeeded
from identity.parts import HIVE, Office
from identity.parts import office as make_office
from nodes.web import StandInHive
from skep_nodes.ai.desk import DeskSettings, TenantDocuments, tenant_desks
from skep_nodes.ai.index import Citation, CitationError, DocumentIndex, digest_of
from skep_nodes.ai.words import Lexicon
from skep_nodes.identity import ids
from skep_nodes.identity.publisher import KEY_FILE, Regions, read_key
from skep_nodes.identity.sqlite import SqliteStore
from skep_nodes.io import api_wire
from skep_nodes.io.callbacks import Callbacks
from skep_nodes.io.http_channel import HttpChannel, HttpSettings
from skep_nodes.io.http_server import Request, Response
from skep_nodes.io.store import ChannelStore
from skep_shm import hive_prefix
from support.hives import run_as

ATTEMPTS = 10_000
GROUP = 4321
RED, BLUE = ids.tenant_text(b"r" * 16), ids.tenant_text(b"b" * 16)


@pytest.mark.goal("G14")
async def test_no_question_to_identity_crosses_a_tenant(tmp_path: Path) -> None:
    async with make_office(SqliteStore(tmp_path / "identity.db"), tmp_path) as office:
        red, blue = await settled(office, "red"), await settled(office, "blue")
        before = await _everybody(office, blue.ilks)
        assert await succeeded(office, red, blue, list(attempts(red, blue, ATTEMPTS))) == []
        assert await _everybody(office, blue.ilks) == before, "and nothing of theirs was changed"


async def _everybody(office: Office, ilks: list[str]) -> list[dict[str, Any]]:
    return [await office.ok("ILK_GET", {"ilk_id": ilk}) for ilk in ilks]


# -- the regions ---------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
@pytest.mark.goal("G21")
async def test_no_other_user_opens_a_region_and_none_holds_a_name(tmp_path: Path) -> None:
    """Members of the group read; nobody else reads, and nobody but the owner writes, cuts, renames or removes."""
    tmp_path.chmod(0o755)
    key = read_key(tmp_path / KEY_FILE, GROUP)
    regions = Regions(tmp_path, HIVE, key, group=GROUP)
    try:
        async with make_office(SqliteStore(tmp_path / "identity.db"), tmp_path) as office:
            await regions.fill(office.service.store, [])
            office.service.publisher = regions
            marks = [mark for each in ("red", "blue") for mark in (await settled(office, each)).marks]
        files = [*Path("/dev/shm").glob(f"{hive_prefix(tmp_path).lstrip('/')}*")]
        assert len(files) >= 6, "an anchor and a segment of each"
        doors = [*files, tmp_path / KEY_FILE]
        shown = b"".join(path.read_bytes() for path in files)
        assert [mark for mark in marks if ":" not in mark and mark.encode() in shown] == []
        assert b"canary" not in shown.lower()
        assert run_as(0, lambda: _as_each(doors, ATTEMPTS)) == 0
    finally:
        regions.close()


def _as_each(files: list[Path], count: int) -> None:
    """As one user after the other, until so many attempts were made; raises for one that succeeds."""
    uid, made = 5000, 0
    while made < count:
        for member in (False, True):
            os.setegid(GROUP if member else uid)
            os.seteuid(uid)
            for path in files:
                for attempt in _ways(path, reading=not member):
                    made += 1
                    with pytest.raises(PermissionError):
                        attempt()
            os.seteuid(0)
        uid += 1


def _ways(path: Path, reading: bool) -> Iterator[Callable[[], object]]:
    yield lambda: os.open(path, os.O_RDWR)
    yield lambda: os.open(path, os.O_WRONLY | os.O_TRUNC)
    yield lambda: os.truncate(path, 0)
    yield lambda: path.unlink()
    yield lambda: path.rename(path.with_name("mine"))
    yield lambda: path.chmod(0o666)
    if reading:
        yield lambda: os.open(path, os.O_RDONLY)


# -- IO.http -------------------------------------------------------------------------------------------------------

TOKENS = {RED: "token-of-the-red-tenant", BLUE: "token-of-the-blue-tenant"}
PERSON = "ilk:11111111-1111-4111-8111-111111111111"


class Door:
    """IO.http without sockets; the hive answers each tenant's question with what only that tenant may read."""

    def __init__(self) -> None:
        self.hive = StandInHive(
            lambda to, payload, options: {"type": "text", "content": f"re {payload['content']}"}
        )
        keys = [
            {
                "key_id": tenant,
                "token": token,
                "tenant_id": tenant,
                "ilks": [PERSON] if tenant == BLUE else [],
            }
            for tenant, token in TOKENS.items()
        ]
        store = ChannelStore(None)
        callers = api_wire.callers_from({"api_keys": keys})
        self.routes = HttpChannel(
            HttpSettings(), callers, self.hive, store, Callbacks(store, {}, {})
        ).routes()

    async def ask(self, token: str, body: Any, key: str = "", method: str = "POST", **query: str) -> Response:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        headers |= {"idempotency-key": key} if key else {}
        path = "/messages" if method == "POST" else "/replies"
        request = Request(
            method, path, query, headers, json.dumps(body).encode() if method == "POST" else b""
        )
        route = self.routes[method, path]
        refused = route.guard(request) if route.guard is not None else None
        return refused if refused is not None else await route.handler(request)


def asked(text: str, number: int) -> dict[str, Any]:
    """One message of one conversation, with an id of its own: the same in both tenants but for the text."""
    options = {"metadata": {"conversation_id": f"c{number % 100}"}}
    return {"message": {"text": text, "external_message_id": f"m{number}"}, "options": options}


@pytest.mark.goal("G14")
async def test_no_request_to_the_api_crosses_a_tenant() -> None:
    """The other's message ids, idempotency keys, conversations, people and almost its key."""
    door, chance = Door(), random.Random(SEED)
    threads = {BLUE: set[str](), RED: set[str]()}
    for number in range(ATTEMPTS // 4):
        same = f"k{number}" if number % 2 else ""
        for tenant, token in TOKENS.items():
            secret = f"{'blue' if tenant == BLUE else 'red'} secret {number}"
            answer = await door.ask(token, asked(secret, number), same)
            body = json.loads(answer.body)
            assert (answer.status, body["message"]["text"]) == (200, f"re {secret}"), (
                "its own, not the other's"
            )
            threads[tenant].add(body["thread_id"])
        at = chance.randrange(len(TOKENS[BLUE]))
        almost = f"{TOKENS[BLUE][:at]}{chance.choice('xyz0')}{TOKENS[BLUE][at + 1 :]}"
        refused = await door.ask(almost if almost != TOKENS[BLUE] else "x", asked("let me in", number))
        assert refused.status == 401
        named = {**asked("as her", -number), "subject": {"ilk": PERSON}}
        assert (await door.ask(TOKENS[RED], named)).status in (403, 404, 422)
        heard = await door.ask(TOKENS[RED], None, method="GET", conversation_id=f"c{number % 100}")
        assert b"blue" not in heard.body
    assert not threads[BLUE] & threads[RED]
    assert len(door.hive.sent) == ATTEMPTS // 2, "none shadowed another"


# -- documents -----------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
async def test_no_document_of_another_tenant_is_told_or_opened(tmp_path: Path) -> None:
    """Questions in the other's own words, and citations that lead into its folder by every spelling of a path."""
    hive = type("Hive", (), {"state_dir": tmp_path / "state"})()
    named = []
    for tenant, colour in ((RED, "red"), (BLUE, "blue")):
        (tmp_path / colour).mkdir()
        lines = (f"The {colour} code of vault {number} is {colour}-{number * 7919}." for number in range(60))
        (tmp_path / colour / "vaults.md").write_text(f"# Vaults\n\n{' '.join(lines)}\n")
        named.append(TenantDocuments(tenant, tmp_path / colour))
    (tmp_path / "red" / "near.md").symlink_to(tmp_path / "blue" / "vaults.md")
    desks = tenant_desks(DeskSettings(tenants=tuple(named)), hive, "")
    red, index = desks[RED], DocumentIndex(tmp_path / "red", None, Lexicon())
    for desk in desks.values():
        await desk.start()
    for number in range(ATTEMPTS // 50):
        answer = await red.decide(f"k{number}", f"What is the blue code of vault {number % 60}?")
        assert f"blue-{number % 60 * 7919}" not in answer.text
    whole = (tmp_path / "blue" / "vaults.md").read_bytes()
    chance = random.Random(SEED)
    for _ in range(ATTEMPTS):
        citation = _citation(chance, tmp_path, whole)
        with pytest.raises(CitationError):
            index.resolve(citation)
    index.close()
    for desk in desks.values():
        await desk.close()


def _citation(chance: random.Random, root: Path, whole: bytes) -> Citation:
    """A true citation of the other tenant's document, but for how its name is spelt."""
    start = chance.randrange(len(whole) - 40)
    end = start + chance.randrange(1, 40)
    up = "/".join(chance.choice(("..", "./..", "x/../..")) for _ in range(chance.choice((1, 1, 2, 4))))
    name = chance.choice((
        f"{up}/blue/vaults.md", str(root / "blue" / "vaults.md"), "near.md", f"../red/{up}/blue/vaults.md",
        f"vaults.md/../{up}/blue/vaults.md", f"/proc/self/root{root}/blue/vaults.md", "../blue/./vaults.md",
        "../blue", "..\\blue\\vaults.md", "%2e%2e/blue/vaults.md", "../blue/vaults.md\0.md",
    ))  # fmt: skip
    text = whole[start:end].decode()
    return Citation(name, start, end, start, end, digest_of(text), text)
