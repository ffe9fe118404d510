/* A server's bytes, in whatever pieces they come, end a request in the same way with the same figures. The first byte
 * says whether a stream was asked for. */
#include <string.h>

#include "clients/bench/turn.h"
#include "clients/bench/h1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct outcome {
    int rc;
    enum sk_h1_state state;
    struct sk_round_record rec;
};

static struct outcome feed(const char *s, size_t n, size_t step, bool stream)
{
    struct sk_round round;
    struct sk_turn x;
    struct sk_h1 h;
    struct outcome o = {0};
    sk_round_init(&round, 1);
    sk_turn_init(&x);
    sk_turn_begin(&x);
    x.round = &round;
    x.wants_stream = stream;
    x.wants_text = true;
    sk_h1_init(&h);
    for (size_t i = 0; i < n && o.rc == 0 && !x.ended; i += step) {
        const char *p = s + i, *body;
        size_t left = n - i < step ? n - i : step, n_body;
        while (!x.ended && (o.rc = sk_h1_next(&h, &p, &left, &body, &n_body, NULL)) == 1) {
            sk_assert(body >= s + i && n_body && body + n_body <= s + i + step && body + n_body <= s + n);
            if (!x.rec.status)
                sk_turn_head(&x, h.status, h.event_stream);
            sk_turn_bytes(&x, body, n_body, 1000);
        }
        o.rc = o.rc == 1 ? 0 : o.rc;
    }
    o.state = x.ended ? SK_H1_DONE : h.state;
    if (!x.ended && o.rc == 0 && sk_h1_end(&h) == 0) {
        if (!x.rec.status)
            sk_turn_head(&x, h.status, h.event_stream);
        sk_turn_end(&x, 2000);
        sk_assert(x.ended);
    }
    if (x.ended && x.rec.end != SK_ROUND_OK && x.rec.end != SK_ROUND_LEFT)
        sk_assert(memchr(round.why[x.rec.end], '\0', SK_ROUND_MAX_WHY));
    o.rec = x.rec;
    sk_turn_done(&x);
    sk_round_done(&round);
    return o;
}

static bool same(const struct sk_round_record *a, const struct sk_round_record *b)
{
    return a->first_ns == b->first_ns && a->last_ns == b->last_ns && a->end_ns == b->end_ns && a->n_in == b->n_in &&
           a->n_out == b->n_out && a->n_piece == b->n_piece && a->status == b->status && a->end == b->end &&
           a->has_usage == b->has_usage;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    const char *s = (const char *)data + 1;
    struct outcome whole = feed(s, n - 1, n, data[0] & 1);
    for (size_t step = 1; step < 100; step = step * 4 + 3) {
        struct outcome o = feed(s, n - 1, step, data[0] & 1);
        sk_assert(o.rc == whole.rc && o.state == whole.state);
        sk_assert(same(&o.rec, &whole.rec));
    }
    return 0;
}
