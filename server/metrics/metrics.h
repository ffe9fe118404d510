/* Counters, gauges and histograms of conf/metrics.def, and their text in Prometheus' format 0.0.4. Written and read on
 * the loop thread: plain numbers, no locks. A metric has a fixed list of labels; a series begins with its first value,
 * and their number is bounded: beyond SK_METRIC_MAX_SERIES of one metric what is new goes to the series whose labels
 * are "other". */
#ifndef SK_METRICS_H
#define SK_METRICS_H
#include <stdint.h>
#include "comm/base/buf.h"

enum sk_metric_kind { SK_METRIC_COUNTER, SK_METRIC_GAUGE, SK_METRIC_HISTOGRAM };
enum sk_metric {
#define SK_METRIC(id, kind, name, labels, help) SK_METRIC_##id,
#include "conf/metrics.def"
#undef SK_METRIC
    SK_METRIC_COUNT
};
enum { SK_METRIC_MAX_SERIES = 4096, SK_METRIC_MAX_LABELS = 3 /* of a metric's own */ };

struct sk_metrics;
int sk_metrics_new(struct sk_metrics **ret); /* -SK_ENOMEM */
void sk_metrics_free(struct sk_metrics *m);
/* The values of the labels model_name and engine from now on; copied. Until then both are "". Metrics that have no
 * other labels begin here, at 0. */
void sk_metrics_name(struct sk_metrics *m, const char *model_name, const char *engine);

/* l1, l2: labels other than model_name and engine, in the order of the table; NULL where the metric has none. `m` may
 * be NULL: nothing happens. Where memory is short for a new series, its value is lost. A known series costs no
 * allocation and a hash of its labels. */
void sk_metric_add(struct sk_metrics *m, enum sk_metric id, double by, const char *l1, const char *l2); /* counters */
void sk_metric_set(struct sk_metrics *m, enum sk_metric id, double to, const char *l1, const char *l2); /* gauges */
/* A counter whose total is kept elsewhere, by an engine, say, whose restart begins at 0 again: a total below the last
 * one counts from 0, so that the metric never goes down. Say 0 at the restart, lest the new total has passed the old
 * one by the next time. */
void sk_metric_total(struct sk_metrics *m, enum sk_metric id, double total, const char *l1, const char *l2);
/* As sk_metric_set of a gauge and sk_metric_total of a counter; for metrics with more than two labels, all of which are
 * in `labels`, in the order of the table. */
void sk_metric_put(struct sk_metrics *m, enum sk_metric id, double value, const char *const *labels);
void sk_metric_observe(struct sk_metrics *m, enum sk_metric id, double seconds); /* histograms; below 0 is 0 */
/* 0 = no such series; of a histogram the sum. */
double sk_metric_value(const struct sk_metrics *m, enum sk_metric id, const char *l1, const char *l2);
/* Sets the metrics process_*, as of now, from getrusage and /proc/self; `started` in unix seconds. */
void sk_metrics_process(struct sk_metrics *m, int64_t started);

/* Appends all series. The buffer's `failed` says how it went. */
void sk_metrics_write(const struct sk_metrics *m, struct sk_buf *out);

#endif
