"""What nodes count is in their status, and in their log once in a while."""

from __future__ import annotations

import logging

import pytest

from skep import Node
from skep.testing import Hive
from skep_nodes.io.counters import WARN_EVERY_S, Counters, expose

LOG = logging.getLogger("skep.nodes.test")


def test_trouble_is_counted_each_time_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    counters = Counters(("lost", "busy"), LOG, lambda: now[0])
    for at in (0.0, 1.0, WARN_EVERY_S - 0.1, WARN_EVERY_S):
        now[0] = at
        counters.trouble("lost", "message %s is lost", "m1")
    counters.trouble("busy", "no room")
    assert counters == {"lost": 4, "busy": 1}
    assert caplog.messages == [
        "message m1 is lost (lost so far: 1)",
        "message m1 is lost (lost so far: 4)",
        "no room (busy so far: 1)",
    ]


async def test_a_nodes_status_holds_its_counters() -> None:
    counters = Counters(("lost",), LOG)
    async with Hive() as hive:
        node = Node("IO.door")
        expose(node, channel=counters)
        await hive.start(node)
        counters["lost"] += 1
        caller = await hive.node("SY.asks")
        answer = await caller.request("IO.door", {}, type="system", verb="NODE_STATUS_GET")
        assert answer.payload == {
            "status": "ok",
            "health_state": "HEALTHY",
            "counters": {"channel": {"lost": 1}},
        }
