#define _GNU_SOURCE /* memmem */
#include "server/job/procs.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ARGS_BYTES = 16 << 10 };

/* The bytes read, 0 where there is nothing any more. */
static size_t read_proc(int pid, const char *what, char *ret, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, ret, n) : -1;
    if (fd >= 0)
        close(fd);
    return got > 0 ? (size_t)got : 0;
}

static bool is_ours(int pid)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d", pid);
    return pid != (int)getpid() && stat(path, &st) == 0 && st.st_uid == geteuid();
}

int sk_procs_find(const char *text, int *ret, int max)
{
    static char args[MAX_ARGS_BYTES]; /* of the loop thread */
    DIR *d = opendir("/proc");
    int n = 0;
    for (const struct dirent *e; d && n < max && (e = readdir(d));) {
        int pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
        if (pid > 0 && is_ours(pid) && memmem(args, read_proc(pid, "cmdline", args, sizeof args), text, strlen(text)))
            ret[n++] = pid;
    }
    if (d)
        closedir(d);
    return n;
}

bool sk_procs_is_stopped(int pid)
{
    char text[512];
    text[read_proc(pid, "stat", text, sizeof text - 1)] = '\0';
    const char *end = strrchr(text, ')'); /* of the name, which may hold anything */
    return end && (strncmp(end, ") T", 3) == 0 || strncmp(end, ") t", 3) == 0);
}
