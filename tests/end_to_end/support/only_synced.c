/* Preloaded into a server under test: keeps, beside the folder named by ONLY_SYNCED_OF, what a power cut
   would leave of it, in the folder named by ONLY_SYNCED_TO:

     files/INODE   what a file held when it was last synced
     names/PATH    the names in a directory when it was last synced: "d" or "f", inode, name, a line each;
                   in PATH each / is a %

   A sync has done nothing until this is there: whoever waits for one waits for both. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static FILE *begin(const char *temporary)
{
    FILE *out = fopen(temporary, "we");
    if (!out)
        abort();
    return out;
}

/* The process may be killed at any moment: all of it is there, or what was. */
static void end(FILE *out, const char *temporary, const char *name)
{
    if (fclose(out) != 0 || rename(temporary, name) != 0)
        abort();
}

static void keep(int fd)
{
    const char *of = getenv("ONLY_SYNCED_OF"), *to = getenv("ONLY_SYNCED_TO");
    char link[64], path[4096], name[8192], temporary[8192], bytes[65536];
    struct stat stat;
    if (!of || !to)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || fstat(fd, &stat) != 0)
        return;
    path[length] = 0;
    if (strncmp(path, of, strlen(of)) != 0)
        return;
    snprintf(temporary, sizeof temporary, "%s/%d-%d", to, getpid(), gettid());
    if (S_ISDIR(stat.st_mode)) {
        FILE *out = begin(temporary);
        DIR *directory = opendir(path);
        struct dirent *entry;
        while (directory && (entry = readdir(directory)))
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                fprintf(out, "%c %lu %s\n", entry->d_type == DT_DIR ? 'd' : 'f', (unsigned long)entry->d_ino,
                        entry->d_name);
        if (directory)
            closedir(directory);
        for (char *at = path; *at; at++)
            if (*at == '/')
                *at = '%';
        snprintf(name, sizeof name, "%s/names/%s", to, path);
        end(out, temporary, name);
    } else {
        int from = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t read_now;
        if (from < 0)
            return;
        FILE *out = begin(temporary);
        while ((read_now = read(from, bytes, sizeof bytes)) > 0)
            fwrite(bytes, 1, (size_t)read_now, out);
        close(from);
        snprintf(name, sizeof name, "%s/files/%lu", to, (unsigned long)stat.st_ino);
        end(out, temporary, name);
    }
}

static int synced(const char *call, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    int status = real(fd);
    if (status == 0)
        keep(fd);
    return status;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
