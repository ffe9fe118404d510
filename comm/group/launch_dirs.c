/* A job's folders. mpirun and its ranks leave files behind when they are killed, so all that they make lies below a
 * folder that we wipe: after each end, before each start, and those of daemons that are gone. */
#define _GNU_SOURCE /* nftw */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "comm/group/launch.h"

enum { MAX_BASE = SK_LAUNCH_PATH - 40, MAX_OPEN = 16 }; /* what is left is for /job-PID-NUMBER and a socket's name */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, MAX_OPEN, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Made if it is not there. Others may not be able to put anything there: in /tmp anybody may have made it before us. */
static int own_folder(const char *path, struct sk_err *err)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return sk_err_errno(err, SK_EIO, NULL, "cannot make %s", path);
    if (lstat(path, &st) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot use %s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return sk_err_set(err, SK_EIO, NULL, "%s must be a folder of this user's that no one else may write to", path);
    return 0;
}

/* Folders of jobs whose daemon is gone. */
static void sweep(const char *base)
{
    DIR *d = opendir(base);
    if (!d)
        return;
    for (const struct dirent *e; (e = readdir(d));) {
        char path[SK_LAUNCH_PATH];
        unsigned number;
        int pid, n = 0;
        if (sscanf(e->d_name, "job-%d-%u%n", &pid, &number, &n) != 2 || e->d_name[n] || pid <= 0)
            continue;
        if (kill(pid, 0) != 0 && errno == ESRCH &&
            (size_t)snprintf(path, sizeof path, "%s/%s", base, e->d_name) < sizeof path)
            remove_tree(path);
    }
    closedir(d);
}

static int make_job(const char *base, uint32_t number, char ret[SK_LAUNCH_PATH], struct sk_err *err)
{
    char path[SK_LAUNCH_PATH];
    int rc = own_folder(base, err);
    if (rc != 0)
        return rc;
    sweep(base);
    snprintf(path, sizeof path, "%s/job-%d-%u", base, (int)getpid(), number);
    remove_tree(path);
    if (mkdir(path, 0700) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot make %s", path);
    strcpy(ret, path);
    return 0;
}

/* A path that is too long for a socket below it is passed over. */
static void find_base(char ret[MAX_BASE])
{
    const char *run = getenv("RUNTIME_DIRECTORY"), *xdg = getenv("XDG_RUNTIME_DIR");
    if (run && *run == '/' && snprintf(ret, MAX_BASE, "%.*s", (int)strcspn(run, ":"), run) < MAX_BASE)
        return;
    if (xdg && *xdg == '/' && snprintf(ret, MAX_BASE, "%s/skein", xdg) < MAX_BASE && access(xdg, W_OK) == 0)
        return;
    snprintf(ret, MAX_BASE, "/tmp/skein-%u", (unsigned)geteuid());
}

int sk_launch_make_dirs(uint32_t number, struct sk_launch_dirs *ret, struct sk_err *err)
{
    struct sk_launch_dirs d;
    char base[MAX_BASE];
    struct statfs fs;
    find_base(base);
    int rc = make_job(base, number, d.dir, err);
    if (rc != 0)
        return rc;
    strcpy(d.shm, d.dir);
    if (statfs(d.dir, &fs) != 0 || fs.f_type != TMPFS_MAGIC) {
        snprintf(base, sizeof base, "/dev/shm/skein-%u", (unsigned)geteuid());
        rc = make_job(base, number, d.shm, err);
    }
    if (rc != 0)
        remove_tree(d.dir);
    else
        *ret = d;
    return rc;
}

void sk_launch_wipe(const struct sk_launch_dirs *d)
{
    remove_tree(d->dir);
    if (strcmp(d->dir, d->shm) != 0)
        remove_tree(d->shm);
}
