/* A growable byte buffer that cannot be made without its maximum. A failure keeps what was there and is sticky: test
 * `failed` (or the return value) once at the end. Always NUL-terminated past `n` (the NUL is not counted). */
#ifndef SK_BUF_H
#define SK_BUF_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

struct sk_buf {
    char *p;    /* owned; NULL until the first byte */
    size_t n;   /* bytes used */
    size_t cap; /* bytes allocated */
    size_t max; /* n never exceeds this */
    int failed; /* 0, or what the first failure returned: every later call returns it too */
};

void sk_buf_init(struct sk_buf *b, size_t max);
void sk_buf_done(struct sk_buf *b);  /* frees; the buffer is as after init */
void sk_buf_clear(struct sk_buf *b); /* n = 0, failed = 0; keeps the memory */
/* Each returns 0, -SK_ETOOBIG (past max) or -SK_ENOMEM, and adds all of it or nothing. */
int sk_buf_add(struct sk_buf *b, const void *p, size_t n);
int sk_buf_str(struct sk_buf *b, const char *s);
int sk_buf_char(struct sk_buf *b, char c);
int sk_buf_int(struct sk_buf *b, int64_t x); /* in decimal, without the cost of sk_buf_fmt */
int sk_buf_fmt(struct sk_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int sk_buf_vfmt(struct sk_buf *b, const char *fmt, va_list ap);
int sk_buf_reserve(struct sk_buf *b, size_t more); /* room for `more` bytes at p + n */
void sk_buf_drop(struct sk_buf *b, size_t n);      /* removes the first n bytes */
/* Appends a whole file. Also -SK_ENOENT and -SK_EIO; the message names the file. */
int sk_buf_file(struct sk_buf *b, const char *path, struct sk_err *err);

#endif
