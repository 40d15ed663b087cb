"""Each behaviour runs on each hive and in each framing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from conformance.hives import KINDS, Hive, opened


@pytest.fixture(params=[f"{kind}-{framing}" for kind in KINDS for framing in ("native", "json")])
async def hive(request: pytest.FixtureRequest) -> AsyncIterator[Hive]:
    kind, _, framing = request.param.partition("-")
    async for one in opened(kind, framing):
        yield one
