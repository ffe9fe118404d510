#include "comm/base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"

#define FIRST_CAP  64
#define READ_BYTES 65536

void sk_buf_init(struct sk_buf *b, size_t max)
{
    *b = (struct sk_buf){.max = max};
}

void sk_buf_done(struct sk_buf *b)
{
    sk_free(b->p);
    sk_buf_init(b, b->max);
}

void sk_buf_clear(struct sk_buf *b)
{
    b->n = 0;
    b->failed = 0;
    if (b->p)
        b->p[0] = '\0';
}

static int fail(struct sk_buf *b, int code)
{
    b->failed = -code;
    return b->failed;
}

int sk_buf_reserve(struct sk_buf *b, size_t more)
{
    if (b->failed)
        return b->failed;
    if (more < b->cap - b->n) /* cap is never more than max and the NUL */
        return 0;
    if (more > b->max - b->n || b->n + more == SIZE_MAX)
        return fail(b, SK_ETOOBIG);
    size_t need = b->n + more + 1; /* the NUL */
    size_t cap = b->cap ? b->cap : FIRST_CAP;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    if (cap - 1 > b->max)
        cap = b->max + 1;
    char *p = sk_realloc(b->p, cap);
    if (!p)
        return fail(b, SK_ENOMEM);
    b->p = p;
    b->cap = cap;
    b->p[b->n] = '\0';
    return 0;
}

int sk_buf_add(struct sk_buf *b, const void *p, size_t n)
{
    int rc = sk_buf_reserve(b, n);
    if (rc || n == 0)
        return rc;
    memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
    return 0;
}

int sk_buf_str(struct sk_buf *b, const char *s)
{
    return sk_buf_add(b, s, strlen(s));
}

int sk_buf_char(struct sk_buf *b, char c)
{
    return sk_buf_add(b, &c, 1);
}

int sk_buf_int(struct sk_buf *b, int64_t x)
{
    char text[20], *end = text + sizeof text, *p = end; /* INT64_MIN has 19 digits and a sign */
    uint64_t left = x < 0 ? -(uint64_t)x : (uint64_t)x;
    do
        *--p = (char)('0' + left % 10);
    while (left /= 10);
    if (x < 0)
        *--p = '-';
    return sk_buf_add(b, p, (size_t)(end - p));
}

int sk_buf_fmt(struct sk_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = sk_buf_vfmt(b, fmt, ap);
    va_end(ap);
    return rc;
}

int sk_buf_vfmt(struct sk_buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    int rc = n < 0 ? fail(b, SK_EINVAL) : sk_buf_reserve(b, (size_t)n);
    if (rc == 0) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    return rc;
}

void sk_buf_drop(struct sk_buf *b, size_t n)
{
    sk_assert(n <= b->n);
    if (n == 0)
        return;
    b->n -= n;
    memmove(b->p, b->p + n, b->n + 1);
}

/* Reads to the end rather than trusting st_size: pipes and /proc have none. The byte past max tells "full" from "too
 * long". */
int sk_buf_file(struct sk_buf *b, const char *path, struct sk_err *err)
{
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sk_err_errno(err, errno == ENOENT || errno == ENOTDIR ? SK_ENOENT : SK_EIO, NULL, "cannot open %s",
                            path);
    for (;;) {
        char past;
        size_t room = b->max - b->n < READ_BYTES ? b->max - b->n : READ_BYTES;
        rc = sk_buf_reserve(b, room);
        if (rc) {
            sk_err_set(err, -rc, NULL, "%s: %s", path, sk_err_text(rc));
            goto out;
        }
        ssize_t got = read(fd, room ? b->p + b->n : &past, room ? room : 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = sk_err_errno(err, SK_EIO, NULL, "cannot read %s", path);
            goto out;
        }
        if (got == 0)
            goto out;
        if (room == 0) {
            rc = sk_err_set(err, SK_ETOOBIG, NULL, "%s is larger than the limit of %zu bytes", path, b->max);
            goto out;
        }
        b->n += (size_t)got;
        b->p[b->n] = '\0';
    }
out:
    if (rc)
        b->failed = rc;
    close(fd);
    return rc;
}
