#include "clients/bench/turn.h"

#include <stdio.h>
#include <string.h>

#include "clients/bench/piece.h"
#include "clients/client/plain.h"
#include "comm/base/utf8.h"

void sk_turn_init(struct sk_turn *x)
{
    *x = (struct sk_turn){0};
    sk_buf_init(&x->body, SK_LOAD_MAX_BODY);
    sk_buf_init(&x->reply, SK_TURN_MAX_REPLY);
    sk_buf_init(&x->text, SK_TURN_MAX_REPLY);
    sk_events_init(&x->sse, SK_TURN_MAX_EVENT);
}

void sk_turn_begin(struct sk_turn *x)
{
    x->rec = (struct sk_round_record){0};
    x->is_event_stream = x->done_seen = x->finish_seen = x->ended = false;
    x->carrier = NULL;
    sk_buf_clear(&x->reply);
    sk_buf_clear(&x->text);
    sk_events_done(&x->sse);
    sk_events_init(&x->sse, SK_TURN_MAX_EVENT);
}

void sk_turn_done(struct sk_turn *x)
{
    sk_buf_done(&x->body);
    sk_buf_done(&x->reply);
    sk_buf_done(&x->text);
    sk_events_done(&x->sse);
}

void sk_turn_over(struct sk_turn *x, enum sk_round_end end, uint64_t at_ns, const char *why)
{
    if (x->ended)
        return;
    x->ended = true;
    x->rec.end = (uint8_t)end;
    x->rec.end_ns = at_ns - x->start_ns;
    if (!*why)
        return;
    char plain[SK_ROUND_MAX_WHY];
    sk_plain_line(plain, sizeof plain, why, strlen(why));
    sk_round_why(x->round, end, plain);
}

void sk_turn_head(struct sk_turn *x, int status, bool event_stream)
{
    x->rec.status = (uint16_t)status;
    x->is_event_stream = event_stream && status == 200;
}

static void take_usage(struct sk_turn *x, const struct sk_piece *p)
{
    if (p->n_in >= 0)
        x->rec.n_in = (uint32_t)p->n_in;
    if (p->n_out >= 0) {
        x->rec.n_out = (uint32_t)p->n_out;
        x->rec.has_usage = true;
    }
}

static void take_text(struct sk_turn *x, const struct sk_piece *p, uint64_t at_ns)
{
    uint64_t now = at_ns - x->start_ns;
    if (x->rec.n_piece)
        sk_stat_add(&x->round->itl, (double)(now - x->rec.last_ns) / 1e6);
    else
        x->rec.first_ns = now;
    x->rec.last_ns = now;
    x->rec.n_piece++;
    sk_stat_series_add(&x->round->out, now, 1);
    if (x->wants_text && p->text)
        sk_buf_add(&x->text, p->text, p->n_text);
}

/* Says where in the stream something is wrong. */
static void fail_at(struct sk_turn *x, enum sk_round_end end, uint64_t line, uint64_t at_ns, const char *what)
{
    char why[SK_ROUND_MAX_WHY];
    snprintf(why, sizeof why, "line %llu of the stream: %s", (unsigned long long)line, what);
    sk_turn_over(x, end, at_ns, why);
}

static void fail_error(struct sk_turn *x, enum sk_round_end end, const struct sk_piece *p, uint64_t at_ns)
{
    char why[SK_ROUND_MAX_WHY];
    snprintf(why, sizeof why, "%.*s", (int)(p->n_error < sizeof why ? p->n_error : sizeof why - 1), p->error);
    sk_turn_over(x, end, at_ns, why);
}

static bool take_event(struct sk_turn *x, const struct sk_event *e, uint64_t at_ns)
{
    struct sk_piece p;
    size_t at;
    char what[64];
    if (e->n == 6 && memcmp(e->data, "[DONE]", 6) == 0) {
        x->done_seen = true;
        return true;
    }
    if (!sk_utf8_valid(e->data, e->n)) {
        fail_at(x, SK_ROUND_UTF8, e->line, at_ns, "not UTF-8");
        return false;
    }
    if (sk_piece_read(e->data, e->n, &p, &at)) {
        snprintf(what, sizeof what, "malformed JSON at byte %zu", at);
        fail_at(x, SK_ROUND_JSON, e->line, at_ns, what);
        return false;
    }
    if (p.error) {
        fail_error(x, x->ask.deadline_ms ? SK_ROUND_DEADLINE : SK_ROUND_EVENT, &p, at_ns);
        return false;
    }
    take_usage(x, &p);
    x->finish_seen |= p.finished;
    /* A first chat event has the role and an empty text: no token. The last one may have the finish reason only. */
    if (p.n_text || p.has_tool)
        take_text(x, &p, at_ns);
    if (x->ask.cancel_after && x->rec.n_piece >= x->ask.cancel_after) {
        sk_turn_over(x, SK_ROUND_LEFT, at_ns, "");
        return false;
    }
    return true;
}

bool sk_turn_bytes(struct sk_turn *x, const char *p, size_t n, uint64_t at_ns)
{
    if (x->ended)
        return false;
    if (!x->is_event_stream) {
        if (sk_buf_add(&x->reply, p, n) == 0)
            return true;
        sk_turn_over(x, SK_ROUND_HTTP, at_ns, "the reply is too long");
        return false;
    }
    struct sk_event e;
    struct sk_err err = {0};
    int rc;
    while ((rc = sk_events_next(&x->sse, &p, &n, &e, &err)) == 1)
        if (!take_event(x, &e, at_ns))
            return false;
    if (rc)
        sk_turn_over(x, SK_ROUND_SSE, at_ns, err.msg);
    return rc == 0;
}

static void end_stream(struct sk_turn *x, uint64_t at_ns)
{
    struct sk_err err = {0};
    if (x->sse.odd_line)
        fail_at(x, SK_ROUND_SSE, x->sse.odd_line, at_ns, "no field of an event");
    else if (sk_events_end(&x->sse, &err))
        sk_turn_over(x, SK_ROUND_SSE, at_ns, err.msg);
    else if (!x->done_seen && !x->finish_seen)
        sk_turn_over(x, SK_ROUND_SHORT, at_ns, "the stream ended with neither finish_reason nor [DONE]");
    else
        sk_turn_over(x, SK_ROUND_OK, at_ns, "");
}

static enum sk_round_end end_of_status(const struct sk_turn *x)
{
    if (x->rec.status == 429)
        return SK_ROUND_REFUSED;
    return x->ask.deadline_ms && x->rec.status == 504 ? SK_ROUND_DEADLINE : SK_ROUND_STATUS;
}

static void end_refused(struct sk_turn *x, uint64_t at_ns)
{
    struct sk_piece p = {0};
    size_t at;
    char why[SK_ROUND_MAX_WHY];
    bool has_words = x->reply.n && sk_piece_read(x->reply.p, x->reply.n, &p, &at) == 0 && p.n_error;
    const char *words = has_words ? p.error : x->reply.n ? x->reply.p : "no reason given";
    size_t n = has_words ? p.n_error : strlen(words);
    snprintf(why, sizeof why, "status %d: %.*s", x->rec.status, (int)(n < sizeof why ? n : sizeof why - 1), words);
    sk_turn_over(x, end_of_status(x), at_ns, why);
}

static void end_whole(struct sk_turn *x, uint64_t at_ns)
{
    struct sk_piece p;
    size_t at;
    char why[SK_ROUND_MAX_WHY];
    if (x->wants_stream) {
        sk_turn_over(x, SK_ROUND_SSE, at_ns, "the answer is not an event stream");
    } else if (x->reply.n && !sk_utf8_valid(x->reply.p, x->reply.n)) {
        sk_turn_over(x, SK_ROUND_UTF8, at_ns, "the answer is not UTF-8");
    } else if (x->reply.n == 0 || sk_piece_read(x->reply.p, x->reply.n, &p, &at)) {
        snprintf(why, sizeof why, "malformed JSON at byte %zu of the answer", x->reply.n ? at : 0);
        sk_turn_over(x, SK_ROUND_JSON, at_ns, why);
    } else if (p.error) {
        fail_error(x, SK_ROUND_EVENT, &p, at_ns);
    } else {
        take_usage(x, &p);
        if (x->wants_text && p.text)
            sk_buf_add(&x->text, p.text, p.n_text);
        sk_turn_over(x, SK_ROUND_OK, at_ns, "");
    }
}

void sk_turn_end(struct sk_turn *x, uint64_t at_ns)
{
    if (x->rec.status != 200)
        end_refused(x, at_ns);
    else if (x->is_event_stream)
        end_stream(x, at_ns);
    else
        end_whole(x, at_ns);
}
