/* A run as people and programs read it. All take the rounds that ran, however the run ended. */
#ifndef SK_REPORT_H
#define SK_REPORT_H
#include <stdio.h>

#include "clients/bench/run.h"

enum { SK_REPORT_MAX_BYTES = 256 << 20 };

/* The latencies of a round, in the order in which all reports have them. */
struct sk_report_row {
    const char *name, *help;
    struct sk_stat_figures figures; /* milliseconds */
};
enum { SK_REPORT_N_ROW = 6 };
void sk_report_rows(struct sk_round *r, struct sk_report_row ret[SK_REPORT_N_ROW]);

/* Figures that --vs compares. `rises`: more is better. */
struct sk_report_ratio {
    const char *name;
    bool rises;
    sk_run_figure figure;
};
enum { SK_REPORT_N_RATIO = 8 };
extern const struct sk_report_ratio sk_report_ratios[SK_REPORT_N_RATIO];

void sk_report_load(struct sk_buf *b, const struct sk_run *r); /* "chat, 16 users, 128 -> 128 tokens, seed 1" */
void sk_report_text(const struct sk_run *r, FILE *f);
int sk_report_json(const struct sk_run *r, struct sk_buf *b);
int sk_report_csv(const struct sk_run *r, struct sk_buf *b);
int sk_report_html(const struct sk_run *r, struct sk_buf *b);
/* Writes one of them into a file: -SK_EIO, -SK_ENOMEM, -SK_ETOOBIG, naming it. */
int sk_report_file(const struct sk_run *r, int (*make)(const struct sk_run *r, struct sk_buf *b), const char *path,
                   struct sk_err *err);

#endif
