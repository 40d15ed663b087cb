/* Reads the nodes of one segment through skep_shm.h, N times over, and prints what it saw last.
 * Ends with 1 when a record that it was given contradicts itself. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "skep_shm.h"

/* The whole name: what is in the record, then in the records that continue it. 0 = changed meanwhile. */
static int read_name(const uint8_t *segment, const struct skep_node *node, char *name) {
    union { struct skep_node node; struct skep_more more; uint8_t bytes[256]; } piece;
    size_t done = node->text_bytes < sizeof node->text ? node->text_bytes : sizeof node->text;
    uint32_t next = node->next;
    memcpy(name, node->text, done);
    while (done < node->text_bytes) {
        if (!skep_read_record(segment, next, &piece)) return 0;
        if (piece.more.state != SKEP_STATE_MORE || piece.more.owner != skep_crc32(node->uuid, 16)) return 0;
        memcpy(name + done, piece.bytes + sizeof piece.more, piece.more.text_bytes);
        done += piece.more.text_bytes;
        next = piece.more.next;
    }
    name[done] = 0;
    return 1;
}

static void print_node(const uint8_t *segment, uint32_t slot, const struct skep_node *node) {
    char name[512];
    if (!read_name(segment, node, name)) return;
    printf("%u ", slot);
    for (int i = 0; i < 16; i++) printf("%02x", node->uuid[i]);
    printf(" %u %u %s\n", node->uid, node->flags, name);
}

static int usable(const struct skep_segment_header *header, size_t size) {
    size_t checked = offsetof(struct skep_segment_header, high_water);
    return header->magic == SKEP_SHM_MAGIC && header->version == SKEP_SHM_VERSION
        && header->kind == SKEP_REGION_NODES && header->size_bytes == size
        && skep_crc32(header, checked) == SKEP_CRC_RESIDUE;
}

int main(int argc, char **argv) {
    struct stat info;
    int fd = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (fd < 0 || fstat(fd, &info) != 0 || (size_t)info.st_size < sizeof(struct skep_segment_header)) return 2;
    const uint8_t *segment = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    const struct skep_segment_header *header = (const struct skep_segment_header *)segment;
    if (segment == MAP_FAILED || !usable(header, (size_t)info.st_size)) return 3;
    long rounds = atol(argv[2]);
    for (long round = 0; round < rounds; round++) {
        uint64_t high;
        if (!skep_unseal(__atomic_load_n(&header->high_water, __ATOMIC_ACQUIRE), 0, &high)) return 4;
        for (uint32_t slot = 0; slot < high; slot++) {
            struct skep_node node;
            if (!skep_read_record(segment, slot, &node)) return 5;
            if (node.state != SKEP_STATE_LIVE) continue;
            if (rounds > 1 && (node.uid != node.flags || memcmp(node.tenant, node.ilk, 16) != 0)) return 1;
            if (round == rounds - 1) print_node(segment, slot, &node);
        }
    }
    return 0;
}
