#include "engine/build/skw.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>
#include "comm/base/mem.h"

enum { ALIGN = 4096 };

static uint64_t align_up(uint64_t n)
{
    return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

static uint64_t table_bytes(uint32_t n_tensor)
{
    return align_up(sizeof(struct sk_dir_head) + (uint64_t)n_tensor * sizeof(struct sk_dir_entry));
}

uint64_t sk_skw_size(uint32_t n_tensor, uint64_t n_bytes)
{
    return table_bytes(n_tensor) + n_bytes;
}

static int check_space(const char *dir, uint64_t size, struct sk_err *err)
{
    struct statvfs st;

    if (statvfs(dir, &st))
        return sk_err_errno(err, SK_EIO, NULL, "cannot ask for the free space of %s", dir);
    uint64_t free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    if (free_bytes < size)
        return sk_err_set(err, SK_EIO, NULL, "the engine directory takes %.1f MB, %s has %.1f MB free",
                          (double)size / 1e6, dir, (double)free_bytes / 1e6);
    return 0;
}

int sk_skw_open(struct sk_skw *w, const char *dir, uint32_t n_tensor, uint64_t size, struct sk_err *err)
{
    int rc;

    *w = (struct sk_skw){.fd = -1, .cap = n_tensor, .offset = table_bytes(n_tensor)};
    if ((size_t)snprintf(w->path, sizeof w->path, "%s/weights.skw", dir) >= sizeof w->path)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", dir);
    if ((rc = check_space(dir, size, err)))
        return rc;
    w->entries = sk_calloc(n_tensor, sizeof *w->entries);
    if (!w->entries)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    w->fd = open(w->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return w->fd < 0 ? sk_err_errno(err, SK_EIO, NULL, "cannot create %s", w->path) : 0;
}

static int write_at(struct sk_skw *w, const void *data, uint64_t n, uint64_t offset, struct sk_err *err)
{
    const char *p = data;

    while (n) {
        ssize_t done = pwrite(w->fd, p, n < 1 << 30 ? n : 1 << 30, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", w->path);
        p += done;
        n -= (uint64_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

int sk_skw_add(struct sk_skw *w, const struct sk_dir_entry *e, const void *data, struct sk_err *err)
{
    sk_assert(w->n < w->cap);
    struct sk_dir_entry *to = &w->entries[w->n];
    int rc = write_at(w, data, e->bytes, w->offset, err);

    if (rc)
        return rc;
    *to = *e;
    to->offset = w->offset;
    to->sum = XXH3_64bits(data, e->bytes);
    w->offset += align_up(e->bytes);
    w->n++;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sk_dir_entry *)a)->name, ((const struct sk_dir_entry *)b)->name);
}

int sk_skw_finish(struct sk_skw *w, struct sk_err *err)
{
    struct sk_dir_head h = {.magic = SK_DIR_MAGIC, .format = SK_DIR_FORMAT, .n_tensor = w->n, .file_bytes = w->offset};
    size_t n = w->n * sizeof *w->entries;
    int rc;

    sk_assert(w->n == w->cap);
    qsort(w->entries, w->n, sizeof *w->entries, by_name);
    h.table_sum = XXH3_64bits(w->entries, n);
    if ((rc = write_at(w, w->entries, n, sizeof h, err)) || (rc = write_at(w, &h, sizeof h, 0, err)))
        return rc;
    if (ftruncate(w->fd, (off_t)w->offset) || fsync(w->fd))
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", w->path);
    return 0;
}

void sk_skw_close(struct sk_skw *w)
{
    if (w->fd >= 0)
        close(w->fd);
    sk_free(w->entries);
    w->fd = -1;
    w->entries = NULL;
}
