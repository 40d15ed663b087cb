"""The blocking facade, against a router in another thread."""

from __future__ import annotations

from pathlib import Path

import pytest

import skep.sync
from skep import DeliveryError, RequestTimeout, SkepError


def test_a_script_without_async(served: Path) -> None:
    with skep.sync.connect("IO.script", hive=served) as hive:
        assert hive.name == "IO.script@test"
        assert hive.request("AI.echo", {"hi": 1}, timeout=5).payload == {"hi": 1}
        hive.send("AI.echo", "hello")
        message = hive.receive(5)
        assert message.text == "hello"
        assert [part.payload for part in hive.stream("AI.echo", {"parts": 1}, timeout=5)] == [
            {"n": 0},
            {"n": 1},
            {"n": 2},
        ]
        with pytest.raises(RequestTimeout):
            hive.receive(0.01)
        with pytest.raises(DeliveryError):
            hive.request("AI.nobody", {}, timeout=5)


def test_a_closed_connection_says_so(served: Path) -> None:
    hive = skep.sync.connect("IO.script", hive=served)
    hive.close()
    hive.close()
    with pytest.raises(SkepError):
        hive.send("AI.echo", {})
