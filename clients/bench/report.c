#include "clients/bench/report.h"

#include <string.h>

void sk_report_rows(struct sk_round *r, struct sk_report_row ret[SK_REPORT_N_ROW])
{
    const struct sk_report_row rows[SK_REPORT_N_ROW] = {
        {"ttft", "to the first token", sk_stat_figures(&r->ttft)},
        {"itl", "between pieces of a stream", sk_stat_figures(&r->itl)},
        {"tpot", "per token after the first", sk_stat_figures(&r->tpot)},
        {"e2e", "to the end", sk_stat_figures(&r->e2e)},
        {"lag", "this program: sent after it was due", sk_stat_figures(&r->lag)},
        {"loop", "this program: one pass of its loop", sk_stat_figures(&r->loop)}};
    memcpy(ret, rows, sizeof rows);
}

static double ttft_p50(struct sk_round *r)
{
    return sk_stat_figures(&r->ttft).p50;
}

static double ttft_p99(struct sk_round *r)
{
    return sk_stat_figures(&r->ttft).p99;
}

static double itl_p50(struct sk_round *r)
{
    return sk_stat_figures(&r->itl).p50;
}

static double itl_p99(struct sk_round *r)
{
    return sk_stat_figures(&r->itl).p99;
}

static double tpot_p50(struct sk_round *r)
{
    return sk_stat_figures(&r->tpot).p50;
}

static double e2e_p50(struct sk_round *r)
{
    return sk_stat_figures(&r->e2e).p50;
}

static double out_per_s(struct sk_round *r)
{
    return sk_round_per_s(r, r->n_out);
}

static double good_per_s(struct sk_round *r)
{
    return sk_round_per_s(r, r->n_good);
}

const struct sk_report_ratio sk_report_ratios[SK_REPORT_N_RATIO] = {
    {"TTFT p50", false, ttft_p50},     {"TTFT p99", false, ttft_p99},        {"ITL p50", false, itl_p50},
    {"ITL p99", false, itl_p99},       {"TPOT p50", false, tpot_p50},        {"e2e p50", false, e2e_p50},
    {"tokens out/s", true, out_per_s}, {"good requests/s", true, good_per_s}};

void sk_report_load(struct sk_buf *b, const struct sk_run *r)
{
    const struct sk_conf *c = r->conf;
    sk_buf_fmt(b, "%s, ", c->bench_api);
    if (r->drive.concurrency)
        sk_buf_fmt(b, "%lld user%s", (long long)r->drive.concurrency, r->drive.concurrency == 1 ? "" : "s");
    else if (strcmp(c->bench_arrival, "gamma") == 0)
        sk_buf_fmt(b, "gamma arrivals (burstiness %g)", c->bench_burstiness);
    else
        sk_buf_fmt(b, "%s arrivals", c->bench_arrival);
    if (r->load.trace)
        sk_buf_fmt(b, ", %zu conversations of %s", r->trace.n, c->bench_file);
    else
        sk_buf_fmt(b, ", %s words in, %s tokens out", c->bench_input, c->bench_output);
    if (c->bench_prefix_words)
        sk_buf_fmt(b, ", %lld prefixes of %lld words", (long long)c->bench_prefixes, (long long)c->bench_prefix_words);
    if (strcmp(c->bench_turns, "1") != 0)
        sk_buf_fmt(b, ", %s turns", c->bench_turns);
    if (c->bench_cancel > 0)
        sk_buf_fmt(b, ", %g %% leave after %s tokens", 100 * c->bench_cancel, c->bench_cancel_after);
    if (c->bench_deadlines > 0)
        sk_buf_fmt(b, ", %g %% with a deadline of %lld ms", 100 * c->bench_deadlines, (long long)c->bench_deadline);
    sk_buf_fmt(b, ", seed %lld", (long long)c->bench_seed);
}

int sk_report_file(const struct sk_run *r, int (*make)(const struct sk_run *r, struct sk_buf *b), const char *path,
                   struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, SK_REPORT_MAX_BYTES);
    int rc = make(r, &b);
    if (rc) {
        sk_err_set(err, -rc, NULL, "cannot write %s: %s", path, sk_err_text(rc));
        goto out;
    }
    FILE *f = fopen(path, "w");
    if (!f) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
        goto out;
    }
    bool ok = fwrite(b.p, 1, b.n, f) == b.n;
    ok = fclose(f) == 0 && ok;
    if (!ok)
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
out:
    sk_buf_done(&b);
    return rc;
}
