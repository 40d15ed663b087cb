"""Both databases, real ones: every test that takes `make_store` or `office` runs on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from identity.parts import Office
from identity.parts import office as make_office
from identity.postgres_server import PostgresServer, private_server
from skep_nodes.identity.postgres import PostgresStore
from skep_nodes.identity.sqlite import SqliteStore
from skep_nodes.identity.store import Store
from support.memory import memory_folder, place


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: every request of these tests is a transaction with a sync of its own."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with private_server(place()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes a store on the same database each time: what a restart finds."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "identity.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    server.empty("identity")
    return lambda: PostgresStore(server.url("identity"))


@pytest.fixture
async def office(make_store: Callable[[], Store], tmp_path: Path) -> AsyncIterator[Office]:
    async with make_office(make_store(), tmp_path) as one:
        yield one
