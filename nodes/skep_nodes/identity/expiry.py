"""What ends by itself: aliases of merged interlocutors, and seals. An end is a change like any other, published once.

So no reader of the regions needs the wall clock to be right; whoever compares times as well is only earlier. A merged
interlocutor whose alias ended is not found any more, but its row stays: the merge can still be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from skep_nodes.identity import graduations
from skep_nodes.identity.tables import ILKS
from skep_nodes.identity.view import Ask, View
from skep_shm import SealStatus

ACTOR = "SY.identity"


@dataclass(frozen=True, slots=True)
class Expire:
    """End what is due of these interlocutors."""

    ilks: tuple[bytes, ...]

    def needs(self, view: View) -> Iterable[Ask]:
        return [ask for ilk in self.ilks for ask in graduations.asks(ilk)]

    def run(self, view: View) -> dict[str, Any]:
        for key in self.ilks:
            ilk = view.ilk(key)
            if ilk is None:
                continue
            if not ilk.live and not ilk.deleted_at_ms and 0 < ilk.alias_until_ms <= view.now_ms:
                view.put(ILKS, ilk._replace(deleted_at_ms=view.now_ms, updated_at_ms=view.now_ms))
                view.note(ACTOR, "ALIAS_EXPIRED", key, ilk.tenant, "")
            if ilk.live and ilk.seal == SealStatus.VALID and 0 < ilk.seal_until_ms <= view.now_ms:
                graduations.set_seal(view, key, SealStatus.EXPIRED, ACTOR, "its validity has ended")
        return {"status": "ok"}
