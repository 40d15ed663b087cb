"""Many interlocutors, made without asking: for tests and measurements of size."""

from __future__ import annotations

from collections.abc import Iterator

from skep_nodes.identity import ids
from skep_nodes.identity.channels import look_up
from skep_nodes.identity.records import Channel, Ilk, Tenant
from skep_nodes.identity.store import Store
from skep_nodes.identity.tables import CHANNELS, ILKS, TENANTS
from skep_nodes.identity.view import Change
from skep_shm import Registration, Subtype, TenantStatus

TENANT = ids.as_version_4(b"a tenant of many")
CHUNK = 2000


def ilk_of(number: int) -> bytes:
    return ids.as_version_4(number.to_bytes(6, "big") + b"interlocut")


def addresses_of(number: int) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("whatsapp", f"+34600{number:08}"), ("email", f"person{number}@example.org")


def changes_of(numbers: range) -> Iterator[Change]:
    """Interlocutors with two channels each."""
    for number in numbers:
        ilk = ilk_of(number)
        known = {"display_name": f"Person {number}", "email": f"person{number}@example.org"}
        one = Ilk(
            ilk, subtype=Subtype.EXTERNAL, registration=Registration.COMPLETE, tenant=TENANT, email=known["email"],
            identification=known, roles=("buyer",), registered_by="SY.import", created_at_ms=1, updated_at_ms=1,
        )  # fmt: skip
        yield Change(ILKS, ilk, one, None)
        for place, (kind, address) in enumerate(addresses_of(number)):
            ich = ids.as_version_4(number.to_bytes(5, "big") + bytes([place]) + b"channels..")
            made = Channel(ich, ilk, TENANT, kind, address, look_up(kind, address, TENANT), int(not place), 1)
            yield Change(CHANNELS, ich, made, None)


async def fill(store: Store, size: int) -> None:
    """Put `size` of them into an empty store."""
    tenant = Tenant(TENANT, "many", "many", status=TenantStatus.ACTIVE)
    await store.write([Change(TENANTS, TENANT, tenant, None)], [])
    for start in range(0, size, CHUNK):
        await store.write(list(changes_of(range(start, min(size, start + CHUNK)))), [])
