#include "clients/bench/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clients/bench/plot.h"
#include "comm/base/mem.h"

enum { MAX_SHOWN_ROUNDS = 24, MAX_SPANS = 500, N_BIN = 60 };

/* One file by itself: no script, nothing fetched. */
static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>skein-bench "
    "report</title>\n<style>\n"
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--dim:#60656c;--line:#e1e4e8;--c0:#0b62c4;--c1:#c2570c;"
    "--c2:#1a7f4b;--c3:#8250a8;--bad:#c62a2f;--wait:#b9bec5}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e8eaed;--dim:#9aa1a9;--line:#2b3036;--c0:#69aef7;"
    "--c1:#f0965a;--c2:#5fc48e;--c3:#c29be3;--bad:#ff7b80;--wait:#555c64}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:58rem;margin:2rem auto;"
    "padding:0 1rem}\n"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}.dim{color:var(--dim)}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}"
    "th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{font-weight:600}td.why{white-space:normal;text-align:left}\n"
    ".cards{display:flex;flex-wrap:wrap;gap:.6rem;margin:.8rem 0}.cards div{border:1px solid var(--line);"
    "border-radius:.5rem;padding:.4rem .8rem}.cards b{display:block;font-size:1.2rem}\n"
    "figure{margin:1.2rem 0 .2rem;overflow-x:auto}figcaption{font-weight:600}svg{width:100%;height:auto}"
    "figure svg{min-width:36rem}"
    ".legend{margin:0;color:var(--dim)}.legend svg{width:1.2rem;height:.6rem;margin:0 .3rem 0 .8rem}\n"
    "text{fill:var(--dim);font-size:12px}.m{text-anchor:middle}.e{text-anchor:end}.g{stroke:var(--line);fill:none}"
    ".l{fill:none;stroke-width:2}.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}"
    ".bad{stroke:var(--bad)}.wait{stroke:var(--wait)}.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}"
    ".f3{fill:var(--c3)}\n</style></head><body>\n";

/* ---- tables ---- */

static void put_card(struct sk_buf *b, const char *name, double x, const char *unit)
{
    sk_buf_fmt(b, "<div><span class=\"dim\">%s</span><b>%.*f%s</b></div>\n", name, x < 100 ? 2 : 0, x, unit);
}

static void put_cards(struct sk_buf *b, const struct sk_run *run, const struct sk_round *r)
{
    sk_buf_str(b, "<div class=\"cards\">\n");
    put_card(b, "requests/s", sk_round_per_s(r, r->n_end[SK_ROUND_OK]), "");
    put_card(b, "tokens/s out", sk_round_per_s(r, r->n_out), "");
    put_card(b, "tokens/s in", sk_round_per_s(r, r->n_in), "");
    if (run->conf->bench_slo[0]) {
        put_card(b, "goodput, requests/s", sk_round_per_s(r, r->n_good), "");
        put_card(b, "keep the SLO", 100 * sk_round_good_share(r), " %");
    }
    sk_buf_fmt(b,
               "<div><span class=\"dim\">requests</span><b>%llu</b></div><div><span class=\"dim\">failed</span>"
               "<b>%llu</b></div></div>\n",
               (unsigned long long)r->n_sent, (unsigned long long)sk_round_n_error(r));
}

static void put_latencies(struct sk_buf *b, struct sk_round *r)
{
    struct sk_report_row rows[SK_REPORT_N_ROW];
    sk_report_rows(r, rows);
    sk_buf_str(b, "<div class=\"wide\"><table><tr><th>ms</th><th>mean</th><th>p50</th><th>p90</th><th>p95</th>"
                  "<th>p99</th><th>max</th><th>samples</th></tr>\n");
    for (int i = 0; i < SK_REPORT_N_ROW; i++) {
        const struct sk_stat_figures *x = &rows[i].figures;
        if (x->n)
            sk_buf_fmt(b,
                       "<tr><td title=\"%s\">%s</td><td>%.2f</td><td>%.2f</td><td>%.2f</td><td>%.2f</td><td>%.2f</td>"
                       "<td>%.2f</td><td>%llu%s</td></tr>\n",
                       rows[i].help, rows[i].name, x->mean, x->p50, x->p90, x->p95, x->p99, x->max,
                       (unsigned long long)x->n, x->sampled ? " (percentiles of a selection)" : "");
    }
    sk_buf_str(b, "</table></div>\n");
}

static void put_errors(struct sk_buf *b, const struct sk_round *r)
{
    sk_buf_str(b, "<div class=\"wide\"><table><tr><th>ended as</th><th>requests</th><th></th></tr>\n");
    for (int i = 0; i < SK_ROUND_N_END; i++) {
        if (!r->n_end[i])
            continue;
        sk_buf_fmt(b, "<tr><td>%s</td><td>%llu</td><td class=\"why\">", sk_round_end_name((enum sk_round_end)i),
                   (unsigned long long)r->n_end[i]);
        sk_plot_escape(b, r->why[i]);
        sk_buf_str(b, "</td></tr>\n");
    }
    sk_buf_str(b, "</table></div>\n");
}

static void put_beside(struct sk_buf *b, const struct sk_round *r)
{
    double s = (double)r->duration_ns / 1e9;
    sk_buf_fmt(b, "<p class=\"dim\">This program took %.0f %% of a CPU.", s > 0 ? 100 * r->own_cpu_s / s : 0);
    for (const struct sk_round_pid *p = r->pids; p < r->pids + r->n_pid; p++)
        sk_buf_fmt(b, " Process %lld: %.0f %% of a CPU, at most %.1f MiB.", (long long)p->pid,
                   s > 0 ? 100 * p->cpu_s / s : 0, p->peak_bytes / 1048576);
    sk_buf_str(b, "</p>\n");
    if (!r->n_delta)
        return;
    sk_buf_str(b, "<details><summary>The server's counters</summary><div class=\"wide\"><table>\n");
    for (size_t i = 0; i < r->n_delta; i++) {
        sk_buf_str(b, "<tr><td>");
        sk_plot_escape(b, r->deltas[i].name);
        sk_buf_fmt(b, "</td><td>+%g</td></tr>\n", r->deltas[i].by);
    }
    sk_buf_str(b, "</table></div></details>\n");
}

static void put_ratios(struct sk_buf *b, const struct sk_run *r)
{
    sk_buf_str(b, "<h2>B / A</h2><p class=\"dim\">A is ");
    sk_plot_escape(b, r->urls[0]);
    sk_buf_str(b, ", B is ");
    sk_plot_escape(b, r->urls[1]);
    sk_buf_str(b, "; rounds in turn, ratios of pairs.</p><div class=\"wide\"><table><tr><th></th><th>ratio</th>"
                  "<th>95 % interval</th><th>least .. most</th><th>pairs</th></tr>\n");
    for (int i = 0; i < SK_REPORT_N_RATIO; i++) {
        struct sk_stat_ratio x = sk_run_ratio(r, sk_report_ratios[i].figure);
        if (x.n)
            sk_buf_fmt(b, "<tr><td>%s</td><td>%.3f</td><td>%.3f .. %.3f</td><td>%.3f .. %.3f</td><td>%d</td></tr>\n",
                       sk_report_ratios[i].name, x.mean, x.low, x.high, x.least, x.most, x.n);
    }
    sk_buf_str(b, "</table></div>\n");
}

/* ---- plots ---- */

static int by_rate(const void *a, const void *b)
{
    const struct sk_round *x = *(struct sk_round *const *)a, *y = *(struct sk_round *const *)b;
    return (x->rate > y->rate) - (x->rate < y->rate);
}

/* Two percentiles of one latency over the rates. */
static void put_rate_plot(struct sk_buf *b, struct sk_round **rounds, int n, int row, const char *title)
{
    static const char *const names[] = {"p50", "p99"}, *const classes[] = {"c0", "c1"};
    double x[SK_RUN_MAX_RATES], p50[SK_RUN_MAX_RATES], p99[SK_RUN_MAX_RATES], most = 0;
    n = n < SK_RUN_MAX_RATES ? n : SK_RUN_MAX_RATES;
    for (int i = 0; i < n; i++) {
        struct sk_report_row rows[SK_REPORT_N_ROW];
        sk_report_rows(rounds[i], rows);
        x[i] = rounds[i]->rate;
        p50[i] = rows[row].figures.p50;
        p99[i] = rows[row].figures.p99;
        most = fmax(most, p99[i]);
    }
    struct sk_plot p;
    sk_plot_begin(&p, b, title, "requests/s", "ms");
    sk_plot_axes(&p, x[n - 1], most);
    sk_plot_line(&p, 0, x, p50, n);
    sk_plot_line(&p, 1, x, p99, n);
    sk_plot_end(&p);
    sk_plot_legend(b, names, classes, 2);
}

static void put_rate_plots(struct sk_buf *b, const struct sk_run *run)
{
    struct sk_round **rounds = sk_calloc((size_t)run->n_round, sizeof *rounds);
    int n = 0;
    for (int i = 0; i < run->n_round && rounds; i++)
        if (run->rounds[i].rate > 0 && run->rounds[i].server == 0)
            rounds[n++] = &run->rounds[i];
    if (n > 1) {
        qsort(rounds, (size_t)n, sizeof *rounds, by_rate);
        sk_buf_str(b, "<h2>Rate and latency</h2>\n");
        put_rate_plot(b, rounds, n, 0, "Time to the first token");
        put_rate_plot(b, rounds, n, 2, "Time per token after the first");
    }
    sk_free(rounds);
}

/* Up to the 99.5th percentile, so that a few long gaps do not squeeze the rest; what is beyond is in the last bar. */
static void put_itl_plot(struct sk_buf *b, struct sk_round *r)
{
    double bins[N_BIN] = {0}, most = 0;
    if (r->itl.n < 2)
        return;
    sk_stat_sort(r->itl.v, r->itl.n);
    double end = sk_stat_quantile(r->itl.v, r->itl.n, 0.995);
    if (end <= 0)
        return;
    for (size_t i = 0; i < r->itl.n; i++) {
        int k = (int)((double)r->itl.v[i] / end * N_BIN);
        k = k < N_BIN ? k : N_BIN - 1;
        bins[k]++;
        most = fmax(most, bins[k]);
    }
    struct sk_plot p;
    sk_plot_begin(&p, b, "Gaps between pieces of the streams", "ms (up to the 99.5th percentile)", "gaps");
    sk_plot_axes(&p, end, most);
    for (int i = 0; i < N_BIN; i++)
        sk_plot_bar(&p, 0, end * i / N_BIN, end * (i + 0.9) / N_BIN, bins[i]);
    sk_plot_end(&p);
}

static void put_token_plot(struct sk_buf *b, const struct sk_round *r)
{
    const struct sk_stat_series *s = &r->out;
    double x[SK_STAT_BUCKETS], y[SK_STAT_BUCKETS], most = 0, width_s = (double)s->width_ns / 1e9;
    int n = (int)s->n_used;
    if (n < 2)
        return;
    for (int i = 0; i < n; i++) {
        x[i] = (i + 0.5) * width_s;
        y[i] = s->sum[i] / width_s;
        most = fmax(most, y[i]);
    }
    struct sk_plot p;
    sk_plot_begin(&p, b, "Tokens over time", "s", "pieces/s");
    sk_plot_axes(&p, n * width_s, most);
    sk_plot_line(&p, 2, x, y, n);
    sk_plot_end(&p);
}

static int by_sent(const void *a, const void *b)
{
    const struct sk_round_record *x = a, *y = b;
    return (x->sent_ns > y->sent_ns) - (x->sent_ns < y->sent_ns);
}

/* A stroke for each request, in the order in which they were sent; of many, evenly chosen ones. */
static void put_timeline(struct sk_buf *b, struct sk_round *r)
{
    static const char *const names[] = {"due, not sent", "waits for the first token", "tokens come", "failed"};
    static const char *const classes[] = {"wait", "c1", "c0", "bad"};
    size_t n = r->n_record, shown = n < MAX_SPANS ? n : MAX_SPANS;
    if (n == 0)
        return;
    qsort(r->records, n, sizeof *r->records, by_sent);
    struct sk_plot p;
    sk_plot_begin(&p, b, n > shown ? "Requests over time (500 of them)" : "Requests over time", "s", "request");
    sk_plot_axes(&p, (double)r->duration_ns / 1e9, (double)n);
    for (size_t i = 0; i < shown; i++) {
        size_t at = i * n / shown;
        const struct sk_round_record *x = &r->records[at];
        double y = (double)at + 0.5, thick = 0.7 * (double)n / (double)shown, s = 1e-9;
        bool bad = x->end >= SK_ROUND_REFUSED;
        uint64_t first = x->first_ns ? x->first_ns : x->end_ns;
        if (x->sent_ns > x->due_ns)
            sk_plot_span(&p, "wait", (double)x->due_ns * s, (double)x->sent_ns * s, y, thick);
        sk_plot_span(&p, bad ? "bad" : "c1", (double)x->sent_ns * s, (double)first * s, y, thick);
        if (x->first_ns)
            sk_plot_span(&p, bad ? "bad" : "c0", (double)first * s, (double)x->end_ns * s, y, thick);
        sk_buf_char(b, '\n');
    }
    sk_plot_end(&p);
    sk_plot_legend(b, names, classes, 4);
}

/* ---- the page ---- */

static void put_round(struct sk_buf *b, const struct sk_run *run, struct sk_round *r, int number)
{
    sk_buf_fmt(b, "<h2>Round %d: ", number);
    sk_plot_escape(b, r->url);
    if (r->rate > 0)
        sk_buf_fmt(b, ", %g requests/s asked for", r->rate);
    sk_buf_str(b, r->was_cut ? " (ended early)</h2>\n" : "</h2>\n");
    put_cards(b, run, r);
    put_latencies(b, r);
    if (sk_round_n_error(r) || r->n_end[SK_ROUND_LEFT] || r->n_end[SK_ROUND_DEADLINE])
        put_errors(b, r);
    if (r->n_no_usage)
        sk_buf_fmt(b, "<p>%llu answers came without usage: their pieces count as tokens.</p>\n",
                   (unsigned long long)r->n_no_usage);
    put_itl_plot(b, r);
    put_token_plot(b, r);
    put_timeline(b, r);
    put_beside(b, r);
}

int sk_report_html(const struct sk_run *r, struct sk_buf *b)
{
    struct sk_buf load;
    sk_buf_init(&load, 4096);
    sk_report_load(&load, r);
    sk_buf_str(b, head);
    sk_buf_str(b, "<h1>skein-bench</h1>\n<p class=\"dim\">Model ");
    sk_plot_escape(b, r->models[0]);
    sk_buf_str(b, ": ");
    sk_plot_escape(b, load.p ? load.p : "");
    if (r->conf->bench_slo[0]) {
        sk_buf_str(b, "; SLO ");
        sk_plot_escape(b, r->conf->bench_slo);
    }
    sk_buf_str(b, "</p>\n");
    if (r->conf->bench_find_rate && r->found_rate > 0)
        sk_buf_fmt(b, "<p>Highest rate that keeps the SLO for %g %% of the requests: <b>%.3f requests/s</b></p>\n",
                   100 * r->conf->bench_slo_share, r->found_rate);
    put_rate_plots(b, r);
    if (r->n_server > 1 && r->n_round > 1)
        put_ratios(b, r);
    for (int i = 0; i < r->n_round && i < MAX_SHOWN_ROUNDS; i++)
        put_round(b, r, &r->rounds[i], i + 1);
    if (r->n_round > MAX_SHOWN_ROUNDS)
        sk_buf_fmt(b, "<p>%d more rounds are in the JSON report.</p>\n", r->n_round - MAX_SHOWN_ROUNDS);
    sk_buf_str(b, "</body></html>\n");
    sk_buf_done(&load);
    return b->failed;
}
