#include "server/metrics/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"

enum { MAX_LABELS = SK_METRIC_MAX_LABELS, MAX_BOUNDS = 24, MIN_SLOTS = 8 };
#define OTHER "other"

/* Upper bounds of the buckets, in seconds; 0 ends a list. They are vLLM's (vllm/v1/metrics/loggers.py), so that panels
 * that compare two servers compare the same buckets. */
static const double bounds_first[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,  0.75, 1,
                                      2.5,   5,     7.5,  10,   20,   40,   80,   160, 640,  2560, 0};
static const double bounds_token[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                      0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80,  0};
static const double bounds_request[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,   20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680, 0};

static const struct row {
    enum sk_metric_kind kind;
    const char *name, *labels, *help;
} rows[SK_METRIC_COUNT] = {
#define SK_METRIC(id, kind_, name_, labels_, help_)                                                                    \
    [SK_METRIC_##id] = {.kind = SK_METRIC_##kind_, .name = name_, .labels = labels_, .help = help_},
#include "conf/metrics.def"
#undef SK_METRIC
};

struct series {
    char *labels[MAX_LABELS]; /* values, owned; NULL beyond those the metric has */
    double value;             /* of a histogram the sum */
    double total;             /* what sk_metric_total was told last */
    uint64_t *counts;         /* of a histogram, owned: one for each bound and one past them all; else NULL */
};

/* Open addressing by the label values; a table is at most half full. In the order of their beginning the series are
 * what is written, so that texts of two scrapes compare line by line. */
struct family {
    struct series **series; /* n_series of them, room for n_slots / 2 */
    uint32_t *slots;        /* index into series + 1; 0 = empty */
    uint32_t n_series, n_slots;
    uint32_t n_labels; /* of its own, without model_name and engine */
    bool by_engine;
};

struct sk_metrics {
    struct family families[SK_METRIC_COUNT];
    char *model_name, *engine;
};

static const double *bounds_of(enum sk_metric id)
{
    return id == SK_METRIC_TTFT ? bounds_first : id == SK_METRIC_ITL ? bounds_token : bounds_request;
}

static int n_bounds_of(enum sk_metric id)
{
    int n = 0;
    while (bounds_of(id)[n] > 0)
        n++;
    return n;
}

/* The next label's name of a list such as "engine,end"; *at moves behind it. Returns its length, 0 at the end. */
static int next_label(const char **at, const char **ret_name)
{
    *at += **at == ',';
    int n = (int)strcspn(*at, ",");
    *ret_name = *at;
    *at += n;
    return n;
}

static bool is_engine(const char *name, int n)
{
    return n == 6 && memcmp(name, "engine", 6) == 0;
}

/* ---- series ---- */

static bool equal(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool equal_labels(const char *const a[MAX_LABELS], const char *const b[MAX_LABELS])
{
    bool same = true;
    for (int i = 0; i < MAX_LABELS; i++)
        same = same && equal(a[i], b[i]);
    return same;
}

/* FNV-1a */
static uint32_t hash_of(const char *const labels[MAX_LABELS])
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < MAX_LABELS && labels[i]; i++)
        for (const char *s = labels[i];; s++) {
            h = (h ^ (uint8_t)*s) * 16777619u;
            if (!*s)
                break;
        }
    return h;
}

/* The slot of these labels: theirs, or the empty one where they belong. */
static uint32_t *slot_of(const struct family *f, const char *const labels[MAX_LABELS])
{
    for (uint32_t i = hash_of(labels);; i++) {
        uint32_t *slot = &f->slots[i & (f->n_slots - 1)];
        const struct series *s = *slot ? f->series[*slot - 1] : NULL;
        if (!s || equal_labels((const char *const *)s->labels, labels))
            return slot;
    }
}

static bool grow(struct family *f)
{
    uint32_t n = f->n_slots ? 2 * f->n_slots : MIN_SLOTS;
    uint32_t *slots = sk_calloc(n, sizeof *slots);
    struct series **series = slots ? sk_realloc(f->series, n / 2 * sizeof *series) : NULL;
    if (!series) {
        sk_free(slots);
        return false;
    }
    sk_free(f->slots);
    f->slots = slots;
    f->series = series;
    f->n_slots = n;
    for (uint32_t i = 0; i < f->n_series; i++)
        *slot_of(f, (const char *const *)series[i]->labels) = i + 1;
    return true;
}

static void free_series(struct series *s)
{
    for (int i = 0; i < MAX_LABELS; i++)
        sk_free(s->labels[i]);
    sk_free(s->counts);
    sk_free(s);
}

static struct series *new_series(enum sk_metric id, const char *const labels[MAX_LABELS])
{
    struct series *s = sk_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    bool ok = true;
    for (int i = 0; i < MAX_LABELS && labels[i]; i++) {
        s->labels[i] = sk_strdup(labels[i]);
        ok &= s->labels[i] != NULL;
    }
    if (rows[id].kind == SK_METRIC_HISTOGRAM) {
        s->counts = sk_calloc((size_t)n_bounds_of(id) + 1, sizeof *s->counts);
        ok &= s->counts != NULL;
    }
    if (ok)
        return s;
    free_series(s);
    return NULL;
}

static struct series *find(const struct family *f, const char *const labels[MAX_LABELS])
{
    uint32_t i = f->n_slots ? *slot_of(f, labels) : 0;
    return i ? f->series[i - 1] : NULL;
}

/* The series of these labels, begun if need be; NULL where memory is short: the value is lost, not the request. */
static struct series *begin(struct sk_metrics *m, enum sk_metric id, const char *const labels[MAX_LABELS])
{
    static const char *const others[][MAX_LABELS] = {{0}, {OTHER}, {OTHER, OTHER}, {OTHER, OTHER, OTHER}};
    struct family *f = &m->families[id];
    struct series *s = find(f, labels);
    if (s)
        return s;
    if (f->n_series >= SK_METRIC_MAX_SERIES - 1) { /* the last place is for all others */
        labels = others[f->n_labels];
        s = find(f, labels);
        if (s)
            return s;
    }
    if (f->n_series == f->n_slots / 2 && !grow(f))
        return NULL;
    s = new_series(id, labels);
    if (!s)
        return NULL;
    f->series[f->n_series] = s;
    *slot_of(f, labels) = ++f->n_series;
    return s;
}

static struct series *series_of(struct sk_metrics *m, enum sk_metric id, const char *l1, const char *l2)
{
    if (!m)
        return NULL;
    sk_assert((l1 != NULL) + (l2 != NULL) == (int)m->families[id].n_labels && (l1 || !l2));
    return begin(m, id, (const char *const[MAX_LABELS]){l1, l2});
}

/* ---- life ---- */

int sk_metrics_new(struct sk_metrics **ret)
{
    struct sk_metrics *m = sk_calloc(1, sizeof *m);
    if (!m)
        return -SK_ENOMEM;
    for (int id = 0; id < SK_METRIC_COUNT; id++) {
        const char *at = rows[id].labels, *name;
        for (int n; (n = next_label(&at, &name)) > 0;)
            if (is_engine(name, n))
                m->families[id].by_engine = true;
            else
                m->families[id].n_labels++;
        sk_assert(m->families[id].n_labels <= MAX_LABELS);
    }
    *ret = m;
    return 0;
}

void sk_metrics_free(struct sk_metrics *m)
{
    if (!m)
        return;
    for (int id = 0; id < SK_METRIC_COUNT; id++) {
        struct family *f = &m->families[id];
        for (uint32_t i = 0; i < f->n_series; i++)
            free_series(f->series[i]);
        sk_free(f->series);
        sk_free(f->slots);
    }
    sk_free(m->model_name);
    sk_free(m->engine);
    sk_free(m);
}

void sk_metrics_name(struct sk_metrics *m, const char *model_name, const char *engine)
{
    char *names[] = {sk_strdup(model_name), sk_strdup(engine)};
    if (!names[0] || !names[1]) {
        sk_free(names[0]);
        sk_free(names[1]);
        return;
    }
    sk_free(m->model_name);
    sk_free(m->engine);
    m->model_name = names[0];
    m->engine = names[1];
    /* A rate needs a 0 to rise from. */
    for (int id = 0; id < SK_METRIC_COUNT; id++)
        if (m->families[id].by_engine && m->families[id].n_labels == 0)
            begin(m, (enum sk_metric)id, (const char *const[MAX_LABELS]){NULL});
}

/* ---- values ---- */

void sk_metric_add(struct sk_metrics *m, enum sk_metric id, double by, const char *l1, const char *l2)
{
    sk_assert(rows[id].kind == SK_METRIC_COUNTER);
    struct series *s = series_of(m, id, l1, l2);
    if (s && by > 0)
        s->value += by;
}

void sk_metric_set(struct sk_metrics *m, enum sk_metric id, double to, const char *l1, const char *l2)
{
    sk_assert(rows[id].kind == SK_METRIC_GAUGE);
    struct series *s = series_of(m, id, l1, l2);
    if (s)
        s->value = to;
}

static void count_to(struct series *s, double total)
{
    s->value += total < s->total ? total : total - s->total;
    s->total = total;
}

void sk_metric_total(struct sk_metrics *m, enum sk_metric id, double total, const char *l1, const char *l2)
{
    sk_assert(rows[id].kind == SK_METRIC_COUNTER);
    struct series *s = series_of(m, id, l1, l2);
    if (!s || !(total >= 0))
        return;
    count_to(s, total);
}

void sk_metric_put(struct sk_metrics *m, enum sk_metric id, double value, const char *const *labels)
{
    const char *own[MAX_LABELS] = {NULL};
    sk_assert(rows[id].kind != SK_METRIC_HISTOGRAM);
    for (uint32_t i = 0; m && i < m->families[id].n_labels; i++)
        own[i] = labels[i];
    struct series *s = m ? begin(m, id, own) : NULL;
    if (s && rows[id].kind == SK_METRIC_GAUGE)
        s->value = value;
    else if (s && value >= 0)
        count_to(s, value);
}

void sk_metric_observe(struct sk_metrics *m, enum sk_metric id, double seconds)
{
    sk_assert(rows[id].kind == SK_METRIC_HISTOGRAM);
    struct series *s = series_of(m, id, NULL, NULL);
    if (!s)
        return;
    double x = seconds > 0 ? seconds : 0;
    const double *bounds = bounds_of(id);
    int i = 0;
    while (bounds[i] > 0 && x > bounds[i])
        i++;
    s->counts[i]++;
    s->value += x;
}

double sk_metric_value(const struct sk_metrics *m, enum sk_metric id, const char *l1, const char *l2)
{
    const struct series *s = m ? find(&m->families[id], (const char *const[MAX_LABELS]){l1, l2}) : NULL;
    return s ? s->value : 0;
}

/* ---- text ---- */

static void put_number(struct sk_buf *out, double x)
{
    char text[40];
    if (isnan(x) || isinf(x)) {
        sk_buf_str(out, isnan(x) ? "NaN" : x > 0 ? "+Inf" : "-Inf");
        return;
    }
    snprintf(text, sizeof text, fabs(x) < 9007199254740992.0 && x == floor(x) ? "%.0f" : "%.15g", x); /* 2^53 */
    sk_buf_str(out, text);
}

/* A bound as Prometheus itself writes it: 1.0. */
static void put_bound(struct sk_buf *out, double x)
{
    sk_buf_fmt(out, x == floor(x) ? "%.1f" : "%g", x);
}

/* The format wants UTF-8; `specials` are written after a backslash, a line feed as \n. */
static void put_escaped(struct sk_buf *out, const char *s, const char *specials)
{
    uint32_t cp;
    for (size_t n = strlen(s); n > 0;) {
        int len = sk_utf8_next(s, n, &cp);
        size_t used = (size_t)(len < 0 ? -len : len);
        if (cp == '\n')
            sk_buf_str(out, "\\n");
        else if (len < 0)
            sk_buf_str(out, "\xEF\xBF\xBD");
        else {
            if (cp < 0x80 && strchr(specials, (int)cp))
                sk_buf_char(out, '\\');
            sk_buf_add(out, s, used);
        }
        s += used;
        n -= used;
    }
}

static void put_label(struct sk_buf *out, char before, const char *name, int n_name, const char *value)
{
    sk_buf_fmt(out, "%c%.*s=\"", before, n_name, name);
    put_escaped(out, value, "\\\"");
    sk_buf_char(out, '"');
}

/* {a="x",b="y" without the end; returns what the next label is written after. */
static char put_labels(struct sk_buf *out, const struct sk_metrics *m, enum sk_metric id, const struct series *s)
{
    char before = '{';
    const char *at = rows[id].labels, *name;
    int k = 0;
    for (int n; (n = next_label(&at, &name)) > 0; before = ',') {
        if (is_engine(name, n)) {
            put_label(out, before, "model_name", 10, m->model_name ? m->model_name : "");
            put_label(out, ',', name, n, m->engine ? m->engine : "");
        } else {
            put_label(out, before, name, n, s->labels[k++]);
        }
    }
    return before;
}

static void put_sample(struct sk_buf *out, const struct sk_metrics *m, enum sk_metric id, const struct series *s,
                       const char *suffix, double value)
{
    sk_buf_fmt(out, "%s%s", rows[id].name, suffix);
    if (put_labels(out, m, id, s) == ',')
        sk_buf_char(out, '}');
    sk_buf_char(out, ' ');
    put_number(out, value);
    sk_buf_char(out, '\n');
}

static void put_histogram(struct sk_buf *out, const struct sk_metrics *m, enum sk_metric id, const struct series *s)
{
    const double *bounds = bounds_of(id);
    int n = n_bounds_of(id);
    uint64_t count = 0;
    for (int i = 0; i <= n; i++) {
        count += s->counts[i];
        sk_buf_fmt(out, "%s_bucket", rows[id].name);
        sk_buf_fmt(out, "%cle=\"", put_labels(out, m, id, s));
        if (i < n)
            put_bound(out, bounds[i]);
        else
            sk_buf_str(out, "+Inf");
        sk_buf_fmt(out, "\"} %llu\n", (unsigned long long)count);
    }
    put_sample(out, m, id, s, "_sum", s->value);
    put_sample(out, m, id, s, "_count", (double)count);
}

void sk_metrics_write(const struct sk_metrics *m, struct sk_buf *out)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    for (int id = 0; id < SK_METRIC_COUNT && !out->failed; id++) {
        const struct family *f = &m->families[id];
        const struct row *r = &rows[id];
        if (f->n_series == 0)
            continue;
        sk_buf_fmt(out, "# HELP %s ", r->name);
        put_escaped(out, r->help, "\\");
        sk_buf_fmt(out, "\n# TYPE %s %s\n", r->name, kinds[r->kind]);
        for (uint32_t i = 0; i < f->n_series; i++)
            if (r->kind == SK_METRIC_HISTOGRAM)
                put_histogram(out, m, (enum sk_metric)id, f->series[i]);
            else
                put_sample(out, m, (enum sk_metric)id, f->series[i], "", f->series[i]->value);
    }
}
