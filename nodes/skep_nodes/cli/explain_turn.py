"""Decisions of messages that left no hop and no decision of their own: worked out from the turn record of SY.tap.

The turn has the whole frame, so the question that a router asked can be asked again. Most often the log has the answer
that was kept for it; else the policy in force is asked, with the data of now, and that is what is said.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any, Final

import orjson

from skep import Hive
from skep.protocol.errors import PolicyError, ProtocolError
from skep.protocol.header import DstKind, MessageClass, Selector, unpack_key
from skep_nodes.cli.explain_decision import Explained, How, explained
from skep_nodes.cli.explain_log import decision_like
from skep_nodes.cli.explain_rules import Rules, rules_of
from skep_nodes.cli.hive_file import load
from skep_nodes.sy.decisions_data import HiveData
from skep_nodes.sy.spool import read_records, spool_files
from skep_nodes.sy.tap import Turn, spool_folder, turns_of
from skep_policy.decider import Asked, input_document, outcome
from skep_policy.manifest import ALLOW, TARGET, Reads
from skep_shm import IlkRecord, IlksReader, PolicyReader, RegionError, nodes_readers

TURNS_MAX: Final = 20  # of one trace: a conversation repeats the same questions
_UNASKED: Final = frozenset({MessageClass.SYSTEM, MessageClass.RECEIPT, MessageClass.LINK, MessageClass.TAP})


def turns_of_trace(hive: Hive, trace: str) -> list[Turn]:
    """The turns of the traces whose ids begin with these hexadecimal digits, the newest ones."""
    needle = bytes.fromhex(trace[: len(trace) & ~1])
    found: deque[Turn] = deque(maxlen=TURNS_MAX)
    for path in spool_files(spool_folder(hive)):
        with suppress(FileNotFoundError):
            for record in read_records(path):
                if needle in record:
                    found += [
                        turn for turn in turns_of(record) if turn.frame.trace_id.hex().startswith(trace)
                    ]
    return list(found)


def explain_turns(hive: Hive, turns: list[Turn]) -> list[Explained]:
    """What was decided, or would be now, about these turns; equal questions once."""
    found: dict[bytes, Explained | None] = {}
    data = HiveData(hive.root, hive.hive_id, load(hive.root).settings.seals)
    data.look()
    try:
        for turn in turns:
            with suppress(ProtocolError):
                for path, asked in _questions(hive, turn):
                    key = orjson.dumps([path, input_document(asked, data.documents, True)])
                    if key not in found:
                        found[key] = _answered(hive, data, path, asked)
    finally:
        data.close()
    return [each for each in found.values() if each is not None]


def _questions(hive: Hive, turn: Turn) -> list[tuple[str, Asked]]:
    """What a router asks about a frame: who, where nobody is named; and whether, always."""
    source, selector = unpack_key(turn.frame.key)
    if selector.message_class in _UNASKED:
        return []
    asked = Asked(
        turn.frame.key, selector, source, _name_of(hive, source), _record(hive, turn.ilk or selector.src_ilk),
        _record(hive, selector.dst_ilk), turn.frame.trace_id,
    )  # fmt: skip
    paths = [TARGET, ALLOW] if _names_nobody(selector) else [ALLOW]
    return [(path, asked) for path in paths]


def _names_nobody(selector: Selector) -> bool:
    return selector.dst_kind == DstKind.POLICY


def _answered(hive: Hive, data: HiveData, path: str, asked: Asked) -> Explained | None:
    document = input_document(asked, data.documents, False)
    kept = decision_like(hive, path, document, asked.name)
    return explained(kept, How.KEPT) if kept is not None else _recomputed(hive, data, path, asked)


def _recomputed(hive: Hive, data: HiveData, path: str, asked: Asked) -> Explained | None:
    """None: this hive has no policy."""
    from skep_policy.authority import public_key
    from skep_policy.bundle import open_bundle
    from skep_policy.evaluator import Evaluator
    from skep_policy.module import Module

    event: dict[str, Any] = {"path": path, "requested_by": asked.name, "outcome": "not known"}
    published = _published(hive)
    if not published:
        return None
    try:
        bundle = open_bundle(published, public_key(hive.root), hive.hive_id)
        engine = Evaluator(Module.load(bundle.wasm), data.documents.whole())
    except (PolicyError, OSError) as error:
        return Explained(event, How.RECOMPUTED, None, Rules(why_not=f"the policy cannot be asked: {error}"))
    reads = bundle.manifest.reads.get(path, Reads())
    document = input_document(asked, data.documents, reads.source)
    found = engine.decide(path, orjson.dumps(document), data.guests(asked.src, asked.dst))
    engine.close()
    reason, detail, names = outcome(path, found)
    event |= {
        "input": document, "result": found.result, "outcome": reason.value if reason else "ALLOWED",
        "candidates": list(names), "data_revision": data.revision._asdict(),
    }  # fmt: skip
    if found.error:
        event["error"] = {"code": found.error, "message": detail}
    policy = {"version": bundle.version, "hash": bundle.manifest.wasm_sha256}
    whole = orjson.loads(data.documents.whole())
    rules = rules_of(bundle.rego, whole, document, path, old=bundle.manifest.rego_version == "v0")
    return Explained(event, How.RECOMPUTED, policy, rules)


def _published(hive: Hive) -> bytes:
    """The bundle in force; empty when there is none."""
    try:
        reader = PolicyReader.attach(hive.root)
    except (RegionError, OSError):
        return b""
    try:
        return reader.read().bundle
    except RegionError:
        return b""
    finally:
        reader.close()


def _name_of(hive: Hive, uuid: bytes) -> str:
    """Who has this uuid now; empty when it has gone."""
    for reader in nodes_readers(hive.root):
        try:
            record = reader.find(uuid)
        except RegionError:
            record = None
        finally:
            reader.close()
        if record is not None:
            return record.name
    return ""


def _record(hive: Hive, ilk: bytes | None) -> IlkRecord | None:
    """The record of an interlocutor as it is now, an alias followed."""
    if ilk is None or not any(ilk):
        return None
    try:
        reader = IlksReader.attach(hive.root)
    except (RegionError, OSError):
        return None
    try:
        record = reader.find(ilk)
        return reader.find(record.canonical) if record is not None and any(record.canonical) else record
    except RegionError:
        return None
    finally:
        reader.close()
