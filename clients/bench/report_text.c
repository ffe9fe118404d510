#include "clients/bench/report.h"

#include <string.h>

enum { MAX_DELTAS_SHOWN = 12 };

static void put_ends(FILE *f, const struct sk_round *r)
{
    for (int i = 0; i < SK_ROUND_N_END; i++)
        if (i != SK_ROUND_OK && r->n_end[i])
            fprintf(f, "  %-22s %llu%s%s\n", sk_round_end_name((enum sk_round_end)i), (unsigned long long)r->n_end[i],
                    r->why[i][0] ? "  first: " : "", r->why[i]);
}

static void put_latencies(FILE *f, struct sk_round *r)
{
    struct sk_report_row rows[SK_REPORT_N_ROW];
    sk_report_rows(r, rows);
    fprintf(f, "  %-6s %10s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p95", "p99", "max",
            "samples");
    for (int i = 0; i < SK_REPORT_N_ROW; i++) {
        const struct sk_stat_figures *x = &rows[i].figures;
        if (x->n)
            fprintf(f, "  %-6s %10.3f %10.3f %10.3f %10.3f %10.3f %10.3f %10llu%s\n", rows[i].name, x->mean, x->p50,
                    x->p90, x->p95, x->p99, x->max, (unsigned long long)x->n,
                    x->sampled ? " (percentiles of a selection)" : "");
    }
}

static void put_beside(FILE *f, const struct sk_round *r)
{
    double s = (double)r->duration_ns / 1e9;
    fprintf(f, "  %-22s %.0f %% of a CPU\n", "this program", s > 0 ? 100 * r->own_cpu_s / s : 0);
    for (const struct sk_round_pid *p = r->pids; p < r->pids + r->n_pid; p++)
        fprintf(f, "  process %-14lld %.0f %% of a CPU, %.1f MiB resident (most: %.1f)\n", (long long)p->pid,
                s > 0 ? 100 * p->cpu_s / s : 0, p->rss_bytes / 1048576, p->peak_bytes / 1048576);
    size_t shown = 0;
    for (size_t i = 0; i < r->n_delta && shown < MAX_DELTAS_SHOWN; i++)
        if (strstr(r->deltas[i].name, "_total")) /* the sums and counts of histograms are figures of this report too */
            fprintf(f, "  %-22s %s +%g\n", shown++ ? "" : "server's counters", r->deltas[i].name, r->deltas[i].by);
    if (r->n_delta > shown)
        fprintf(f, "  %-22s %zu more in --json and --html\n", "", r->n_delta - shown);
}

static void put_round(FILE *f, const struct sk_run *run, struct sk_round *r, int number)
{
    double s = (double)r->duration_ns / 1e9;
    fprintf(f, "\nround %d: %s", number, r->url);
    if (r->rate > 0)
        fprintf(f, ", %g requests/s asked for", r->rate);
    fprintf(f, "%s\n", r->was_cut ? " (ended early)" : "");
    fprintf(f, "  %-22s %llu sent, %llu ok, %llu failed in %.2f s\n", "requests", (unsigned long long)r->n_sent,
            (unsigned long long)r->n_end[SK_ROUND_OK], (unsigned long long)sk_round_n_error(r), s);
    put_ends(f, r);
    fprintf(f, "  %-22s %.2f\n", "requests/s", sk_round_per_s(r, r->n_end[SK_ROUND_OK]));
    fprintf(f, "  %-22s %.1f in, %.1f out (%llu and %llu in all)\n", "tokens/s", sk_round_per_s(r, r->n_in),
            sk_round_per_s(r, r->n_out), (unsigned long long)r->n_in, (unsigned long long)r->n_out);
    if (r->n_no_usage)
        fprintf(f, "  %-22s %llu answers came without usage: their pieces count as tokens\n", "",
                (unsigned long long)r->n_no_usage);
    if (run->conf->bench_slo[0])
        fprintf(f, "  %-22s %.2f requests/s, %.1f %% of the requests keep %s\n", "goodput",
                sk_round_per_s(r, r->n_good), 100 * sk_round_good_share(r), run->conf->bench_slo);
    put_latencies(f, r);
    put_beside(f, r);
}

static void put_ratios(FILE *f, const struct sk_run *r)
{
    fprintf(f, "\nB / A, A = %s, B = %s\n  %-18s %8s  %-20s %-18s %s\n", r->urls[0], r->urls[1], "", "ratio",
            "95 % interval", "least .. most", "pairs");
    for (int i = 0; i < SK_REPORT_N_RATIO; i++) {
        struct sk_stat_ratio x = sk_run_ratio(r, sk_report_ratios[i].figure);
        if (x.n)
            fprintf(f, "  %-18s %8.3f  %8.3f .. %-8.3f %8.3f .. %-8.3f %3d  %s\n", sk_report_ratios[i].name, x.mean,
                    x.low, x.high, x.least, x.most, x.n,
                    x.n < 2 || (x.low <= 1 && x.high >= 1)      ? "no difference shown"
                    : (x.mean > 1) == sk_report_ratios[i].rises ? "B is better"
                                                                : "A is better");
    }
}

static void put_search(FILE *f, const struct sk_run *r)
{
    fprintf(f, "\n%10s %12s %12s %12s\n", "rate", "good", "TTFT p99", "ITL p99");
    for (int i = 0; i < r->n_round; i++) {
        struct sk_round *x = &r->rounds[i];
        fprintf(f, "%10.3f %10.1f %% %12.2f %12.2f\n", x->rate, 100 * sk_round_good_share(x),
                sk_stat_figures(&x->ttft).p99, sk_stat_figures(&x->itl).p99);
    }
    if (r->found_rate > 0)
        fprintf(f, "highest rate that keeps %s for %g %% of the requests: %.3f requests/s\n", r->conf->bench_slo,
                100 * r->conf->bench_slo_share, r->found_rate);
    else
        fprintf(f, "no rate that was tried keeps %s for %g %% of the requests\n", r->conf->bench_slo,
                100 * r->conf->bench_slo_share);
}

void sk_report_text(const struct sk_run *r, FILE *f)
{
    struct sk_buf load;
    sk_buf_init(&load, 4096);
    sk_report_load(&load, r);
    fprintf(f, "skein-bench: model %s, %s\n", r->models[0], load.p ? load.p : "");
    sk_buf_done(&load);
    for (int i = 0; i < r->n_round; i++)
        put_round(f, r, &r->rounds[i], i + 1);
    if (r->n_server > 1 && r->n_round > 1)
        put_ratios(f, r);
    if (r->conf->bench_find_rate && r->n_round)
        put_search(f, r);
}
