#include "clients/bench/round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"

enum { SERIES_WIDTH_NS = 50000000 };

static const char *const end_names[SK_ROUND_N_END] = {[SK_ROUND_OK] = "ok",           [SK_ROUND_LEFT] = "left",
                                                      [SK_ROUND_CUT] = "interrupted", [SK_ROUND_DEADLINE] = "deadline",
                                                      [SK_ROUND_REFUSED] = "refused", [SK_ROUND_STATUS] = "status",
                                                      [SK_ROUND_CONNECT] = "connect", [SK_ROUND_TLS] = "tls",
                                                      [SK_ROUND_BROKEN] = "broken",   [SK_ROUND_TIMEOUT] = "timeout",
                                                      [SK_ROUND_HTTP] = "http",       [SK_ROUND_SSE] = "sse",
                                                      [SK_ROUND_UTF8] = "utf8",       [SK_ROUND_JSON] = "json",
                                                      [SK_ROUND_EVENT] = "event",     [SK_ROUND_SHORT] = "short"};

const char *sk_round_end_name(enum sk_round_end end)
{
    return end_names[end];
}

void sk_round_init(struct sk_round *r, uint64_t seed)
{
    *r = (struct sk_round){.out.width_ns = SERIES_WIDTH_NS};
    struct sk_stat *stats[] = {&r->ttft, &r->itl, &r->tpot, &r->e2e, &r->lag, &r->loop};
    for (size_t i = 0; i < sizeof stats / sizeof stats[0]; i++)
        sk_stat_init(stats[i], SK_STAT_MAX_SAMPLES, seed + i);
}

void sk_round_done(struct sk_round *r)
{
    struct sk_stat *stats[] = {&r->ttft, &r->itl, &r->tpot, &r->e2e, &r->lag, &r->loop};
    for (size_t i = 0; i < sizeof stats / sizeof stats[0]; i++)
        sk_stat_done(stats[i]);
    for (size_t i = 0; i < r->n_delta; i++)
        sk_free(r->deltas[i].name);
    sk_free(r->deltas);
    sk_free(r->records);
    *r = (struct sk_round){0};
}

void sk_round_why(struct sk_round *r, enum sk_round_end end, const char *why)
{
    if (!r->why[end][0])
        snprintf(r->why[end], sizeof r->why[end], "%s", why);
}

static double ms(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

static bool within(double limit, double x)
{
    return limit == 0 || x <= limit;
}

static void keep(struct sk_round *r, const struct sk_round_record *rec)
{
    if (r->n_record == SK_ROUND_MAX_RECORDS)
        return;
    if (r->n_record == r->cap_record) {
        size_t cap = r->cap_record ? r->cap_record * 2 : 256;
        struct sk_round_record *p = sk_realloc(r->records, cap * sizeof *p);
        if (!p)
            return; /* only the file of records is shorter then */
        r->records = p;
        r->cap_record = cap;
    }
    r->records[r->n_record++] = *rec;
}

/* Figures of an answer that came to its end; an SLO about what an answer does not have (one token has no gap) is kept.
 */
static void measure(struct sk_round *r, struct sk_round_record *rec, const struct sk_round_slo *slo)
{
    double ttft = ms(rec->sent_ns, rec->first_ns), e2e = ms(rec->sent_ns, rec->end_ns);
    double gap = rec->n_piece > 1 ? ms(rec->first_ns, rec->last_ns) / (rec->n_piece - 1) : 0;
    double tpot = rec->first_ns && rec->n_out > 1 ? ms(rec->first_ns, rec->last_ns) / (rec->n_out - 1) : 0;
    sk_stat_add(&r->e2e, e2e);
    if (rec->first_ns && rec->n_out > 1)
        sk_stat_add(&r->tpot, tpot);
    rec->good = within(slo->ttft, ttft) && within(slo->itl, gap) && within(slo->tpot, tpot) && within(slo->e2e, e2e);
    r->n_good += rec->good;
}

void sk_round_take(struct sk_round *r, struct sk_round_record *rec, const struct sk_round_slo *slo)
{
    if (!rec->has_usage)
        rec->n_out = rec->n_piece;
    r->n_end[rec->end]++;
    r->n_in += rec->n_in;
    r->n_out += rec->n_out;
    r->n_piece += rec->n_piece;
    sk_stat_add(&r->lag, ms(rec->due_ns, rec->sent_ns));
    if (rec->first_ns)
        sk_stat_add(&r->ttft, ms(rec->sent_ns, rec->first_ns));
    if (rec->end == SK_ROUND_OK) {
        r->n_no_usage += !rec->has_usage;
        measure(r, rec, slo);
    }
    if (rec->end_ns > r->duration_ns)
        r->duration_ns = rec->end_ns;
    keep(r, rec);
}

uint64_t sk_round_n_error(const struct sk_round *r)
{
    uint64_t n = 0;
    for (int i = SK_ROUND_REFUSED; i < SK_ROUND_N_END; i++)
        n += r->n_end[i];
    return n;
}

double sk_round_per_s(const struct sk_round *r, uint64_t n)
{
    return r->duration_ns ? (double)n * 1e9 / (double)r->duration_ns : 0;
}

double sk_round_good_share(const struct sk_round *r)
{
    uint64_t n = r->n_end[SK_ROUND_OK] + r->n_end[SK_ROUND_DEADLINE] + sk_round_n_error(r);
    return n ? (double)r->n_good / (double)n : 0;
}

int sk_round_slo_parse(const char *s, struct sk_round_slo *ret, struct sk_err *err)
{
    struct sk_round_slo slo = {0};
    struct {
        const char *name;
        double *limit;
    } kinds[] = {{"ttft:", &slo.ttft}, {"itl:", &slo.itl}, {"tpot:", &slo.tpot}, {"e2e:", &slo.e2e}};
    for (const char *at = s; *at;) {
        size_t i = 0, n = sizeof kinds / sizeof kinds[0];
        while (i < n && strncmp(at, kinds[i].name, strlen(kinds[i].name)) != 0)
            i++;
        char *end = NULL;
        double x = i < n ? strtod(at + strlen(kinds[i].name), &end) : 0;
        if (!(x > 0 && x < 1e9) || (*end && *end != ','))
            return sk_err_set(err, SK_EINVAL, "slo", "slo must be such as ttft:500,itl:50 (milliseconds), not '%s'", s);
        *kinds[i].limit = x;
        at = end + (*end == ',');
    }
    *ret = slo;
    return 0;
}
