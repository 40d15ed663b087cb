"""The C header, printed from the declared layouts: the same offsets, asserted again by the C compiler.

Besides the structs it has what a reader in C cannot do without: the sealed words, the checksum, and the read section of
the seqlock with the fences that CPython lacks, so it is right on arm64, too.
"""

from __future__ import annotations

from skep_shm.layout import Field, Layout
from skep_shm.layouts import LAYOUTS, MAGIC, SLOT_NONE, VERSION, RegionKind, State
from skep_shm.types import (
    ChangeKind,
    IlkKind,
    PolicyStatus,
    RecordKind,
    Registration,
    SealStatus,
    Subtype,
    TenantStatus,
)

_C_TYPES = {"u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t"}

_FUNCTIONS = r"""
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
"""


def _member(layout: Layout, field: Field) -> str:
    note = f"  /* {field.note} */" if field.note else ""
    if field.kind in _C_TYPES:
        return f"    {_C_TYPES[field.kind]} {field.name};{note}"
    return f"    uint8_t {field.name}[{field.size}];{note}"


def _struct(layout: Layout) -> str:
    name = f"struct skep_{layout.name}"
    lines = [f"/* {layout.title}. */", f"{name} {{"]
    lines += [_member(layout, field) for field in layout.fields]
    lines += ["};", f'_Static_assert(sizeof({name}) == {layout.size}, "{layout.name}");']
    lines += [
        f'_Static_assert(offsetof({name}, {field.name}) == {layout.offset(field.name)}, "{field.name}");'
        for field in layout.fields
    ]
    return "\n".join(lines)


def _constants() -> str:
    lines = [
        f"#define SKEP_SHM_VERSION {VERSION}",
        f"#define SKEP_SHM_MAGIC UINT64_C(0x{MAGIC:016X})",
        f"#define SKEP_SLOT_NONE UINT32_C(0x{SLOT_NONE:08X})",
        "#define SKEP_READ_TRIES 1024",
    ]
    for prefix, enum in (
        ("SKEP_REGION", RegionKind),
        ("SKEP_STATE", State),
        ("SKEP_CHANGE", ChangeKind),
        ("SKEP_RECORD", RecordKind),
        ("SKEP_POLICY", PolicyStatus),
        ("SKEP_ILK", IlkKind),
        ("SKEP_SUBTYPE", Subtype),
        ("SKEP_REGISTRATION", Registration),
        ("SKEP_SEAL", SealStatus),
        ("SKEP_TENANT", TenantStatus),
    ):
        lines += [f"#define {prefix}_{member.name} {member.value}" for member in enum]
    return "\n".join(lines)


def text() -> str:
    """The header file."""
    parts = [
        "/* Regions of shared memory of a Skep hive. Printed by `python -m skep_shm header`: do not edit.",
        " * All numbers are little-endian. docs/shm.md says how to read them. */",
        "#ifndef SKEP_SHM_H",
        "#define SKEP_SHM_H",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#include <string.h>",
        "",
        _constants(),
        "",
        "\n\n".join(_struct(layout) for layout in LAYOUTS),
        _FUNCTIONS,
        "#endif",
        "",
    ]
    return "\n".join(parts)
