#include "engine/model/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"

enum { HOST_MAX = 64 };

struct event {
    uint64_t from_us, to_us, arg;
    uint64_t what;
};

struct sk_timeline {
    uint32_t n, max;
    uint64_t n_lost;
    struct event event[];
};

/* A rank's part of what is packed: this, then its events. */
struct part {
    uint32_t rank, n;
    uint64_t n_lost;
    char host[HOST_MAX];
};

static const struct {
    const char *name, *arg;
} whats[SK_TIMELINE_COUNT] = {
    [SK_TIMELINE_STEP] = {"step", "number"},  [SK_TIMELINE_LAYERS] = {"layers", "rows"},
    [SK_TIMELINE_HEAD] = {"head", "results"}, [SK_TIMELINE_COLLECTIVE] = {"collective", "words"},
    [SK_TIMELINE_SEND] = {"send", "words"},   [SK_TIMELINE_RECV] = {"recv", "words"},
    [SK_TIMELINE_PLAN] = {"plan", "number"},
};

int sk_timeline_open(uint32_t max_event, struct sk_timeline **ret)
{
    struct sk_timeline *t = sk_malloc(sizeof *t + max_event * sizeof t->event[0]);
    if (!t)
        return -SK_ENOMEM;
    *t = (struct sk_timeline){.max = max_event};
    *ret = t;
    return 0;
}

void sk_timeline_close(struct sk_timeline *t)
{
    sk_free(t);
}

void sk_timeline_add(struct sk_timeline *t, enum sk_timeline_what what, uint64_t from_us, uint64_t arg)
{
    if (!t)
        return;
    if (t->n == t->max) {
        t->n_lost++;
        return;
    }
    t->event[t->n++] = (struct event){.from_us = from_us, .to_us = sk_clock_us(), .arg = arg, .what = what};
}

int sk_timeline_pack(const struct sk_timeline *t, int rank, const char *host, struct sk_buf *out)
{
    struct part p = {.rank = (uint32_t)rank};
    snprintf(p.host, sizeof p.host, "%s", host);
    p.n = t ? t->n : 0;
    p.n_lost = t ? t->n_lost : 0;
    sk_buf_add(out, &p, sizeof p);
    if (t)
        sk_buf_add(out, t->event, t->n * sizeof t->event[0]);
    return out->failed;
}

/* ---- the file ---- */

struct reader {
    const char *p;
    size_t n;
};

/* The next rank's part: 1, 0 at the end, -SK_EFORMAT. */
static int next_part(struct reader *r, struct part *ret, const struct event **ret_event)
{
    if (r->n == 0)
        return 0;
    if (r->n < sizeof *ret)
        return -SK_EFORMAT;
    memcpy(ret, r->p, sizeof *ret);
    ret->host[HOST_MAX - 1] = '\0';
    const size_t bytes = sizeof *ret + (size_t)ret->n * sizeof(struct event);
    if (r->n < bytes)
        return -SK_EFORMAT;
    *ret_event = (const struct event *)(r->p + sizeof *ret);
    r->p += bytes;
    r->n -= bytes;
    return 1;
}

/* Clocks of different hosts say different things: each host's first event is at 0. */
static uint64_t start_of(const void *packed, size_t n, const char *host)
{
    struct reader r = {packed, n};
    const struct event *e;
    struct part p;
    uint64_t start = UINT64_MAX;
    while (next_part(&r, &p, &e) == 1)
        for (uint32_t i = 0, end = strcmp(p.host, host) == 0 ? p.n : 0; i < end; i++)
            start = e[i].from_us < start ? e[i].from_us : start;
    return start;
}

static void write_part(FILE *f, const struct part *p, const struct event *e, uint64_t start)
{
    fprintf(f, "{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_name\",\"args\":{\"name\":\"rank %u on %s\"}}", p->rank,
            p->rank, p->host);
    if (p->n_lost)
        fprintf(f,
                ",\n{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_labels\",\"args\":{\"labels\":\"%" PRIu64
                " later events were not kept\"}}",
                p->rank, p->n_lost);
    for (uint32_t i = 0; i < p->n; i++)
        if (e[i].what < SK_TIMELINE_COUNT)
            fprintf(f,
                    ",\n{\"ph\":\"X\",\"pid\":%u,\"tid\":0,\"name\":\"%s\",\"ts\":%" PRIu64 ",\"dur\":%" PRIu64
                    ",\"args\":{\"%s\":%" PRIu64 "}}",
                    p->rank, whats[e[i].what].name, e[i].from_us - start, e[i].to_us - e[i].from_us,
                    whats[e[i].what].arg, e[i].arg);
}

int sk_timeline_write(const char *path, const void *packed, size_t n, struct sk_err *err)
{
    struct reader r = {packed, n};
    const struct event *e;
    struct part p;
    int rc;
    FILE *f = fopen(path, "we");
    if (!f)
        return sk_err_errno(err, SK_EIO, "timeline", "cannot create %s", path);
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", f);
    char host[sizeof p.host];
    uint64_t start = 0; /* of that host: its ranks mostly come one after the other */
    for (bool first = true; (rc = next_part(&r, &p, &e)) == 1; first = false) {
        if (first || strcmp(p.host, host) != 0) {
            memcpy(host, p.host, sizeof host);
            start = start_of(packed, n, host);
        }
        fputs(first ? "" : ",\n", f);
        write_part(f, &p, e, start);
    }
    fputs("\n]}\n", f);
    if (rc)
        sk_err_set(err, -rc, "timeline", "the ranks' events are cut short");
    const bool failed = ferror(f);
    if ((fclose(f) || failed) && !rc)
        rc = sk_err_errno(err, SK_EIO, "timeline", "cannot write %s", path);
    return rc;
}
