"""What is in force when SY.opa.rules starts: worked out from files, from the region a crash left, and from the package.

The files say what was acknowledged; the region what routers may already run. In this order:

1. The files' policy. If routers have seen a newer number (files from a backup), it is signed again above that number.
2. Its files are lost, but the region still holds a signed bundle of this hive: that one, whole, is the last good one.
3. That is lost too: the policy before it, under a new number.
4. Nothing was ever kept: the packaged default policy, as the next number.
5. Something was kept and nothing can be used: no policy. Routers keep what they have; new ones stay closed. The default
   is not taken then: it might allow what the lost policy forbade.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from skep.protocol.errors import PolicyError
from skep_nodes.sy import opa_shelf
from skep_nodes.sy.opa_shelf import Entry, Shelf, Sign, entry_of
from skep_nodes.sy.opa_store import Loaded, Open
from skep_policy.bundle import Compiled
from skep_shm import PolicyState


@dataclass(frozen=True, slots=True)
class Start:
    """The shelf to start with, and what an operator must be told. `changed`: it differs from what the files say."""

    shelf: Shelf
    warnings: tuple[str, ...] = ()
    changed: bool = False


def start_with(
    loaded: Loaded, left: PolicyState, default: Callable[[], Compiled], open_one: Open, sign: Sign
) -> Start:
    """What is in force from now on."""
    seen = _seen(left, open_one)
    kept = loaded.shelf or Shelf()
    floor = max(kept.counter, left.version, seen.version if seen else 0)
    shelf = replace(kept, counter=floor)
    if shelf.current is not None:
        return _known(shelf, loaded.warnings, left.version, sign)
    if seen is not None:
        told = f"version {seen.version} is taken over from shared memory"
        return Start(replace(shelf, current=seen), (*loaded.warnings, told), True)
    if shelf.backup is not None:
        again = opa_shelf.rollback(shelf, 0, sign)
        told = f"the policy before, version {shelf.backup.version}, is in force again as {again.counter}"
        return Start(replace(again, backup=shelf.backup), (*loaded.warnings, told), True)
    if not loaded.lost:
        return _first(shelf, loaded.warnings, default, sign)
    told = "no policy can be used: routers keep the one they have; apply one with `skep policy apply`"
    return Start(shelf, (*loaded.warnings, told))


def _seen(left: PolicyState, open_one: Open) -> Entry | None:
    """The bundle in the region, when it is signed for this hive."""
    try:
        return entry_of(open_one(left.bundle), left.bundle) if left.bundle else None
    except PolicyError:
        return None


def _known(shelf: Shelf, warnings: tuple[str, ...], seen: int, sign: Sign) -> Start:
    """The files' policy, above every number that routers have seen."""
    assert shelf.current is not None
    if seen <= shelf.current.version:
        return Start(shelf, warnings)
    version = shelf.counter + 1
    told = f"routers have seen version {seen}, the files hold {shelf.current.version}: it is signed again as {version}"
    current = sign(shelf.current.bundle, version)
    return Start(replace(shelf, counter=version, current=current), (*warnings, told), True)


def _first(shelf: Shelf, warnings: tuple[str, ...], default: Callable[[], Compiled], sign: Sign) -> Start:
    """The packaged policy."""
    try:
        version = shelf.counter + 1
        current = sign(default(), version)
    except (OSError, PolicyError) as error:
        return Start(shelf, (*warnings, f"the packaged default policy cannot be used: {error}"))
    return Start(replace(shelf, counter=version, current=current), warnings, True)
