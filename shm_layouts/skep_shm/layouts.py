"""The layouts of this version, all in one place, as data.

A region is an *anchor* (fixed name, 64 bytes) and the *segment* its generation word names:

    /skep-<uid>-<hive>-<region>          anchor:  identity | generation | revision | heartbeat
    /skep-<uid>-<hive>-<region>.g<n>     segment: header | words | tables | change ring | undo

`VERSION` grows when any offset moves; a reader of another version is refused and told both numbers.
"""

from __future__ import annotations

from enum import IntEnum

from skep_shm.layout import Field, Layout, pad, raw, u8, u16, u32, u64

VERSION = 1
MAGIC = 0x31_4D_48_53_50_45_4B_53  # "SKEPSHM1" read as little-endian u64

SLOT_NONE = 0xFFFFFFFF  # no record: end of a chain


class RegionKind(IntEnum):
    """What a region holds; a reader refuses a region of another kind."""

    NODES = 1
    CONFIG = 2
    THREADS = 3
    RECORDS = 4
    POLICY = 5
    ILKS = 6
    TENANTS = 7
    CHANNELS = 8


class State(IntEnum):
    """What a table record is."""

    FREE = 0
    LIVE = 1
    MORE = 2  # the rest of another record's text


ANCHOR = Layout(
    "anchor",
    "Anchor",
    (
        u64("magic", "SKEPSHM1; written last, means ready"),
        u32("version", "layout version"),
        u32("kind", "kind of region"),
        u32("owner_uid", "the only uid that may own the segments"),
        pad("reserved", 4),
        u64("created_at_ms", "Unix time, for display"),
        pad("reserved2", 4),
        u32("check", "CRC-32 of the bytes before it"),
        u64("generation", "sealed word: number of the current segment, 0 = closed"),
        u64("revision", "sealed word: grows with each change, also across writers"),
        u64("heartbeat", "sealed word: CLOCK_BOOTTIME in microseconds of the writer's last sign of life"),
    ),
    64,
)
ANCHOR_IDENTITY_BYTES = ANCHOR.offset("generation")

HEADER = Layout(
    "segment_header",
    "Segment header",
    (
        u64("magic", "SKEPSHM1; written last, means ready"),
        u32("version", "layout version"),
        u32("kind", "kind of region"),
        u64("generation", "as in the segment's name"),
        u64("size_bytes", "length of the file"),
        u32("owner_uid"),
        u32("owner_pid", "the writer"),
        u64("owner_start", "its start time in clock ticks since boot (/proc/<pid>/stat field 22)"),
        u64("created_at_ms", "Unix time, for display"),
        u64("base_revision", "the revision at which this writer began; older changes are not in the ring"),
        u32("capacity", "records (nodes, threads, records) or banks (config)"),
        u32("record_bytes", "size of one record or bank"),
        u32("buckets", "heads of the hash index, a power of two; 0 = no index"),
        u32("ring_entries", "entries of the change ring; 0 = none"),
        u32("records_offset"),
        u32("links_offset", "one sealed word for each record: the next of its bucket"),
        u32("buckets_offset", "one sealed word for each bucket: its first record"),
        u32("ring_offset"),
        u32("undo_offset", "the last good version of the record being written"),
        pad("reserved", 4),
        raw("hash_multiplier", 16, "odd, random for each segment: senders cannot aim at a bucket"),
        raw("router_uuid", 16, "zero where the region is the hive's"),
        raw("hive", 64, "hive id, UTF-8, zero-padded"),
        raw("router_name", 256, "UTF-8, zero-padded"),
        pad("reserved2", 4),
        u32("check", "CRC-32 of the bytes before it"),
        u64("high_water", "sealed word: records at or above it were never written"),
        u64("live", "sealed word: records in use"),
    ),
    480,
)
HEADER_IDENTITY_BYTES = HEADER.offset("high_water")


def _table_record(*fields: Field) -> tuple[Field, ...]:
    """What every table record begins and ends with; `state` and so on lie at the same offsets in all of them."""
    return (u64("sequence", "even = at rest, odd = being written"), u32("slot", "its own index"), *fields)


NODE = Layout(
    "node",
    "Node record",
    _table_record(
        u8("state", "0 free, 1 live, 2 more text of another record"),
        u8("framing", "0 JSON, 1 native"),
        u16("text_bytes", "length of the whole name"),
        u32("next", "record with the rest of the name, 0xFFFFFFFF = none"),
        u32("uid", "of the connection, from the kernel"),
        raw("uuid", 16, "L1 address"),
        raw("tenant", 16, "zero = tenant-neutral"),
        raw("ilk", 16, "zero = none"),
        u64("connected_at_ms", "Unix time, for display"),
        u32("pid"),
        u32("vpn_id"),
        u32("flags"),
        raw("text", 32, "first bytes of the L2 name, UTF-8"),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    128,
)

BINDING = Layout(
    "binding",
    "Thread binding record",
    _table_record(
        u8("state", "0 free, 1 live, 2 more text of another record"),
        pad("reserved", 1),
        u16("text_bytes", "length of handler name and reason together"),
        u32("next", "record with the rest of the text, 0xFFFFFFFF = none"),
        u32("handler_bytes", "length of the handler's name, which is first in the text"),
        raw("thread", 32, "thread id, binary digest"),
        raw("handler_uuid", 16, "zero = any node of that name"),
        u64("lease_until_ns", "CLOCK_BOOTTIME; 0 = no lease"),
        u64("revision", "of the binding, from its owner"),
        raw("text", 96, "handler name, then reason, UTF-8"),
        pad("reserved2", 4),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    192,
)

CHANGE = Layout(
    "change",
    "Change ring entry",
    (
        u64("revision", "sealed word"),
        u64("what", "sealed word, salted with the revision: kind << 32 | slot"),
    ),
    16,
)

BANK = Layout(
    "bank",
    "Configuration bank header",
    (
        u64("revision", "of the state in this bank; banks alternate with its lowest bit"),
        u64("config_version", "version of the configuration as its owner counts"),
        u32("routes", "rows"),
        u32("vpns", "rows"),
        u32("grants", "rows"),
        u32("limits", "rows"),
        u32("heap_bytes", "length of the strings after the rows"),
        u32("check", "CRC-32 of the bytes before it, the rows and the heap"),
    ),
    40,
)

ROUTE = Layout(
    "route",
    "Route row",
    (
        u32("prefix_at", "offset in the heap"),
        u32("hive_at"),
        u32("name_at"),
        u16("prefix_bytes"),
        u16("hive_bytes"),
        u16("name_bytes"),
        u8("match_kind", "0 exact, 1 prefix, 2 glob"),
        u8("action", "0 forward, 1 drop"),
        u32("metric"),
        u64("installed_at_ms"),
        u32("priority"),
        pad("reserved", 4),
    ),
    40,
)

VPN_RULE = Layout(
    "vpn_rule",
    "VPN rule row",
    (
        u32("pattern_at", "offset in the heap"),
        u16("pattern_bytes"),
        u8("match_kind", "0 exact, 1 prefix, 2 glob"),
        pad("reserved", 1),
        u32("vpn_id"),
        u32("priority"),
    ),
    16,
)

GRANT = Layout(
    "grant",
    "Grant row",
    (
        u32("uid"),
        u32("pattern_at", "offset in the heap"),
        u32("kinds_at", "channel kinds, offset in the heap"),
        u16("pattern_bytes"),
        u16("kinds_bytes"),
        raw("ilk", 16, "zero = none"),
        raw("tenant", 16, "zero = tenant-neutral"),
        u8("ilk_mode", "0 none, 1 listed, 2 any"),
        pad("reserved", 7),
    ),
    56,
)

LIMIT = Layout(
    "limit",
    "Limit row",
    (
        u64("value"),
        u32("name_at", "offset in the heap"),
        u16("name_bytes"),
        pad("reserved", 2),
    ),
    16,
)

RECORD = Layout(
    "record",
    "Hop record or event",
    (
        u64("position", "count of records before it, plus one; the slot is position modulo capacity"),
        u64("at_ms", "Unix time, for display"),
        u64("mono_ns", "CLOCK_MONOTONIC, for order and intervals"),
        u64("message_id"),
        raw("trace_id", 16),
        raw("source", 16, "uuid"),
        raw("dest", 16, "uuid"),
        u16("kind"),
        u8("source_name_bytes"),
        u8("dest_name_bytes"),
        u8("code_bytes"),
        u8("detail_bytes"),
        pad("reserved", 2),
        raw("source_name", 72, "UTF-8, cut to fit"),
        raw("dest_name", 72, "UTF-8, cut to fit"),
        raw("code", 24, "UTF-8, cut to fit"),
        raw("detail", 56, "UTF-8, cut to fit"),
        pad("reserved2", 4),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    320,
)

POLICY = Layout(
    "policy",
    "Policy head (bundle and shadow follow it)",
    (
        u64("revision", "of this publish"),
        u64("policy_version", "version of the policy as its owner counts"),
        u32("status", "0 ok, 1 error, 2 loading"),
        u32("bundle_bytes", "length of the signed bundle in force; 0 = none"),
        u32("shadow_bytes", "length of the bundle that is only tried, after the first; 0 = none"),
        u32("check", "CRC-32 of the bytes before it, the bundle and the shadow"),
    ),
    32,
)

ILK = Layout(
    "ilk",
    "Interlocutor record",
    _table_record(
        u8("state", "0 free, 1 live, 2 more text of another record"),
        u8("kind", "0 human, 1 agent, 2 system"),
        u16("text_bytes", "length of the whole text"),
        u32("next", "record with the rest of the text, 0xFFFFFFFF = none"),
        u8("subtype", "of a human: 0 none, 1 internal, 2 external"),
        u8("registration", "0 temporary, 1 partial, 2 complete"),
        u8("seal", "of an agent: 0 none, 1 valid, 2 broken, 3 expired, 4 revoked"),
        u8("roles", "how many"),
        raw("ilk", 16),
        raw("tenant", 16, "zero = tenant-neutral"),
        raw("canonical", 16, "not zero: this ILK is an alias of that one"),
        u64("alias_until_ms", "Unix time; 0 = no expiry, or no alias"),
        u64("seal_until_ms", "Unix time; 0 = none"),
        u8("capabilities", "how many"),
        u8("degrees", "how many"),
        u8("channel_kinds", "how many"),
        pad("reserved", 1),
        raw("text", 32, "handler, then roles, capabilities, degrees, channel kinds; UTF-8, a zero byte between two"),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    128,
)

TENANT = Layout(
    "tenant",
    "Tenant record",
    _table_record(
        u8("state", "0 free, 1 live"),
        u8("status", "0 pending, 1 active, 2 suspended"),
        u16("text_bytes", "0"),
        u32("next", "0xFFFFFFFF"),
        u32("flags"),
        raw("tenant", 16),
        pad("reserved", 4),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    48,
)

CHANNEL = Layout(
    "channel",
    "Channel record",
    _table_record(
        u8("state", "0 free, 1 live"),
        pad("reserved", 1),
        u16("text_bytes", "length of the kind"),
        u32("next", "0xFFFFFFFF"),
        pad("reserved2", 4),
        raw("key", 16, "keyed hash of kind, address and tenant: no address stands here"),
        raw("ilk", 16, "whose channel it is"),
        raw("tenant", 16, "zero = tenant-neutral"),
        raw("text", 32, "kind, UTF-8"),
        pad("reserved3", 4),
        u32("check", "CRC-32 of the bytes before it"),
    ),
    112,
)

MORE = Layout(
    "more",
    "Rest of a text (its size is the table's record size; the text reaches to the check)",
    (
        u64("sequence", "even = at rest, odd = being written"),
        u32("slot", "its own index"),
        u8("state", "2"),
        pad("reserved", 1),
        u16("text_bytes", "length of this piece"),
        u32("next", "record with the next piece, 0xFFFFFFFF = none"),
        u32("owner", "CRC-32 of the key of the record it belongs to"),
    ),
    24,
)
MORE_OVERHEAD = MORE.size + 4  # with the check

LAYOUTS = (
    ANCHOR,
    HEADER,
    NODE,
    BINDING,
    MORE,
    CHANGE,
    BANK,
    ROUTE,
    VPN_RULE,
    GRANT,
    LIMIT,
    RECORD,
    POLICY,
    ILK,
    TENANT,
    CHANNEL,
)
