/* Regions of shared memory of a Skep hive. Printed by `python -m skep_shm header`: do not edit.
 * All numbers are little-endian. docs/shm.md says how to read them. */
#ifndef SKEP_SHM_H
#define SKEP_SHM_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SKEP_SHM_VERSION 1
#define SKEP_SHM_MAGIC UINT64_C(0x314D485350454B53)
#define SKEP_SLOT_NONE UINT32_C(0xFFFFFFFF)
#define SKEP_READ_TRIES 1024
#define SKEP_REGION_NODES 1
#define SKEP_REGION_CONFIG 2
#define SKEP_REGION_THREADS 3
#define SKEP_REGION_RECORDS 4
#define SKEP_REGION_POLICY 5
#define SKEP_REGION_ILKS 6
#define SKEP_REGION_TENANTS 7
#define SKEP_REGION_CHANNELS 8
#define SKEP_STATE_FREE 0
#define SKEP_STATE_LIVE 1
#define SKEP_STATE_MORE 2
#define SKEP_CHANGE_ADDED 1
#define SKEP_CHANGE_REMOVED 2
#define SKEP_CHANGE_UPDATED 3
#define SKEP_RECORD_HOP_IN 1
#define SKEP_RECORD_HOP_OUT 2
#define SKEP_RECORD_HOP_QUEUED 3
#define SKEP_RECORD_REFUSED 4
#define SKEP_RECORD_NODE_JOINED 5
#define SKEP_RECORD_NODE_LEFT 6
#define SKEP_RECORD_LINK_CLOSED 7
#define SKEP_RECORD_CONFIG 8
#define SKEP_RECORD_BINDING 9
#define SKEP_RECORD_ROUTER 10
#define SKEP_POLICY_OK 0
#define SKEP_POLICY_ERROR 1
#define SKEP_POLICY_LOADING 2
#define SKEP_ILK_HUMAN 0
#define SKEP_ILK_AGENT 1
#define SKEP_ILK_SYSTEM 2
#define SKEP_SUBTYPE_NONE 0
#define SKEP_SUBTYPE_INTERNAL 1
#define SKEP_SUBTYPE_EXTERNAL 2
#define SKEP_REGISTRATION_TEMPORARY 0
#define SKEP_REGISTRATION_PARTIAL 1
#define SKEP_REGISTRATION_COMPLETE 2
#define SKEP_SEAL_NONE 0
#define SKEP_SEAL_VALID 1
#define SKEP_SEAL_BROKEN 2
#define SKEP_SEAL_EXPIRED 3
#define SKEP_SEAL_REVOKED 4
#define SKEP_TENANT_PENDING 0
#define SKEP_TENANT_ACTIVE 1
#define SKEP_TENANT_SUSPENDED 2

/* Anchor. */
struct skep_anchor {
    uint64_t magic;  /* SKEPSHM1; written last, means ready */
    uint32_t version;  /* layout version */
    uint32_t kind;  /* kind of region */
    uint32_t owner_uid;  /* the only uid that may own the segments */
    uint8_t reserved[4];  /* zero */
    uint64_t created_at_ms;  /* Unix time, for display */
    uint8_t reserved2[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
    uint64_t generation;  /* sealed word: number of the current segment, 0 = closed */
    uint64_t revision;  /* sealed word: grows with each change, also across writers */
    uint64_t heartbeat;  /* sealed word: CLOCK_BOOTTIME in microseconds of the writer's last sign of life */
};
_Static_assert(sizeof(struct skep_anchor) == 64, "anchor");
_Static_assert(offsetof(struct skep_anchor, magic) == 0, "magic");
_Static_assert(offsetof(struct skep_anchor, version) == 8, "version");
_Static_assert(offsetof(struct skep_anchor, kind) == 12, "kind");
_Static_assert(offsetof(struct skep_anchor, owner_uid) == 16, "owner_uid");
_Static_assert(offsetof(struct skep_anchor, reserved) == 20, "reserved");
_Static_assert(offsetof(struct skep_anchor, created_at_ms) == 24, "created_at_ms");
_Static_assert(offsetof(struct skep_anchor, reserved2) == 32, "reserved2");
_Static_assert(offsetof(struct skep_anchor, check) == 36, "check");
_Static_assert(offsetof(struct skep_anchor, generation) == 40, "generation");
_Static_assert(offsetof(struct skep_anchor, revision) == 48, "revision");
_Static_assert(offsetof(struct skep_anchor, heartbeat) == 56, "heartbeat");

/* Segment header. */
struct skep_segment_header {
    uint64_t magic;  /* SKEPSHM1; written last, means ready */
    uint32_t version;  /* layout version */
    uint32_t kind;  /* kind of region */
    uint64_t generation;  /* as in the segment's name */
    uint64_t size_bytes;  /* length of the file */
    uint32_t owner_uid;
    uint32_t owner_pid;  /* the writer */
    uint64_t owner_start;  /* its start time in clock ticks since boot (/proc/<pid>/stat field 22) */
    uint64_t created_at_ms;  /* Unix time, for display */
    uint64_t base_revision;  /* the revision at which this writer began; older changes are not in the ring */
    uint32_t capacity;  /* records (nodes, threads, records) or banks (config) */
    uint32_t record_bytes;  /* size of one record or bank */
    uint32_t buckets;  /* heads of the hash index, a power of two; 0 = no index */
    uint32_t ring_entries;  /* entries of the change ring; 0 = none */
    uint32_t records_offset;
    uint32_t links_offset;  /* one sealed word for each record: the next of its bucket */
    uint32_t buckets_offset;  /* one sealed word for each bucket: its first record */
    uint32_t ring_offset;
    uint32_t undo_offset;  /* the last good version of the record being written */
    uint8_t reserved[4];  /* zero */
    uint8_t hash_multiplier[16];  /* odd, random for each segment: senders cannot aim at a bucket */
    uint8_t router_uuid[16];  /* zero where the region is the hive's */
    uint8_t hive[64];  /* hive id, UTF-8, zero-padded */
    uint8_t router_name[256];  /* UTF-8, zero-padded */
    uint8_t reserved2[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
    uint64_t high_water;  /* sealed word: records at or above it were never written */
    uint64_t live;  /* sealed word: records in use */
};
_Static_assert(sizeof(struct skep_segment_header) == 480, "segment_header");
_Static_assert(offsetof(struct skep_segment_header, magic) == 0, "magic");
_Static_assert(offsetof(struct skep_segment_header, version) == 8, "version");
_Static_assert(offsetof(struct skep_segment_header, kind) == 12, "kind");
_Static_assert(offsetof(struct skep_segment_header, generation) == 16, "generation");
_Static_assert(offsetof(struct skep_segment_header, size_bytes) == 24, "size_bytes");
_Static_assert(offsetof(struct skep_segment_header, owner_uid) == 32, "owner_uid");
_Static_assert(offsetof(struct skep_segment_header, owner_pid) == 36, "owner_pid");
_Static_assert(offsetof(struct skep_segment_header, owner_start) == 40, "owner_start");
_Static_assert(offsetof(struct skep_segment_header, created_at_ms) == 48, "created_at_ms");
_Static_assert(offsetof(struct skep_segment_header, base_revision) == 56, "base_revision");
_Static_assert(offsetof(struct skep_segment_header, capacity) == 64, "capacity");
_Static_assert(offsetof(struct skep_segment_header, record_bytes) == 68, "record_bytes");
_Static_assert(offsetof(struct skep_segment_header, buckets) == 72, "buckets");
_Static_assert(offsetof(struct skep_segment_header, ring_entries) == 76, "ring_entries");
_Static_assert(offsetof(struct skep_segment_header, records_offset) == 80, "records_offset");
_Static_assert(offsetof(struct skep_segment_header, links_offset) == 84, "links_offset");
_Static_assert(offsetof(struct skep_segment_header, buckets_offset) == 88, "buckets_offset");
_Static_assert(offsetof(struct skep_segment_header, ring_offset) == 92, "ring_offset");
_Static_assert(offsetof(struct skep_segment_header, undo_offset) == 96, "undo_offset");
_Static_assert(offsetof(struct skep_segment_header, reserved) == 100, "reserved");
_Static_assert(offsetof(struct skep_segment_header, hash_multiplier) == 104, "hash_multiplier");
_Static_assert(offsetof(struct skep_segment_header, router_uuid) == 120, "router_uuid");
_Static_assert(offsetof(struct skep_segment_header, hive) == 136, "hive");
_Static_assert(offsetof(struct skep_segment_header, router_name) == 200, "router_name");
_Static_assert(offsetof(struct skep_segment_header, reserved2) == 456, "reserved2");
_Static_assert(offsetof(struct skep_segment_header, check) == 460, "check");
_Static_assert(offsetof(struct skep_segment_header, high_water) == 464, "high_water");
_Static_assert(offsetof(struct skep_segment_header, live) == 472, "live");

/* Node record. */
struct skep_node {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 0 free, 1 live, 2 more text of another record */
    uint8_t framing;  /* 0 JSON, 1 native */
    uint16_t text_bytes;  /* length of the whole name */
    uint32_t next;  /* record with the rest of the name, 0xFFFFFFFF = none */
    uint32_t uid;  /* of the connection, from the kernel */
    uint8_t uuid[16];  /* L1 address */
    uint8_t tenant[16];  /* zero = tenant-neutral */
    uint8_t ilk[16];  /* zero = none */
    uint64_t connected_at_ms;  /* Unix time, for display */
    uint32_t pid;
    uint32_t vpn_id;
    uint32_t flags;
    uint8_t text[32];  /* first bytes of the L2 name, UTF-8 */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_node) == 128, "node");
_Static_assert(offsetof(struct skep_node, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_node, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_node, state) == 12, "state");
_Static_assert(offsetof(struct skep_node, framing) == 13, "framing");
_Static_assert(offsetof(struct skep_node, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_node, next) == 16, "next");
_Static_assert(offsetof(struct skep_node, uid) == 20, "uid");
_Static_assert(offsetof(struct skep_node, uuid) == 24, "uuid");
_Static_assert(offsetof(struct skep_node, tenant) == 40, "tenant");
_Static_assert(offsetof(struct skep_node, ilk) == 56, "ilk");
_Static_assert(offsetof(struct skep_node, connected_at_ms) == 72, "connected_at_ms");
_Static_assert(offsetof(struct skep_node, pid) == 80, "pid");
_Static_assert(offsetof(struct skep_node, vpn_id) == 84, "vpn_id");
_Static_assert(offsetof(struct skep_node, flags) == 88, "flags");
_Static_assert(offsetof(struct skep_node, text) == 92, "text");
_Static_assert(offsetof(struct skep_node, check) == 124, "check");

/* Thread binding record. */
struct skep_binding {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 0 free, 1 live, 2 more text of another record */
    uint8_t reserved[1];  /* zero */
    uint16_t text_bytes;  /* length of handler name and reason together */
    uint32_t next;  /* record with the rest of the text, 0xFFFFFFFF = none */
    uint32_t handler_bytes;  /* length of the handler's name, which is first in the text */
    uint8_t thread[32];  /* thread id, binary digest */
    uint8_t handler_uuid[16];  /* zero = any node of that name */
    uint64_t lease_until_ns;  /* CLOCK_BOOTTIME; 0 = no lease */
    uint64_t revision;  /* of the binding, from its owner */
    uint8_t text[96];  /* handler name, then reason, UTF-8 */
    uint8_t reserved2[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_binding) == 192, "binding");
_Static_assert(offsetof(struct skep_binding, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_binding, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_binding, state) == 12, "state");
_Static_assert(offsetof(struct skep_binding, reserved) == 13, "reserved");
_Static_assert(offsetof(struct skep_binding, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_binding, next) == 16, "next");
_Static_assert(offsetof(struct skep_binding, handler_bytes) == 20, "handler_bytes");
_Static_assert(offsetof(struct skep_binding, thread) == 24, "thread");
_Static_assert(offsetof(struct skep_binding, handler_uuid) == 56, "handler_uuid");
_Static_assert(offsetof(struct skep_binding, lease_until_ns) == 72, "lease_until_ns");
_Static_assert(offsetof(struct skep_binding, revision) == 80, "revision");
_Static_assert(offsetof(struct skep_binding, text) == 88, "text");
_Static_assert(offsetof(struct skep_binding, reserved2) == 184, "reserved2");
_Static_assert(offsetof(struct skep_binding, check) == 188, "check");

/* Rest of a text (its size is the table's record size; the text reaches to the check). */
struct skep_more {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 2 */
    uint8_t reserved[1];  /* zero */
    uint16_t text_bytes;  /* length of this piece */
    uint32_t next;  /* record with the next piece, 0xFFFFFFFF = none */
    uint32_t owner;  /* CRC-32 of the key of the record it belongs to */
};
_Static_assert(sizeof(struct skep_more) == 24, "more");
_Static_assert(offsetof(struct skep_more, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_more, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_more, state) == 12, "state");
_Static_assert(offsetof(struct skep_more, reserved) == 13, "reserved");
_Static_assert(offsetof(struct skep_more, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_more, next) == 16, "next");
_Static_assert(offsetof(struct skep_more, owner) == 20, "owner");

/* Change ring entry. */
struct skep_change {
    uint64_t revision;  /* sealed word */
    uint64_t what;  /* sealed word, salted with the revision: kind << 32 | slot */
};
_Static_assert(sizeof(struct skep_change) == 16, "change");
_Static_assert(offsetof(struct skep_change, revision) == 0, "revision");
_Static_assert(offsetof(struct skep_change, what) == 8, "what");

/* Configuration bank header. */
struct skep_bank {
    uint64_t revision;  /* of the state in this bank; banks alternate with its lowest bit */
    uint64_t config_version;  /* version of the configuration as its owner counts */
    uint32_t routes;  /* rows */
    uint32_t vpns;  /* rows */
    uint32_t grants;  /* rows */
    uint32_t limits;  /* rows */
    uint32_t heap_bytes;  /* length of the strings after the rows */
    uint32_t check;  /* CRC-32 of the bytes before it, the rows and the heap */
};
_Static_assert(sizeof(struct skep_bank) == 40, "bank");
_Static_assert(offsetof(struct skep_bank, revision) == 0, "revision");
_Static_assert(offsetof(struct skep_bank, config_version) == 8, "config_version");
_Static_assert(offsetof(struct skep_bank, routes) == 16, "routes");
_Static_assert(offsetof(struct skep_bank, vpns) == 20, "vpns");
_Static_assert(offsetof(struct skep_bank, grants) == 24, "grants");
_Static_assert(offsetof(struct skep_bank, limits) == 28, "limits");
_Static_assert(offsetof(struct skep_bank, heap_bytes) == 32, "heap_bytes");
_Static_assert(offsetof(struct skep_bank, check) == 36, "check");

/* Route row. */
struct skep_route {
    uint32_t prefix_at;  /* offset in the heap */
    uint32_t hive_at;
    uint32_t name_at;
    uint16_t prefix_bytes;
    uint16_t hive_bytes;
    uint16_t name_bytes;
    uint8_t match_kind;  /* 0 exact, 1 prefix, 2 glob */
    uint8_t action;  /* 0 forward, 1 drop */
    uint32_t metric;
    uint64_t installed_at_ms;
    uint32_t priority;
    uint8_t reserved[4];  /* zero */
};
_Static_assert(sizeof(struct skep_route) == 40, "route");
_Static_assert(offsetof(struct skep_route, prefix_at) == 0, "prefix_at");
_Static_assert(offsetof(struct skep_route, hive_at) == 4, "hive_at");
_Static_assert(offsetof(struct skep_route, name_at) == 8, "name_at");
_Static_assert(offsetof(struct skep_route, prefix_bytes) == 12, "prefix_bytes");
_Static_assert(offsetof(struct skep_route, hive_bytes) == 14, "hive_bytes");
_Static_assert(offsetof(struct skep_route, name_bytes) == 16, "name_bytes");
_Static_assert(offsetof(struct skep_route, match_kind) == 18, "match_kind");
_Static_assert(offsetof(struct skep_route, action) == 19, "action");
_Static_assert(offsetof(struct skep_route, metric) == 20, "metric");
_Static_assert(offsetof(struct skep_route, installed_at_ms) == 24, "installed_at_ms");
_Static_assert(offsetof(struct skep_route, priority) == 32, "priority");
_Static_assert(offsetof(struct skep_route, reserved) == 36, "reserved");

/* VPN rule row. */
struct skep_vpn_rule {
    uint32_t pattern_at;  /* offset in the heap */
    uint16_t pattern_bytes;
    uint8_t match_kind;  /* 0 exact, 1 prefix, 2 glob */
    uint8_t reserved[1];  /* zero */
    uint32_t vpn_id;
    uint32_t priority;
};
_Static_assert(sizeof(struct skep_vpn_rule) == 16, "vpn_rule");
_Static_assert(offsetof(struct skep_vpn_rule, pattern_at) == 0, "pattern_at");
_Static_assert(offsetof(struct skep_vpn_rule, pattern_bytes) == 4, "pattern_bytes");
_Static_assert(offsetof(struct skep_vpn_rule, match_kind) == 6, "match_kind");
_Static_assert(offsetof(struct skep_vpn_rule, reserved) == 7, "reserved");
_Static_assert(offsetof(struct skep_vpn_rule, vpn_id) == 8, "vpn_id");
_Static_assert(offsetof(struct skep_vpn_rule, priority) == 12, "priority");

/* Grant row. */
struct skep_grant {
    uint32_t uid;
    uint32_t pattern_at;  /* offset in the heap */
    uint32_t kinds_at;  /* channel kinds, offset in the heap */
    uint16_t pattern_bytes;
    uint16_t kinds_bytes;
    uint8_t ilk[16];  /* zero = none */
    uint8_t tenant[16];  /* zero = tenant-neutral */
    uint8_t ilk_mode;  /* 0 none, 1 listed, 2 any */
    uint8_t reserved[7];  /* zero */
};
_Static_assert(sizeof(struct skep_grant) == 56, "grant");
_Static_assert(offsetof(struct skep_grant, uid) == 0, "uid");
_Static_assert(offsetof(struct skep_grant, pattern_at) == 4, "pattern_at");
_Static_assert(offsetof(struct skep_grant, kinds_at) == 8, "kinds_at");
_Static_assert(offsetof(struct skep_grant, pattern_bytes) == 12, "pattern_bytes");
_Static_assert(offsetof(struct skep_grant, kinds_bytes) == 14, "kinds_bytes");
_Static_assert(offsetof(struct skep_grant, ilk) == 16, "ilk");
_Static_assert(offsetof(struct skep_grant, tenant) == 32, "tenant");
_Static_assert(offsetof(struct skep_grant, ilk_mode) == 48, "ilk_mode");
_Static_assert(offsetof(struct skep_grant, reserved) == 49, "reserved");

/* Limit row. */
struct skep_limit {
    uint64_t value;
    uint32_t name_at;  /* offset in the heap */
    uint16_t name_bytes;
    uint8_t reserved[2];  /* zero */
};
_Static_assert(sizeof(struct skep_limit) == 16, "limit");
_Static_assert(offsetof(struct skep_limit, value) == 0, "value");
_Static_assert(offsetof(struct skep_limit, name_at) == 8, "name_at");
_Static_assert(offsetof(struct skep_limit, name_bytes) == 12, "name_bytes");
_Static_assert(offsetof(struct skep_limit, reserved) == 14, "reserved");

/* Hop record or event. */
struct skep_record {
    uint64_t position;  /* count of records before it, plus one; the slot is position modulo capacity */
    uint64_t at_ms;  /* Unix time, for display */
    uint64_t mono_ns;  /* CLOCK_MONOTONIC, for order and intervals */
    uint64_t message_id;
    uint8_t trace_id[16];
    uint8_t source[16];  /* uuid */
    uint8_t dest[16];  /* uuid */
    uint16_t kind;
    uint8_t source_name_bytes;
    uint8_t dest_name_bytes;
    uint8_t code_bytes;
    uint8_t detail_bytes;
    uint8_t reserved[2];  /* zero */
    uint8_t source_name[72];  /* UTF-8, cut to fit */
    uint8_t dest_name[72];  /* UTF-8, cut to fit */
    uint8_t code[24];  /* UTF-8, cut to fit */
    uint8_t detail[56];  /* UTF-8, cut to fit */
    uint8_t reserved2[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_record) == 320, "record");
_Static_assert(offsetof(struct skep_record, position) == 0, "position");
_Static_assert(offsetof(struct skep_record, at_ms) == 8, "at_ms");
_Static_assert(offsetof(struct skep_record, mono_ns) == 16, "mono_ns");
_Static_assert(offsetof(struct skep_record, message_id) == 24, "message_id");
_Static_assert(offsetof(struct skep_record, trace_id) == 32, "trace_id");
_Static_assert(offsetof(struct skep_record, source) == 48, "source");
_Static_assert(offsetof(struct skep_record, dest) == 64, "dest");
_Static_assert(offsetof(struct skep_record, kind) == 80, "kind");
_Static_assert(offsetof(struct skep_record, source_name_bytes) == 82, "source_name_bytes");
_Static_assert(offsetof(struct skep_record, dest_name_bytes) == 83, "dest_name_bytes");
_Static_assert(offsetof(struct skep_record, code_bytes) == 84, "code_bytes");
_Static_assert(offsetof(struct skep_record, detail_bytes) == 85, "detail_bytes");
_Static_assert(offsetof(struct skep_record, reserved) == 86, "reserved");
_Static_assert(offsetof(struct skep_record, source_name) == 88, "source_name");
_Static_assert(offsetof(struct skep_record, dest_name) == 160, "dest_name");
_Static_assert(offsetof(struct skep_record, code) == 232, "code");
_Static_assert(offsetof(struct skep_record, detail) == 256, "detail");
_Static_assert(offsetof(struct skep_record, reserved2) == 312, "reserved2");
_Static_assert(offsetof(struct skep_record, check) == 316, "check");

/* Policy head (bundle and shadow follow it). */
struct skep_policy {
    uint64_t revision;  /* of this publish */
    uint64_t policy_version;  /* version of the policy as its owner counts */
    uint32_t status;  /* 0 ok, 1 error, 2 loading */
    uint32_t bundle_bytes;  /* length of the signed bundle in force; 0 = none */
    uint32_t shadow_bytes;  /* length of the bundle that is only tried, after the first; 0 = none */
    uint32_t check;  /* CRC-32 of the bytes before it, the bundle and the shadow */
};
_Static_assert(sizeof(struct skep_policy) == 32, "policy");
_Static_assert(offsetof(struct skep_policy, revision) == 0, "revision");
_Static_assert(offsetof(struct skep_policy, policy_version) == 8, "policy_version");
_Static_assert(offsetof(struct skep_policy, status) == 16, "status");
_Static_assert(offsetof(struct skep_policy, bundle_bytes) == 20, "bundle_bytes");
_Static_assert(offsetof(struct skep_policy, shadow_bytes) == 24, "shadow_bytes");
_Static_assert(offsetof(struct skep_policy, check) == 28, "check");

/* Interlocutor record. */
struct skep_ilk {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 0 free, 1 live, 2 more text of another record */
    uint8_t kind;  /* 0 human, 1 agent, 2 system */
    uint16_t text_bytes;  /* length of the whole text */
    uint32_t next;  /* record with the rest of the text, 0xFFFFFFFF = none */
    uint8_t subtype;  /* of a human: 0 none, 1 internal, 2 external */
    uint8_t registration;  /* 0 temporary, 1 partial, 2 complete */
    uint8_t seal;  /* of an agent: 0 none, 1 valid, 2 broken, 3 expired, 4 revoked */
    uint8_t roles;  /* how many */
    uint8_t ilk[16];
    uint8_t tenant[16];  /* zero = tenant-neutral */
    uint8_t canonical[16];  /* not zero: this ILK is an alias of that one */
    uint64_t alias_until_ms;  /* Unix time; 0 = no expiry, or no alias */
    uint64_t seal_until_ms;  /* Unix time; 0 = none */
    uint8_t capabilities;  /* how many */
    uint8_t degrees;  /* how many */
    uint8_t channel_kinds;  /* how many */
    uint8_t reserved[1];  /* zero */
    uint8_t text[32];  /* handler, then roles, capabilities, degrees, channel kinds; UTF-8, a zero byte between two */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_ilk) == 128, "ilk");
_Static_assert(offsetof(struct skep_ilk, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_ilk, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_ilk, state) == 12, "state");
_Static_assert(offsetof(struct skep_ilk, kind) == 13, "kind");
_Static_assert(offsetof(struct skep_ilk, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_ilk, next) == 16, "next");
_Static_assert(offsetof(struct skep_ilk, subtype) == 20, "subtype");
_Static_assert(offsetof(struct skep_ilk, registration) == 21, "registration");
_Static_assert(offsetof(struct skep_ilk, seal) == 22, "seal");
_Static_assert(offsetof(struct skep_ilk, roles) == 23, "roles");
_Static_assert(offsetof(struct skep_ilk, ilk) == 24, "ilk");
_Static_assert(offsetof(struct skep_ilk, tenant) == 40, "tenant");
_Static_assert(offsetof(struct skep_ilk, canonical) == 56, "canonical");
_Static_assert(offsetof(struct skep_ilk, alias_until_ms) == 72, "alias_until_ms");
_Static_assert(offsetof(struct skep_ilk, seal_until_ms) == 80, "seal_until_ms");
_Static_assert(offsetof(struct skep_ilk, capabilities) == 88, "capabilities");
_Static_assert(offsetof(struct skep_ilk, degrees) == 89, "degrees");
_Static_assert(offsetof(struct skep_ilk, channel_kinds) == 90, "channel_kinds");
_Static_assert(offsetof(struct skep_ilk, reserved) == 91, "reserved");
_Static_assert(offsetof(struct skep_ilk, text) == 92, "text");
_Static_assert(offsetof(struct skep_ilk, check) == 124, "check");

/* Tenant record. */
struct skep_tenant {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 0 free, 1 live */
    uint8_t status;  /* 0 pending, 1 active, 2 suspended */
    uint16_t text_bytes;  /* 0 */
    uint32_t next;  /* 0xFFFFFFFF */
    uint32_t flags;
    uint8_t tenant[16];
    uint8_t reserved[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_tenant) == 48, "tenant");
_Static_assert(offsetof(struct skep_tenant, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_tenant, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_tenant, state) == 12, "state");
_Static_assert(offsetof(struct skep_tenant, status) == 13, "status");
_Static_assert(offsetof(struct skep_tenant, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_tenant, next) == 16, "next");
_Static_assert(offsetof(struct skep_tenant, flags) == 20, "flags");
_Static_assert(offsetof(struct skep_tenant, tenant) == 24, "tenant");
_Static_assert(offsetof(struct skep_tenant, reserved) == 40, "reserved");
_Static_assert(offsetof(struct skep_tenant, check) == 44, "check");

/* Channel record. */
struct skep_channel {
    uint64_t sequence;  /* even = at rest, odd = being written */
    uint32_t slot;  /* its own index */
    uint8_t state;  /* 0 free, 1 live */
    uint8_t reserved[1];  /* zero */
    uint16_t text_bytes;  /* length of the kind */
    uint32_t next;  /* 0xFFFFFFFF */
    uint8_t reserved2[4];  /* zero */
    uint8_t key[16];  /* keyed hash of kind, address and tenant: no address stands here */
    uint8_t ilk[16];  /* whose channel it is */
    uint8_t tenant[16];  /* zero = tenant-neutral */
    uint8_t text[32];  /* kind, UTF-8 */
    uint8_t reserved3[4];  /* zero */
    uint32_t check;  /* CRC-32 of the bytes before it */
};
_Static_assert(sizeof(struct skep_channel) == 112, "channel");
_Static_assert(offsetof(struct skep_channel, sequence) == 0, "sequence");
_Static_assert(offsetof(struct skep_channel, slot) == 8, "slot");
_Static_assert(offsetof(struct skep_channel, state) == 12, "state");
_Static_assert(offsetof(struct skep_channel, reserved) == 13, "reserved");
_Static_assert(offsetof(struct skep_channel, text_bytes) == 14, "text_bytes");
_Static_assert(offsetof(struct skep_channel, next) == 16, "next");
_Static_assert(offsetof(struct skep_channel, reserved2) == 20, "reserved2");
_Static_assert(offsetof(struct skep_channel, key) == 24, "key");
_Static_assert(offsetof(struct skep_channel, ilk) == 40, "ilk");
_Static_assert(offsetof(struct skep_channel, tenant) == 56, "tenant");
_Static_assert(offsetof(struct skep_channel, text) == 72, "text");
_Static_assert(offsetof(struct skep_channel, reserved3) == 104, "reserved3");
_Static_assert(offsetof(struct skep_channel, check) == 108, "check");

/* A sealed word: 48 bits of value, 16 bits of check. Returns 0 when the check does not match. */
static inline int skep_unseal(uint64_t word, uint64_t salt, uint64_t *value) {
    uint64_t v = word >> 16;
    uint64_t check = ((v * UINT64_C(0x9E3779B97F4A7C15)) >> 48) ^ UINT64_C(0xA5A5) ^ (salt & 0xFFFF);
    *value = v;
    return (word & 0xFFFF) == check;
}

/* CRC-32 as in zlib. A record followed by its own check has the residue below. */
#define SKEP_CRC_RESIDUE UINT32_C(0x2144DF1C)
static inline uint32_t skep_crc32(const void *data, size_t size) {
    const uint8_t *byte = (const uint8_t *)data;
    uint32_t crc = UINT32_C(0xFFFFFFFF);
    for (size_t i = 0; i < size; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0U - (crc & 1U)));
    }
    return ~crc;
}

/* Copies the last good version of a table record to `out`; 0 = never written, damaged, or never at rest.
 * The whole record is copied, sequence and check included. Never waits for the writer. */
static inline int skep_read_record(const uint8_t *segment, uint32_t slot, void *out) {
    const struct skep_segment_header *header = (const struct skep_segment_header *)segment;
    size_t size = header->record_bytes;
    if (slot >= header->capacity) return 0;
    const uint8_t *record = segment + header->records_offset + (size_t)slot * size;
    const uint64_t *sequence = (const uint64_t *)record;
    for (int i = 0; i < SKEP_READ_TRIES; i++) {
        uint64_t before = __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
        const uint8_t *source = before & 1 ? segment + header->undo_offset : record;
        uint32_t place;
        memcpy(out, source, size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(sequence, __ATOMIC_RELAXED) != before) continue;
        memcpy(&place, (const uint8_t *)out + 8, 4);
        if (skep_crc32(out, size) == SKEP_CRC_RESIDUE && place == slot) return 1;
        if (!(before & 1)) return 0;
    }
    return 0;
}

/* Copies the record with this key to `out` through the hash index; `key_at` is where the key lies in a record.
 * 0 = no record has it, if the region's revision stood still meanwhile; else ask again. */
static inline int skep_find_record(const uint8_t *segment, const uint8_t *key, size_t key_bytes, size_t key_at,
                                   void *out) {
    const struct skep_segment_header *header = (const struct skep_segment_header *)segment;
    const uint64_t *links = (const uint64_t *)(segment + header->links_offset);
    const uint64_t *word = (const uint64_t *)(segment + header->buckets_offset);
    unsigned __int128 number, multiplier;
    if (header->buckets == 0 || key_bytes < sizeof number) return 0;
    memcpy(&number, key, sizeof number);
    memcpy(&multiplier, header->hash_multiplier, sizeof multiplier);
    if (header->buckets > 1) word += (size_t)((number * multiplier) >> (128 - __builtin_ctz(header->buckets)));
    for (uint32_t i = 0; i <= header->capacity; i++) {
        uint64_t next;
        if (!skep_unseal(__atomic_load_n(word, __ATOMIC_ACQUIRE), 0, &next)) return 0;
        if (next == 0 || next > header->capacity) return 0;
        if (!skep_read_record(segment, (uint32_t)(next - 1), out)) return 0;
        const uint8_t *record = (const uint8_t *)out;
        if (record[12] == SKEP_STATE_LIVE && memcmp(record + key_at, key, key_bytes) == 0) return 1;
        word = links + (next - 1);
    }
    return 0;
}

#endif
