/* Preloaded into a process: writes into files of the audit log wait as long as the file that $HANG_WHILE names exists.
 *
 * The calls of the process are real, and so is the thread that hangs in one. What hangs is this function and not the
 * kernel, so the process can be killed; in a kernel with a dead NFS server it could not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_the_disk(int fd) {
    const char *gate = getenv("HANG_WHILE");
    char link[64], path[4096];
    ssize_t length;
    if (gate == NULL) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 4) return;
    path[length] = 0;
    if (strcmp(path + length - 4, ".seg") != 0) return;
    while (access(gate, F_OK) == 0) usleep(2000);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (real == NULL) real = dlsym(RTLD_NEXT, "pwrite64");
    wait_for_the_disk(fd);
    return real(fd, bytes, count, at);
}
