/* A stream gives the same events however it is cut into pieces, and so the same answer. The first byte says how. */
#include <string.h>

#include "clients/client/events.h"
#include "clients/skein/reply.h"
#include "comm/base/utf8.h"

enum { MAX_BYTES = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Appends the events of s[0..n) in pieces of `step` bytes, and how it ended. */
static void read_events(const char *s, size_t n, size_t step, struct sk_buf *out)
{
    struct sk_events sse;
    struct sk_event e;
    struct sk_err err = {0};
    int rc = 0;
    sk_events_init(&sse, MAX_BYTES);
    for (size_t at = 0; at < n && rc >= 0; at += step) {
        const char *p = s + at;
        size_t left = n - at < step ? n - at : step;
        while ((rc = sk_events_next(&sse, &p, &left, &e, &err)) > 0) {
            sk_assert(e.n <= MAX_BYTES && e.data[e.n] == '\0' && strlen(e.name) < SK_EVENTS_MAX_NAME && e.line > 0);
            sk_buf_fmt(out, "%s %zu %llu ", e.name, e.n, (unsigned long long)e.line);
            sk_buf_add(out, e.data, e.n);
        }
        sk_assert(rc < 0 || left == 0);
    }
    sk_buf_fmt(out, " rc %d %d odd %llu", rc, rc < 0 ? 0 : sk_events_end(&sse, NULL), (unsigned long long)sse.odd_line);
    sk_assert(rc == 0 || rc == -SK_ETOOBIG);
    sk_events_done(&sse);
}

static void read_answer(const char *s, size_t n, size_t step, struct sk_buf *out)
{
    struct sk_reply r;
    struct sk_err err = {0};
    sk_reply_init(&r);
    int rc = sk_reply_head(&r, 200, "text/event-stream", &err);
    for (size_t at = 0; at < n && !rc; at += step)
        rc = sk_reply_bytes(&r, s + at, n - at < step ? n - at : step, &err);
    if (!rc)
        rc = sk_reply_end(&r, &err);
    sk_assert(r.state == (rc ? SK_REPLY_BROKEN : SK_REPLY_DONE));
    sk_assert(!rc || (err.code == -rc && err.msg[0] && sk_utf8_valid(err.msg, strlen(err.msg))));
    sk_assert(r.text.n == 0 || sk_utf8_valid(r.text.p, r.text.n));
    sk_buf_fmt(out, "%d %s ", rc, err.msg);
    sk_buf_add(out, r.text.p, r.text.n);
    sk_reply_done(&r);
}

static void compare(void (*read)(const char *s, size_t n, size_t step, struct sk_buf *out), const char *s, size_t n,
                    size_t step)
{
    struct sk_buf whole, cut;
    sk_buf_init(&whole, 64 << 20);
    sk_buf_init(&cut, 64 << 20);
    read(s, n, n + 1, &whole);
    read(s, n, step, &cut);
    sk_assert(!whole.failed && !cut.failed && whole.n == cut.n && memcmp(whole.p, cut.p, cut.n) == 0);
    sk_buf_done(&whole);
    sk_buf_done(&cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    compare(read_events, (const char *)data + 1, n - 1, 1 + data[0] % 32);
    compare(read_answer, (const char *)data + 1, n - 1, 1 + data[0] % 32);
    return 0;
}
