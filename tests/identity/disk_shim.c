/* Stands between a process and its disk, by LD_PRELOAD: fails or kills at the n-th call, or records every call.

   SHIM_FOLDER   only files below this folder are looked at
   SHIM_OP       write | sync: which calls are counted
   SHIM_NTH      the call that fails, from 1
   SHIM_ERROR    an errno, or 0: kill -9 instead (before the call)
   SHIM_FOREVER  1: every later call of that kind fails as well
   SHIM_TRACE    a file to which every write, truncation, sync and failure is appended, in order

   A record of the trace: u8 op (W, T, S, F), u8 length of the name, u64 offset or size, u32 length, name, data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static const char *folder;
static int trace_fd = -1, error_number = -1, forever;
static long nth, count;
static char counted;

__attribute__((constructor)) static void begin(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    folder = getenv("SHIM_FOLDER");
    const char *op = getenv("SHIM_OP"), *trace = getenv("SHIM_TRACE");
    if (op) {
        counted = op[0];
        nth = atol(getenv("SHIM_NTH"));
        error_number = atoi(getenv("SHIM_ERROR"));
        forever = getenv("SHIM_FOREVER") != NULL;
    }
    if (trace) trace_fd = open(trace, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(int fd, char *name, size_t size) {
    char link[64];
    if (!folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, size - 1);
    if (length <= 0) return 0;
    name[length] = 0;
    return strncmp(name, folder, strlen(folder)) == 0;
}

static void record(char op, const char *name, uint64_t at, const void *data, uint32_t length) {
    if (trace_fd < 0) return;
    const char *base = strrchr(name, '/') + 1;
    char head[14 + 256];
    uint8_t name_length = (uint8_t)strlen(base);
    head[0] = op;
    head[1] = (char)name_length;
    memcpy(head + 2, &at, 8);
    memcpy(head + 10, &length, 4);
    memcpy(head + 14, base, name_length);
    real_write(trace_fd, head, 14 + name_length);
    if (length) real_write(trace_fd, data, length);
}

static int fails(char op, const char *name) {
    if (op != counted) return 0;
    long at = __sync_add_and_fetch(&count, 1);
    if (at < nth || (at > nth && !forever)) return 0;
    if (!error_number) kill(getpid(), SIGKILL);
    record('F', name, 0, NULL, 0);
    errno = error_number;
    return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) {
    char name[512];
    if (ours(fd, name, sizeof name)) {
        if (fails('w', name)) return -1;
        record('W', name, (uint64_t)at, data, (uint32_t)length);
    }
    return real_pwrite(fd, data, length, at);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }

ssize_t write(int fd, const void *data, size_t length) {
    char name[512];
    if (ours(fd, name, sizeof name)) {
        if (fails('w', name)) return -1;
        record('W', name, (uint64_t)lseek(fd, 0, SEEK_CUR), data, (uint32_t)length);
    }
    return real_write(fd, data, length);
}

int fsync(int fd) {
    char name[512];
    if (ours(fd, name, sizeof name)) {
        if (fails('s', name)) return -1;
        record('S', name, 0, NULL, 0);
    }
    return real_fsync(fd);
}

int fdatasync(int fd) {
    char name[512];
    if (ours(fd, name, sizeof name)) {
        if (fails('s', name)) return -1;
        record('S', name, 0, NULL, 0);
    }
    return real_fdatasync(fd);
}

int ftruncate64(int fd, off_t size) {
    char name[512];
    if (ours(fd, name, sizeof name)) {
        if (fails('w', name)) return -1;
        record('T', name, (uint64_t)size, NULL, 0);
    }
    return real_ftruncate(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
