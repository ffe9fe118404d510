#include "clients/bench/report.h"

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static void put_record(struct sk_buf *b, int round, const struct sk_round *r, const struct sk_round_record *x)
{
    sk_buf_fmt(b, "%d,%d,%g,%llu,%u,%.3f,%.3f,", round, r->server, r->rate, (unsigned long long)x->talk & 0xFFFFFFFF,
               (unsigned)x->turn, ms(x->due_ns), ms(x->sent_ns));
    if (x->first_ns) /* else there is no such time */
        sk_buf_fmt(b, "%.3f", ms(x->first_ns - x->sent_ns));
    sk_buf_fmt(b, ",%.3f,%u,%u,%u,%u,%s,%d\n", ms(x->end_ns - x->sent_ns), x->n_in, x->n_out, x->n_piece,
               (unsigned)x->status, sk_round_end_name((enum sk_round_end)x->end), x->good);
}

int sk_report_csv(const struct sk_run *r, struct sk_buf *b)
{
    sk_buf_str(b,
               "round,server,rate,conversation,turn,due_ms,sent_ms,ttft_ms,e2e_ms,tokens_in,tokens_out,pieces,status,"
               "end,good\n");
    for (int i = 0; i < r->n_round; i++)
        for (size_t k = 0; k < r->rounds[i].n_record; k++)
            put_record(b, i + 1, &r->rounds[i], &r->rounds[i].records[k]);
    return b->failed;
}
