/* Loaded before the C library: counts what changes files inside a folder, and ends the process at the n-th of these. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], trace[1 << 16];
static int count, fatal;

/* Begin to count inside a folder; fatal is where to end, counted from 1, or 0 for nowhere. */
void arm(const char *path, int n) {
    strncpy(folder, path, sizeof folder - 1);
    count = 0;
    fatal = n;
}

/* One letter for each operation so far: w(rite), s(ync), r(eplace). */
const char *operations(void) { return trace; }

static int inside(int file) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return folder[0] && readlink(link, path, sizeof path - 1) > 0 && strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether to end here. */
static int reached(char kind) {
    if (count < (int)sizeof trace - 1) trace[count] = kind;
    return ++count == fatal;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t size) {
    if (inside(file) && reached('w')) {
        REAL(write)(file, bytes, size / 2);
        _exit(9);
    }
    return REAL(write)(file, bytes, size);
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    if (inside(file) && reached('w')) _exit(9);
    return REAL(writev)(file, parts, number);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    if (inside(file) && reached('w')) _exit(9);
    return REAL(pwrite64)(file, bytes, size, at);
}

int fsync(int file) {
    if (inside(file) && reached('s')) _exit(9);
    return REAL(fsync)(file);
}

int rename(const char *from, const char *to) {
    if (folder[0] && strncmp(to, folder, strlen(folder)) == 0 && reached('r')) _exit(9);
    return REAL(rename)(from, to);
}
