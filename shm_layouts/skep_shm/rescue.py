"""What a writer does when somebody removes its files from /dev/shm: it makes them again.

A removed name takes nothing from whoever has the file mapped, so writer and readers would go on, and nobody new could
ever attach: the region would be lost until its writer restarts. So each heartbeat, at most once a second, compares the
names with the files that the writer holds (two `stat` calls, some microseconds). When one leads elsewhere, the contents
are copied into a new segment, as for growth, and the anchor is made again if it is gone; readers follow by the word
they read anyway.

Trouble is logged once and tried again each second: a full /dev/shm may have room later, and a region that another
writer took over is that writer's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from skep_shm.errors import RegionError
from skep_shm.region import Owner
from skep_shm.segment import Segment

log = logging.getLogger("skep.shm")

LOOK_EVERY_NS = 1_000_000_000
Settle = Callable[[Segment], None]
"""Makes a filled segment the current one (`Owner.swing`, `Owner.restore`). One that raises has changed nothing."""


class Rescue:
    """`copy(settle)` fills a new segment with the writer's contents, settles it, and uses it from then on."""

    def __init__(self, owner: Owner, copy: Callable[[Settle], None]) -> None:
        self._owner = owner
        self._copy = copy
        self._look_at_ns = 0
        self._told = False

    def look(self, now_ns: int) -> None:
        """Never raises for what others did to the files."""
        if now_ns < self._look_at_ns:
            return
        self._look_at_ns = now_ns + LOOK_EVERY_NS
        try:
            if self._owner.is_orphaned:
                self._copy(self._owner.restore)
                log.warning("%s was removed from /dev/shm; it was made again", self._owner.name)
            self._told = False
        except (RegionError, OSError) as error:
            if not self._told:
                log.error(
                    "%s was removed from /dev/shm and cannot be made again: %s", self._owner.name, error
                )
            self._told = True
