#include "clients/bench/report.h"

#include <string.h>

#include "comm/base/json.h"

static void put_str(struct sk_buf *b, const char *key, const char *s)
{
    sk_buf_fmt(b, "\"%s\":", key);
    sk_json_quote(b, s, strlen(s));
}

static void put_num(struct sk_buf *b, const char *key, double x)
{
    sk_buf_fmt(b, ",\"%s\":", key);
    sk_json_put_num(b, x);
}

static void put_latencies(struct sk_buf *b, struct sk_round *r)
{
    struct sk_report_row rows[SK_REPORT_N_ROW];
    sk_report_rows(r, rows);
    for (int i = 0; i < SK_REPORT_N_ROW; i++) {
        const struct sk_stat_figures *x = &rows[i].figures;
        sk_buf_fmt(b, ",\"%s_ms\":{\"n\":%llu", rows[i].name, (unsigned long long)x->n);
        put_num(b, "mean", x->mean);
        put_num(b, "p50", x->p50);
        put_num(b, "p90", x->p90);
        put_num(b, "p95", x->p95);
        put_num(b, "p99", x->p99);
        put_num(b, "max", x->max);
        sk_buf_fmt(b, ",\"sampled\":%s}", x->sampled ? "true" : "false");
    }
}

static void put_errors(struct sk_buf *b, const struct sk_round *r)
{
    const char *comma = "";
    sk_buf_str(b, ",\"ends\":{");
    for (int i = 0; i < SK_ROUND_N_END; i++, comma = ",")
        sk_buf_fmt(b, "%s\"%s\":%llu", comma, sk_round_end_name((enum sk_round_end)i), (unsigned long long)r->n_end[i]);
    sk_buf_str(b, "},\"errors\":{");
    comma = "";
    for (int i = 0; i < SK_ROUND_N_END; i++)
        if (r->why[i][0]) {
            sk_buf_str(b, comma);
            put_str(b, sk_round_end_name((enum sk_round_end)i), r->why[i]);
            comma = ",";
        }
    sk_buf_char(b, '}');
}

static void put_beside(struct sk_buf *b, const struct sk_round *r)
{
    sk_buf_str(b, ",\"pids\":[");
    for (int i = 0; i < r->n_pid; i++) {
        const struct sk_round_pid *p = &r->pids[i];
        sk_buf_fmt(b, "%s{\"pid\":%lld", i ? "," : "", (long long)p->pid);
        put_num(b, "cpu_s", p->cpu_s);
        put_num(b, "rss_bytes", p->rss_bytes);
        put_num(b, "peak_rss_bytes", p->peak_bytes);
        sk_buf_char(b, '}');
    }
    sk_buf_str(b, "],\"metrics\":{");
    for (size_t i = 0; i < r->n_delta; i++) {
        sk_buf_str(b, i ? "," : "");
        sk_json_quote(b, r->deltas[i].name, strlen(r->deltas[i].name));
        sk_buf_char(b, ':');
        sk_json_put_num(b, r->deltas[i].by);
    }
    sk_buf_str(b, "}");
}

static void put_round(struct sk_buf *b, struct sk_round *r)
{
    sk_buf_char(b, '{');
    put_str(b, "url", r->url);
    put_num(b, "server", r->server);
    put_num(b, "rate", r->rate);
    put_num(b, "concurrency", (double)r->concurrency);
    sk_buf_fmt(b, ",\"interrupted\":%s", r->was_cut ? "true" : "false");
    put_num(b, "duration_s", (double)r->duration_ns / 1e9);
    put_num(b, "requests", (double)r->n_sent);
    put_num(b, "failed", (double)sk_round_n_error(r));
    put_num(b, "requests_per_s", sk_round_per_s(r, r->n_end[SK_ROUND_OK]));
    put_num(b, "tokens_in", (double)r->n_in);
    put_num(b, "tokens_out", (double)r->n_out);
    put_num(b, "tokens_in_per_s", sk_round_per_s(r, r->n_in));
    put_num(b, "tokens_out_per_s", sk_round_per_s(r, r->n_out));
    put_num(b, "pieces", (double)r->n_piece);
    put_num(b, "without_usage", (double)r->n_no_usage);
    put_num(b, "good", (double)r->n_good);
    put_num(b, "goodput_per_s", sk_round_per_s(r, r->n_good));
    put_num(b, "good_share", sk_round_good_share(r));
    put_num(b, "own_cpu_s", r->own_cpu_s);
    put_latencies(b, r);
    put_errors(b, r);
    put_beside(b, r);
    sk_buf_char(b, '}');
}

static void put_ratios(struct sk_buf *b, const struct sk_run *r)
{
    sk_buf_str(b, ",\"b_to_a\":{");
    for (int i = 0; i < SK_REPORT_N_RATIO; i++) {
        struct sk_stat_ratio x = sk_run_ratio(r, sk_report_ratios[i].figure);
        sk_buf_fmt(b, "%s\"%s\":{\"pairs\":%d", i ? "," : "", sk_report_ratios[i].name, x.n);
        put_num(b, "ratio", x.mean);
        put_num(b, "low", x.low);
        put_num(b, "high", x.high);
        put_num(b, "least", x.least);
        put_num(b, "most", x.most);
        sk_buf_char(b, '}');
    }
    sk_buf_char(b, '}');
}

int sk_report_json(const struct sk_run *r, struct sk_buf *b)
{
    struct sk_buf load;
    sk_buf_init(&load, 4096);
    sk_report_load(&load, r);
    sk_buf_char(b, '{');
    put_str(b, "program", "skein-bench " SK_VERSION);
    sk_buf_char(b, ',');
    put_str(b, "model", r->models[0]);
    sk_buf_char(b, ',');
    put_str(b, "load", load.p ? load.p : "");
    sk_buf_char(b, ',');
    put_str(b, "slo", r->conf->bench_slo);
    sk_buf_str(b, ",\"rounds\":[");
    for (int i = 0; i < r->n_round; i++) {
        sk_buf_str(b, i ? ",\n" : "\n");
        put_round(b, &r->rounds[i]);
    }
    sk_buf_char(b, ']');
    if (r->n_server > 1)
        put_ratios(b, r);
    if (r->conf->bench_find_rate)
        put_num(b, "found_rate", r->found_rate);
    sk_buf_str(b, "}\n");
    sk_buf_done(&load);
    return b->failed;
}
