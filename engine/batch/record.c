#include "engine/batch/record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/log.h"
#include "comm/base/mem.h"

enum { KIND_PLAN = 1, KIND_ROWS = 2 };

struct rec_head {
    uint32_t kind, bytes;
};

enum sink { SINK_NONE, SINK_FILE, SINK_MEMORY };

struct sk_record {
    enum sink sink; /* NONE: ended by an error, or not begun */
    int fd;
    char *p; /* memory: where it is, how much there is, how much is used */
    size_t room, n;
    struct sk_record_head head;
    struct sk_buf buf;
};

/* ---- writing ---- */

static int write_file(int fd, const void *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -SK_EIO;
        p = (const char *)p + w;
        n -= (size_t)w;
    }
    return 0;
}

static int write_memory(struct sk_record *r, const void *p, size_t n)
{
    if (n > r->room - r->n) {
        errno = ENOSPC;
        return -SK_EIO;
    }
    memcpy(r->p + r->n, p, n);
    r->n += n;
    return 0;
}

static int write_all(struct sk_record *r, const void *p, size_t n)
{
    if (n == 0)
        return 0;
    return r->sink == SINK_FILE ? write_file(r->fd, p, n) : write_memory(r, p, n);
}

static void put(struct sk_record *r, uint32_t kind, const void *p, size_t n)
{
    static const char zeros[8];
    struct rec_head h = {.kind = kind, .bytes = (uint32_t)n};
    size_t before = r->n;
    if (r->sink == SINK_NONE)
        return;
    if (write_all(r, &h, sizeof h) || write_all(r, p, n) || write_all(r, zeros, -n & 7)) {
        sk_log(SK_LOG_ERROR, "recording ended: %s", strerror(errno));
        r->sink = SINK_NONE;
        r->n = before;
    }
}

size_t sk_record_rows_bytes(uint32_t n_result)
{
    size_t n = n_result * sizeof(struct sk_result_row);
    return sizeof(struct rec_head) + ((n + 7) & ~(size_t)7);
}

size_t sk_record_size(const struct sk_record *r)
{
    return r->n;
}

/* A row without the unused part of its top: 4-byte words, the same for writing and for comparing. */
static void put_row(struct sk_buf *b, const struct sk_result_row *row)
{
    sk_buf_add(b, &row->id, 4);
    sk_buf_add(b, &row->logprob, 4);
    sk_buf_add(b, &row->rank, 4);
    sk_buf_add(b, &row->n_top, 4);
    sk_buf_add(b, row->top, row->n_top * sizeof row->top[0]);
}

int sk_record_put_rows(struct sk_buf *b, const struct sk_result_row *rows, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        put_row(b, &rows[i]);
    return b->failed;
}

int sk_record_new(const struct sk_record_head *head, uint32_t max_result, struct sk_record **ret, struct sk_err *err)
{
    struct sk_record *r = sk_calloc(1, sizeof *r);
    if (!r)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a recording");
    r->fd = -1;
    r->head = *head;
    memcpy(r->head.magic, SK_RECORD_MAGIC, sizeof r->head.magic);
    r->head.version = SK_RECORD_VERSION;
    sk_buf_init(&r->buf, (size_t)max_result * sizeof(struct sk_result_row));
    if (sk_buf_reserve(&r->buf, r->buf.max)) {
        sk_record_close(r);
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a recording");
    }
    *ret = r;
    return 0;
}

int sk_record_open(const char *path, const struct sk_record_head *head, uint32_t max_result, struct sk_record **ret,
                   struct sk_err *err)
{
    struct sk_record *r;
    int rc = sk_record_new(head, max_result, &r, err);
    if (rc)
        return rc;
    r->sink = SINK_FILE;
    r->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (r->fd < 0)
        rc = sk_err_errno(err, SK_EIO, "record", "cannot create %s", path);
    else if (write_all(r, &r->head, sizeof r->head))
        rc = sk_err_errno(err, SK_EIO, "record", "cannot write %s", path);
    if (rc)
        sk_record_close(r);
    else
        *ret = r;
    return rc;
}

void sk_record_begin(struct sk_record *r, char *p, size_t room)
{
    r->sink = SINK_MEMORY;
    r->p = p;
    r->room = room;
    r->n = 0;
    if (write_all(r, &r->head, sizeof r->head))
        r->sink = SINK_NONE;
}

void sk_record_plan(struct sk_record *r, const void *plan, size_t n)
{
    put(r, KIND_PLAN, plan, n);
}

void sk_record_rows(struct sk_record *r, const struct sk_result_row *rows, uint32_t n)
{
    sk_buf_clear(&r->buf);
    int rc = sk_record_put_rows(&r->buf, rows, n);
    sk_assert(rc == 0); /* reserved for max_result rows */
    put(r, KIND_ROWS, r->buf.p, r->buf.n);
}

void sk_record_close(struct sk_record *r)
{
    if (!r)
        return;
    if (r->fd >= 0)
        close(r->fd);
    sk_buf_done(&r->buf);
    sk_free(r);
}

/* ---- reading ---- */

struct sk_player {
    FILE *f;
    struct sk_record_head head;
    struct sk_buf plan[SK_RECORD_MAX_AHEAD]; /* a ring: n_ahead of them from `first` on wait for their rows */
    uint32_t first, n_ahead;
    bool given; /* the first one was given out, with rows */
    struct sk_buf rows;
};

/* 1, 0 at the end of the file, -SK_EFORMAT. */
static int read_head(struct sk_player *p, struct rec_head *ret, struct sk_err *err)
{
    if (fread(ret, sizeof *ret, 1, p->f) != 1)
        return 0;
    if (ret->bytes > SK_RECORD_MAX)
        return sk_err_set(err, SK_EFORMAT, NULL, "a record of %u bytes", ret->bytes);
    return 1;
}

/* Whole or nothing: an engine that was killed leaves a part at the end. The buffer grows as bytes come, so that a
 * length alone costs nothing. */
static bool read_body(struct sk_player *p, struct sk_buf *b, uint32_t bytes)
{
    size_t left = ((size_t)bytes + 7) & ~(size_t)7;
    sk_buf_clear(b);
    while (left > 0) {
        size_t n = left < 65536 ? left : 65536;
        if (sk_buf_reserve(b, n) || fread(b->p + b->n, 1, n, p->f) != n)
            return false;
        b->n += n;
        left -= n;
    }
    b->n = bytes;
    return true;
}

int sk_player_open(const char *path, struct sk_player **ret, struct sk_record_head *ret_head, struct sk_err *err)
{
    int rc = 0;
    struct sk_player *p = sk_calloc(1, sizeof *p);
    if (!p)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a replay");
    for (int i = 0; i < SK_RECORD_MAX_AHEAD; i++)
        sk_buf_init(&p->plan[i], SK_RECORD_MAX + 8);
    sk_buf_init(&p->rows, SK_RECORD_MAX + 8);
    p->f = fopen(path, "rb");
    if (!p->f) {
        rc = sk_err_errno(err, errno == ENOENT ? SK_ENOENT : SK_EIO, NULL, "cannot open %s", path);
        goto out;
    }
    struct sk_record_head *h = &p->head;
    if (fread(h, sizeof *h, 1, p->f) != 1 || memcmp(h->magic, SK_RECORD_MAGIC, sizeof h->magic) != 0) {
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s is not a recording", path);
        goto out;
    }
    if (h->version != SK_RECORD_VERSION || !memchr(h->digest, 0, sizeof h->digest) ||
        !memchr(h->isa, 0, sizeof h->isa) || h->limits.n_group > SK_MAX_GROUPS) {
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s: recording of version %u, or damaged", path, h->version);
        goto out;
    }
    *ret_head = *h;
    *ret = p;
    p = NULL;
out:
    sk_player_close(p);
    return rc;
}

/* A plan that waits for its rows. 1, 0 where the file ends in it. */
static int read_plan(struct sk_player *p, uint32_t bytes, struct sk_err *err)
{
    if (p->n_ahead == SK_RECORD_MAX_AHEAD)
        return sk_err_set(err, SK_EFORMAT, NULL, "more than %d plans without rows", SK_RECORD_MAX_AHEAD);
    struct sk_buf *b = &p->plan[(p->first + p->n_ahead) % SK_RECORD_MAX_AHEAD];
    if (!read_body(p, b, bytes))
        return 0;
    if (sk_plan_check(b->p, b->n, &p->head.limits, err))
        return -SK_EFORMAT;
    p->n_ahead++;
    return 1;
}

/* Reads up to the rows of the first plan that waits. 1, 0 at the end of the file. */
static int read_rows(struct sk_player *p, struct sk_err *err)
{
    for (;;) {
        struct rec_head h;
        int rc = read_head(p, &h, err);
        if (rc <= 0)
            return rc;
        if (h.kind == KIND_ROWS && p->n_ahead > 0)
            return read_body(p, &p->rows, h.bytes);
        if (h.kind != KIND_PLAN)
            return sk_err_set(err, SK_EFORMAT, NULL, "a record of kind %u where a plan should be", h.kind);
        rc = read_plan(p, h.bytes, err);
        if (rc <= 0)
            return rc;
    }
}

int sk_player_next(struct sk_player *p, const void **ret_plan, size_t *ret_n, const struct sk_buf **ret_rows,
                   struct sk_err *err)
{
    if (p->given) {
        p->first = (p->first + 1) % SK_RECORD_MAX_AHEAD;
        p->n_ahead--;
    }
    p->given = false;
    int rc = read_rows(p, err);
    if (rc < 0)
        return rc;
    if (p->n_ahead == 0)
        return 0;
    p->given = true;
    *ret_plan = p->plan[p->first].p;
    *ret_n = p->plan[p->first].n;
    *ret_rows = rc == 1 ? &p->rows : NULL;
    return 1;
}

const struct sk_plan_limits *sk_player_limits(const struct sk_player *p)
{
    return &p->head.limits;
}

void sk_player_close(struct sk_player *p)
{
    if (!p)
        return;
    if (p->f)
        fclose(p->f);
    for (int i = 0; i < SK_RECORD_MAX_AHEAD; i++)
        sk_buf_done(&p->plan[i]);
    sk_buf_done(&p->rows);
    sk_free(p);
}
