#include "comm/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/utf8.h"

struct row {
    const char *name, *type, *code, *text;
    int http, retry;
};

static const struct row rows[SK_E_COUNT] = {
    [SK_OK] = {"OK", "", "", "success", 200, 0},
#define SK_ERR(name, http, type, code, retry, text) [SK_E##name] = {#name, type, code, text, http, retry},
#include "conf/errors.def"
#undef SK_ERR
};

/* A code from outside the table can only be a mistake of ours, and is described as one. */
static const struct row *find(int rc)
{
    if (rc < 0 && rc > -SK_E_COUNT)
        rc = -rc;
    return &rows[rc >= 0 && rc < SK_E_COUNT ? rc : SK_EINTERNAL];
}

/* A cut must not leave half a character: these texts go into JSON. And names in them come from files of others: they
 * must not end a line of a log or speak to a terminal. */
static void tidy(char *s, size_t cap)
{
    size_t n = strlen(s);
    if (n + 1 == cap)
        s[n - sk_utf8_partial(s, n)] = '\0';
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = '?';
}

/* `fmt`'s arguments may point into `err` itself ("file: <old message>"), hence the detour over `msg`. */
static void fill(struct sk_err *err, int code, const char *param, const char *reason, const char *fmt, va_list ap)
{
    char msg[sizeof err->msg] = "";
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    if (reason && n >= 0 && (size_t)n < sizeof msg)
        snprintf(msg + n, sizeof msg - (size_t)n, ": %s", reason);
    tidy(msg, sizeof msg);

    char name[sizeof err->param];
    snprintf(name, sizeof name, "%s", param ? param : "");
    tidy(name, sizeof name);

    err->code = code;
    err->retry_ms = 0;
    memcpy(err->param, name, sizeof name);
    memcpy(err->msg, msg, sizeof msg);
}

int sk_err_set(struct sk_err *err, int code, const char *param, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, param, NULL, fmt, ap);
        va_end(ap);
    }
    return -code;
}

int sk_err_errno(struct sk_err *err, int code, const char *param, const char *fmt, ...)
{
    int e = errno;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, param, strerror(e), fmt, ap);
        va_end(ap);
    }
    return -code;
}

const char *sk_err_name(int rc)
{
    return find(rc)->name;
}

const char *sk_err_text(int rc)
{
    return find(rc)->text;
}

const char *sk_err_type(int rc)
{
    return find(rc)->type;
}

const char *sk_err_code(int rc)
{
    return find(rc)->code;
}

int sk_err_http(int rc)
{
    return find(rc)->http;
}

int sk_err_retry(int rc)
{
    return find(rc)->retry;
}

void sk_assert_fail(const char *file, int line, const char *expr)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expr);
    abort();
}
