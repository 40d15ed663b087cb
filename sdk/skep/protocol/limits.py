"""Every bound of the wire, in one place.

Owns the numbers that routers and clients must agree on. A bound that only one process needs (how many flows
it keeps, how long a turn is) stands here too, so that the relations between bounds can be asserted at import.
Rejected: bounds in the configuration file of each process, because two ends with different ideas of "too
large" lose frames silently; what an operator may change is given in the config region's limits and may only
be smaller.
"""

from __future__ import annotations

from typing import Final

# Frames -----------------------------------------------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 131072
"""JSON body without its length word, and native frame with everything. 128 KiB is what upstream's code accepts."""

META_BYTES_MAX: Final = 65536
"""Serialised meta of a JSON frame. More than this is content and belongs in the payload or in a blob."""

EXTENSION_BYTES_MAX: Final = 61440
"""All extension fields of a native frame. body_start is a u16, and the largest flow key needs the remaining 4 KiB."""

NAME_BYTES_MAX: Final = 256
"""L2 name with hive; upstream's records have 256 bytes for it."""

NAME_FIELDS_MAX: Final = 10
"""Dotted fields of a name."""

HIVE_BYTES_MAX: Final = 64
"""Hive id; upstream's headers have 64 bytes for it."""

CONTEXT_BYTES_MAX: Final = 1024
"""meta.context as canonical JSON. It is part of every flow key, so it is paid for in flow-table memory."""

TARGET_BYTES_MAX: Final = 256
"""meta.target: a pattern over names, so no longer than a name."""

SHORT_TEXT_BYTES_MAX: Final = 255
"""meta.msg, meta.action, meta.type and a thread id that is text: their lengths are one byte in the header."""

JSON_DEPTH_MAX: Final = 32
"""Nested arrays and objects, the envelope included. Deep JSON costs stack, and nothing that people send is deeper."""

PAYLOAD_DEPTH_MAX: Final = JSON_DEPTH_MAX - 1
"""The same for a payload or the members of meta by themselves: the envelope around them is one level."""

CONTEXT_DEPTH_MAX: Final = JSON_DEPTH_MAX - 2
"""The same for meta.context and a memory package, which stand inside meta inside the envelope."""

TEXT_PAYLOAD_BYTES_MAX: Final = 65536
"""Upstream's message maximum: a text payload past it (with TEXT_ENVELOPE_BYTES) is offloaded to a blob."""

TEXT_ENVELOPE_BYTES: Final = 2048
"""Upstream's allowance for the envelope of a text payload."""

# Before authentication --------------------------------------------------------------------------------------------

HELLO_BYTES_MAX: Final = 4096
"""Body of the first frame. A real HELLO has 200 bytes; a stranger may hold no more than this of our memory."""

UNAUTHENTICATED_PER_UID: Final = 64
"""Connections of one uid that have not said HELLO yet; dbus-daemon uses the same."""

LINKS_PER_UID: Final = 1024
"""Registered connections of one uid that is not the hive's own. A router keeps half of its descriptors for the hive's
own account, whatever the number of others."""

HELLO_TIMEOUT_S: Final = 2.0
"""From accept to a whole HELLO; nats-server gives two seconds too."""

# Queues -----------------------------------------------------------------------------------------------------------

QUEUE_BYTES_LOW: Final = 512 << 10
"""RESUME when a hop holds less: two reads' worth, so that the sender is back before the hop runs dry."""

QUEUE_BYTES_HIGH: Final = 2 << 20
"""PAUSE when a hop holds more: some milliseconds of traffic. What a read, both sockets and a consumer's unreported
frames hold in a full pipeline is 0.8 MiB; a mark below that would pause a consumer that keeps up."""

QUEUE_BYTES_MAX: Final = 8 << 20
"""QUEUE_FULL past this. A paused sender has at most its own socket buffer in flight, far below the difference."""

QUEUE_FRAMES_MAX: Final = 65536
"""QUEUE_FULL past this many frames, however small: each pins an object."""

TAKEN_FRAMES: Final = 256
"""A consumer says TAKEN at least this often. Each one costs its router a read: at 64 that was an eighth of its time."""

TAKEN_BYTES: Final = 128 << 10
"""The same in bytes, well below the low mark: what waits for TAKEN alone must never keep a sender paused."""

TAKEN_DELAY_S: Final = 0.02
"""The same in time, for a trickle: how long a sender may not know that its message arrived."""

UID_BYTES_MAX: Final = 64 << 20
"""All that the frames of one uid may hold in a router; past it its sockets are paused."""

# A router's tables ------------------------------------------------------------------------------------------------

FLOWS_PER_LINK: Final = 16384
"""Flow-table entries of one connection (some hundred bytes each)."""

FLOWS_PER_UID: Final = 65536
"""The same for all connections of a uid that is not the hive's own: past it a flow is decided, used and not kept."""

THREADS_MAX: Final = 65536
"""Threads that a router keeps a sequence and a sticky handler for."""

LOOP_TRACES_MAX: Final = 65536
"""Broadcast traces remembered for loop suppression."""

MISSES_PER_S: Final = 4096
"""Slow-path decisions a uid gets a second before its reads are deferred."""

TURN_BYTES: Final = 64 << 10
"""What one uid may have handled within one loop turn, where there are several: 0.1 ms of small frames."""

READ_BYTES: Final = 256 << 10
"""What uvloop hands over in one read."""

BAD_FRAMES_PER_LINK: Final = 100
"""Frames refused as BAD_FRAME before the connection is ended: a broken client is told, a hostile one is cut."""

REPORT_ENTRIES_MAX: Final = 8192
"""Entries of one REPORT frame; more are sent in several."""

TTL_DEFAULT: Final = 16
"""What upstream's clients send."""

U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1
I64_MIN: Final = -(1 << 63)

assert HELLO_BYTES_MAX < META_BYTES_MAX < FRAME_BYTES_MAX
assert EXTENSION_BYTES_MAX + 4096 <= 65536, "body_start is a u16"
assert NAME_BYTES_MAX + CONTEXT_BYTES_MAX + TARGET_BYTES_MAX + 4 * SHORT_TEXT_BYTES_MAX + 256 < 4096
assert HIVE_BYTES_MAX < NAME_BYTES_MAX
assert QUEUE_BYTES_LOW < QUEUE_BYTES_HIGH < QUEUE_BYTES_MAX < UID_BYTES_MAX
assert 4 * FRAME_BYTES_MAX <= QUEUE_BYTES_HIGH, "a hop must not pause after a few frames"
assert TURN_BYTES <= READ_BYTES
assert 2 * TAKEN_BYTES <= QUEUE_BYTES_LOW
assert TAKEN_FRAMES * 4 < QUEUE_FRAMES_MAX
assert TEXT_PAYLOAD_BYTES_MAX + TEXT_ENVELOPE_BYTES < FRAME_BYTES_MAX
assert REPORT_ENTRIES_MAX * 9 + 256 < FRAME_BYTES_MAX
