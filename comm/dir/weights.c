#define _GNU_SOURCE /* MADV_POPULATE_READ */
#include "comm/dir/dir.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "comm/base/mem.h"

enum { TENSOR_ALIGN = 4096, HUGE_PAGE = 2 << 20, SPAN_ALIGN = 64 };

/* Bytes that the entry's shape and dtype call for; 0 = impossible. */
static uint64_t entry_bytes(const struct sk_dir_entry *e)
{
    struct sk_pack p;

    if (e->pack == SK_PACK_PLAIN)
        return e->dtype == SK_F32 && e->n_in == 1 && e->n_out ? SK_ALIGN16((uint64_t)e->n_out) * 4 : 0;
    if (e->pack != SK_PACK_X86_1 || e->dtype >= SK_DTYPE_COUNT ||
        sk_pack_layout(&p, (enum sk_dtype)e->dtype, e->n_out, e->n_in, e->slab_k))
        return 0;
    return p.bytes;
}

static int check_entry(const struct sk_dir_entry *e, uint64_t file_bytes, struct sk_err *err)
{
    uint64_t want = entry_bytes(e);
    uint32_t axis = e->split == SK_SPLIT_IN ? e->n_in : e->n_out;

    if (!want || want != e->bytes)
        return sk_err_set(err, SK_EFORMAT, e->name, "tensor %s: shape, type and size do not agree", e->name);
    if (e->offset % TENSOR_ALIGN || e->offset > file_bytes || e->bytes > file_bytes - e->offset)
        return sk_err_set(err, SK_EFORMAT, e->name, "tensor %s lies outside the file", e->name);
    if (e->split > SK_SPLIT_IN || !e->cut_unit || e->cut_unit > axis)
        return sk_err_set(err, SK_EFORMAT, e->name, "tensor %s: bad split", e->name);
    return 0;
}

static int check_table(const struct sk_weights *w, struct sk_err *err)
{
    for (uint32_t i = 0; i < w->n_tensor; i++) {
        const struct sk_dir_entry *e = &w->tensors[i];
        if (!e->name[0] || !memchr(e->name, 0, sizeof e->name))
            return sk_err_set(err, SK_EFORMAT, NULL, "tensor %u has no proper name", i);
        if (i && strcmp(e[-1].name, e->name) >= 0)
            return sk_err_set(err, SK_EFORMAT, e->name, "the tensor table is not sorted at %s", e->name);
        int rc = check_entry(e, w->bytes, err);
        if (rc)
            return rc;
    }
    return 0;
}

int sk_weights_open_mem(const void *p, size_t n, struct sk_weights *ret, struct sk_err *err)
{
    struct sk_dir_head h;
    struct sk_weights w = {.base = p, .bytes = n};

    if (n < sizeof h)
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw is cut off: %zu bytes", n);
    memcpy(&h, p, sizeof h);
    if (memcmp(h.magic, SK_DIR_MAGIC, sizeof h.magic))
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw does not begin with the magic bytes");
    if (h.format != SK_DIR_FORMAT)
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw has format %u, this program reads format %d: rebuild it",
                          h.format, SK_DIR_FORMAT);
    if (h.file_bytes != n)
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw has %zu bytes instead of %llu", n,
                          (unsigned long long)h.file_bytes);
    if (!h.n_tensor || h.n_tensor > SK_DIR_MAX_TENSORS || (n - sizeof h) / sizeof(struct sk_dir_entry) < h.n_tensor)
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw cannot hold a table of %u tensors", h.n_tensor);
    w.n_tensor = h.n_tensor;
    w.tensors = (const struct sk_dir_entry *)(w.base + sizeof h);
    if (XXH3_64bits(w.tensors, h.n_tensor * sizeof *w.tensors) != h.table_sum)
        return sk_err_set(err, SK_EFORMAT, NULL, "weights.skw: the tensor table is damaged (checksum)");
    int rc = check_table(&w, err);
    if (!rc)
        *ret = w;
    return rc;
}

int sk_weights_open(const char *path, enum sk_weights_how how, struct sk_weights *ret, struct sk_err *err)
{
    char file[1024 + 32];
    struct stat st;
    struct sk_err why;
    int rc, fd;

    if ((size_t)snprintf(file, sizeof file, "%s/weights.skw", path) >= sizeof file)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", path);
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sk_err_errno(err, SK_ENOENT, NULL, "cannot open %s", file);
    if (fstat(fd, &st)) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot read %s", file);
        goto out;
    }
    if (!S_ISREG(st.st_mode) || !st.st_size) {
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s is empty or not a regular file", file);
        goto out;
    }
    size_t n = (size_t)st.st_size;
    void *p = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        rc = sk_err_errno(err, SK_ENOMEM, NULL, "cannot map %s", file);
        goto out;
    }
    rc = sk_weights_open_mem(p, n, ret, &why);
    if (rc) {
        sk_err_set(err, -rc, why.param, "%.200s: %.260s", path, why.msg);
        munmap(p, n);
        goto out;
    }
    ret->mapped = true;
    ret->fd = fd;
    ret->how = how;
    return 0;
out:
    close(fd);
    return rc;
}

void sk_weights_close(struct sk_weights *w)
{
    sk_weights_drop(w);
    if (w->mapped) {
        munmap((void *)w->base, w->bytes);
        close(w->fd);
    }
    *w = (struct sk_weights){0};
}

/* ---- bringing ---- */

static uint64_t align_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Room for spans of all of the file, which takes memory as it is written to; false: there is none. */
static bool reserve_copy(struct sk_weights *w)
{
    const size_t n = align_up(w->bytes, HUGE_PAGE), room = n + HUGE_PAGE;
    uint8_t *all = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return false;
    const size_t before = -(uintptr_t)all % HUGE_PAGE;
    if (before)
        munmap(all, before);
    munmap(all + before + n, HUGE_PAGE - before);
    w->copy = all + before;
    w->copy_bytes = n;
    w->copy_used = 0;
    madvise(w->copy, n, MADV_HUGEPAGE); /* a wish: without it the copy is as right and as slow as the file */
    return true;
}

/* The page cache keeps the file as long as there is memory for it: an engine that is started again reads no disk. */
static int read_span(const struct sk_weights *w, const struct sk_dir_entry *e, uint64_t at, uint64_t n, uint8_t *p,
                     struct sk_err *err)
{
    for (uint64_t done = 0; done < n;) {
        ssize_t got = pread(w->fd, p + done, n - done, (off_t)(e->offset + at + done));
        if (got < 0)
            return sk_err_errno(err, SK_EIO, e->name, "tensor %s: cannot read weights.skw", e->name);
        if (got == 0)
            return sk_err_set(err, SK_EIO, e->name, "tensor %s: weights.skw has become shorter", e->name);
        done += (uint64_t)got;
    }
    return 0;
}

/* Room for n bytes in the copy. */
static int take_room(struct sk_weights *w, const struct sk_dir_entry *e, uint64_t n, uint8_t **ret, struct sk_err *err)
{
    if (n > w->copy_bytes - w->copy_used)
        return sk_err_set(err, SK_ENOMEM, e->name, "tensor %s: more than all of weights.skw was asked for", e->name);
    *ret = w->copy + w->copy_used;
    w->copy_used += align_up(n, SPAN_ALIGN);
    return 0;
}

static bool copies(struct sk_weights *w)
{
    return w->how == SK_WEIGHTS_HUGE && (w->copy || reserve_copy(w));
}

/* Kernels before Linux 5.14 cannot be told to map pages that are there: touching does it. */
static void read_ahead(const uint8_t *p, uint64_t n)
{
    const uint8_t *page = p - (uintptr_t)p % TENSOR_ALIGN;
    const size_t bytes = (size_t)(p + n - page);

    if (!madvise((void *)page, bytes, MADV_POPULATE_READ))
        return;
    madvise((void *)page, bytes, MADV_WILLNEED);
    for (size_t i = 0; i < bytes; i += TENSOR_ALIGN)
        (void)*(const volatile uint8_t *)(page + i);
}

int sk_weights_bring(struct sk_weights *w, const struct sk_dir_entry *e, uint64_t at, uint64_t n, const void **ret,
                     struct sk_err *err)
{
    sk_assert(at % SPAN_ALIGN == 0 && at <= e->bytes && n <= e->bytes - at);
    if (copies(w)) {
        uint8_t *to = NULL;
        int rc = take_room(w, e, n, &to, err);
        if (!rc)
            rc = read_span(w, e, at, n, to, err);
        if (!rc)
            *ret = to;
        return rc;
    }
    const uint8_t *p = w->base + e->offset + at;
    if (w->how != SK_WEIGHTS_LAZY)
        read_ahead(p, n);
    *ret = p;
    return 0;
}

int sk_weights_bring_slabs(struct sk_weights *w, const struct sk_dir_entry *e, uint64_t at, struct sk_pack *p,
                           const void **ret, struct sk_err *err)
{
    if (p->n_slab == 1 || !copies(w))
        return sk_weights_bring(w, e, at, p->bytes, ret, err);
    const uint64_t piece = p->panel_stride, panel = p->n_slab * piece;
    uint8_t *slab = sk_malloc(p->slab_stride), *to = NULL;
    int rc = slab ? take_room(w, e, p->bytes, &to, err)
                  : sk_err_set(err, SK_ENOMEM, e->name, "tensor %s: no memory for a slab of it", e->name);
    for (uint32_t s = 0; !rc && s < p->n_slab; s++) {
        rc = read_span(w, e, at + s * p->slab_stride, p->slab_stride, slab, err);
        for (uint32_t i = 0; !rc && i < p->n_panel; i++)
            memcpy(to + i * panel + s * piece, slab + i * piece, piece);
    }
    sk_free(slab);
    if (rc)
        return rc;
    p->slab_stride = piece;
    p->panel_stride = panel;
    *ret = to;
    return 0;
}

void sk_weights_seal(struct sk_weights *w)
{
    if (w->copy)
        mprotect(w->copy, w->copy_bytes, PROT_READ);
}

void sk_weights_drop(struct sk_weights *w)
{
    if (!w->copy) /* mapped ones may be several ranks', which are threads */
        return;
    munmap(w->copy, w->copy_bytes);
    w->copy = NULL;
}

const struct sk_dir_entry *sk_weights_find(const struct sk_weights *w, const char *name)
{
    uint32_t low = 0, high = w->n_tensor;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int c = strcmp(name, w->tensors[mid].name);
        if (!c)
            return &w->tensors[mid];
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const void *sk_weights_data(const struct sk_weights *w, const struct sk_dir_entry *e)
{
    return w->base + e->offset;
}

int sk_weights_verify(const struct sk_weights *w, struct sk_err *err)
{
    for (uint32_t i = 0; i < w->n_tensor; i++) {
        const struct sk_dir_entry *e = &w->tensors[i];
        if (XXH3_64bits(sk_weights_data(w, e), e->bytes) != e->sum)
            return sk_err_set(err, SK_EFORMAT, e->name, "tensor %s is damaged (checksum)", e->name);
    }
    return 0;
}
