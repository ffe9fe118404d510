#include "engine/build/outdir.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int sk_outdir_lock(struct sk_outdir *o, const char *path, struct sk_err *err)
{
    struct stat held, named;
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    *o = (struct sk_outdir){.lock_fd = -1};
    if (!n || n >= sizeof o->path)
        return sk_err_set(err, SK_EINVAL, NULL, "bad length of path: '%.200s'", path);
    memcpy(o->path, path, n);
    snprintf(o->lock, sizeof o->lock, "%s.lock", o->path);
    for (;;) {
        int rc = 0, fd = open(o->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return sk_err_errno(err, SK_EIO, NULL, "cannot create %s", o->lock);
        if (flock(fd, LOCK_EX)) {
            rc = errno == EINTR ? SK_ECANCEL : SK_EIO; /* a signal that the program handles means: stop waiting */
            rc = sk_err_errno(err, rc, NULL, "cannot lock %s", o->lock);
            close(fd);
            return rc;
        }
        /* The one before us removes the file: then what we hold is no longer the lock. */
        if (!fstat(fd, &held) && !stat(o->lock, &named) && held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
            o->lock_fd = fd;
            return 0;
        }
        close(fd);
    }
}

int sk_outdir_remove(const char *path, struct sk_err *err)
{
    DIR *d = opendir(path);
    int rc = 0;

    if (!d)
        return sk_err_errno(err, SK_EIO, NULL, "cannot open %s", path);
    for (struct dirent *e; !rc && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0))
            rc = sk_err_errno(err, SK_EIO, NULL, "cannot remove %s/%.200s", path, e->d_name);
    }
    closedir(d);
    if (!rc && rmdir(path))
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot remove %s", path);
    return rc;
}

/* Splits path into its directory (as opendir wants it) and the last name. */
static const char *split(const char *path, char *dir, size_t n)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        snprintf(dir, n, ".");
    else
        snprintf(dir, n, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return slash ? slash + 1 : path;
}

/* Directories called NAME.tmp.*: nobody else holds the lock, so nobody is filling them. */
static void remove_stale(const struct sk_outdir *o)
{
    char parent[1024], prefix[1088], path[2200];
    const char *name = split(o->path, parent, sizeof parent);
    DIR *d = opendir(parent);

    if (!d)
        return;
    snprintf(prefix, sizeof prefix, "%s.tmp.", name);
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, prefix, strlen(prefix)))
            continue;
        snprintf(path, sizeof path, "%s/%s", parent, e->d_name);
        sk_outdir_remove(path, NULL); /* one that cannot be removed is only in the way of the disk's space */
    }
    closedir(d);
}

int sk_outdir_make(struct sk_outdir *o, struct sk_err *err)
{
    remove_stale(o);
    snprintf(o->tmp, sizeof o->tmp, "%s.tmp.%ld", o->path, (long)getpid());
    if (mkdir(o->tmp, 0755)) {
        int rc = sk_err_errno(err, SK_EIO, NULL, "cannot create %s", o->tmp);
        o->tmp[0] = 0;
        return rc;
    }
    return 0;
}

static int sync_file(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC), rc = fd < 0 || fsync(fd);

    if (fd >= 0)
        close(fd);
    return rc;
}

/* The files of a directory, whoever wrote them, and its list of names. */
static int sync_all(const char *path)
{
    DIR *d = opendir(path);
    int rc = !d;

    for (struct dirent *e; !rc && (e = readdir(d));)
        rc = sync_file(dirfd(d), e->d_name);
    if (d)
        closedir(d);
    return rc;
}

int sk_outdir_commit(struct sk_outdir *o, struct sk_err *err)
{
    char parent[1024];

    split(o->path, parent, sizeof parent);
    if (sync_all(o->tmp) || rename(o->tmp, o->path))
        return sk_err_errno(err, SK_EIO, NULL, "cannot rename %s to %s", o->tmp, o->path);
    o->tmp[0] = 0;
    return sync_file(AT_FDCWD, parent) ? sk_err_errno(err, SK_EIO, NULL, "cannot write %s", parent) : 0;
}

void sk_outdir_done(struct sk_outdir *o)
{
    if (o->tmp[0])
        sk_outdir_remove(o->tmp, NULL);
    unlink(o->lock);
    close(o->lock_fd);
    o->tmp[0] = 0;
    o->lock_fd = -1;
}
