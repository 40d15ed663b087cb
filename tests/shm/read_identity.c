/* Reads regions of identity through skep_shm.h: `ilk SEGMENT KEY` and `channel SEGMENT KEY`, KEY in hexadecimal.
 * Prints the record with this key, or `none`. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "skep_shm.h"

static void print_hex(const uint8_t *bytes) {
    for (int i = 0; i < 16; i++) printf("%02x", bytes[i]);
    printf(" ");
}

/* The text of an ILK, its zero bytes as '|'. 0 = changed meanwhile. */
static int print_text(const uint8_t *segment, const struct skep_ilk *ilk) {
    union { struct skep_ilk ilk; struct skep_more more; uint8_t bytes[sizeof(struct skep_ilk)]; } piece;
    char text[9000];
    size_t done = ilk->text_bytes < sizeof ilk->text ? ilk->text_bytes : sizeof ilk->text;
    uint32_t next = ilk->next;
    memcpy(text, ilk->text, done);
    while (done < ilk->text_bytes) {
        if (!skep_read_record(segment, next, &piece)) return 0;
        if (piece.more.state != SKEP_STATE_MORE || piece.more.owner != skep_crc32(ilk->ilk, 16)) return 0;
        if (done + piece.more.text_bytes > sizeof text) return 0;
        memcpy(text + done, piece.bytes + sizeof piece.more, piece.more.text_bytes);
        done += piece.more.text_bytes;
        next = piece.more.next;
    }
    for (size_t i = 0; i < done; i++) putchar(text[i] ? text[i] : '|');
    return 1;
}

static int print_ilk(const uint8_t *segment, const uint8_t *key) {
    struct skep_ilk ilk;
    if (!skep_find_record(segment, key, 16, offsetof(struct skep_ilk, ilk), &ilk)) return puts("none"), 0;
    print_hex(ilk.ilk);
    print_hex(ilk.tenant);
    print_hex(ilk.canonical);
    printf("%u %u %u %u ", ilk.kind, ilk.subtype, ilk.registration, ilk.seal);
    printf("%llu %llu ", (unsigned long long)ilk.alias_until_ms, (unsigned long long)ilk.seal_until_ms);
    printf("%u %u %u %u ", ilk.roles, ilk.capabilities, ilk.degrees, ilk.channel_kinds);
    if (!print_text(segment, &ilk)) return 5;
    puts("");
    return 0;
}

static int print_channel(const uint8_t *segment, const uint8_t *key) {
    struct skep_channel channel;
    if (!skep_find_record(segment, key, 16, offsetof(struct skep_channel, key), &channel)) return puts("none"), 0;
    print_hex(channel.key);
    print_hex(channel.ilk);
    print_hex(channel.tenant);
    printf("%.*s\n", (int)channel.text_bytes, (const char *)channel.text);
    return 0;
}

int main(int argc, char **argv) {
    struct stat info;
    uint8_t key[16];
    int fd = argc == 4 ? open(argv[2], O_RDONLY) : -1;
    if (fd < 0 || fstat(fd, &info) != 0 || (size_t)info.st_size < sizeof(struct skep_segment_header)) return 2;
    for (int i = 0; i < 16; i++)
        if (sscanf(argv[3] + 2 * i, "%2hhx", &key[i]) != 1) return 2;
    const uint8_t *segment = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    const struct skep_segment_header *header = (const struct skep_segment_header *)segment;
    int ilk = argv[1][0] == 'i';
    if (segment == MAP_FAILED || header->magic != SKEP_SHM_MAGIC || header->version != SKEP_SHM_VERSION
        || header->kind != (ilk ? SKEP_REGION_ILKS : SKEP_REGION_CHANNELS)
        || header->size_bytes != (uint64_t)info.st_size) return 3;
    return ilk ? print_ilk(segment, key) : print_channel(segment, key);
}
