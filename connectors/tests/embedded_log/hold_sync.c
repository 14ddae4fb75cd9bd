/* Preloaded into a child of a test: while the file named by HOLD_SYNC exists, a sync of any file is
   held, and "<HOLD_SYNC>.held" is made to say so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int held_sync(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *hold = getenv("HOLD_SYNC");
    char held[4096];
    if (hold && access(hold, F_OK) == 0) {
        snprintf(held, sizeof held, "%s.held", hold);
        close(open(held, O_CREAT | O_WRONLY, 0600));
        while (access(hold, F_OK) == 0)
            usleep(1000);
    }
    return real(fd);
}

int fsync(int fd) { return held_sync("fsync", fd); }
int fdatasync(int fd) { return held_sync("fdatasync", fd); }
