#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "server/metrics/metrics.h"

/* ---- a reader of the text format 0.0.4 that accepts nothing beside it ---- */

enum { MAX_SAMPLES = 8192 };

struct family {
    char name[128], kind[16];
    char key[1024]; /* of the histogram that is being read: its labels without le */
    double le, bucket;
    bool has_sum, open; /* open: buckets were read, but not yet _count */
};

struct page {
    char *samples[MAX_SAMPLES]; /* name{labels}, each once */
    double values[MAX_SAMPLES];
    int n;
    char *families[SK_METRIC_COUNT];
    int n_families;
    struct family now;
};

static bool is_name(const char *s, size_t n, bool colon)
{
    for (size_t i = 0; i < n; i++)
        if (!(isalpha(s[i]) || s[i] == '_' || (colon && s[i] == ':') || (i && isdigit(s[i]))))
            return false;
    return n > 0;
}

/* Reads name="value" at s; returns what is behind it. *ret_n_name: length of the name. */
static const char *read_label(const char *s, size_t *ret_n_name)
{
    size_t n = strcspn(s, "=");
    assert_true(is_name(s, n, false));
    assert_int_equal(s[n + 1], '"');
    *ret_n_name = n;
    for (s += n + 2; *s != '"'; s++) {
        assert_true(*s != '\0' && *s != '\n');
        if (*s == '\\') {
            s++;
            assert_true(*s == '\\' || *s == '"' || *s == 'n');
        }
    }
    return s + 1;
}

/* Splits {..} at s: le into ret_le (NaN: none), the others into `key`. Returns what is behind. */
static const char *read_labels(const char *s, char *key, size_t cap, double *ret_le)
{
    *ret_le = NAN;
    *key = '\0';
    if (*s != '{')
        return s;
    for (s++;; s++) {
        size_t n_name, n_key = strlen(key);
        const char *end = read_label(s, &n_name);
        if (n_name == 2 && memcmp(s, "le", 2) == 0)
            *ret_le = strncmp(s, "le=\"+Inf\"", 9) == 0 ? INFINITY : strtod(s + 4, NULL);
        else
            snprintf(key + n_key, cap - n_key, "%.*s,", (int)(end - s), s);
        s = end;
        if (*s == '}')
            return s + 1;
        assert_int_equal(*s, ',');
    }
}

static void read_bucket(struct family *f, const char *suffix, const char *key, double le, double value)
{
    if (strcmp(suffix, "_bucket") == 0) {
        assert_false(isnan(le));
        if (!f->open) {
            snprintf(f->key, sizeof f->key, "%s", key);
            f->le = -INFINITY;
            f->bucket = 0;
            f->has_sum = false;
            f->open = true;
        }
        assert_string_equal(f->key, key);
        assert_true(le > f->le);
        assert_true(value >= f->bucket);
        f->le = le;
        f->bucket = value;
    } else if (strcmp(suffix, "_sum") == 0) {
        assert_true(f->open && isinf(f->le) && !f->has_sum);
        assert_string_equal(f->key, key);
        f->has_sum = true;
    } else {
        assert_string_equal(suffix, "_count");
        assert_true(f->open && f->has_sum && value == f->bucket);
        assert_string_equal(f->key, key);
        f->open = false;
    }
}

static void read_sample(struct page *p, const char *line)
{
    char key[1024], *end;
    double le;
    size_t n = strcspn(line, "{ "), n_family = strlen(p->now.name);
    assert_true(is_name(line, n, true));
    const char *s = read_labels(line + n, key, sizeof key, &le);
    assert_int_equal(*s, ' ');
    double value = strtod(s + 1, &end);
    assert_true(end > s + 1 && *end == '\0' && s[1] != ' ');

    assert_true(p->now.kind[0] && n >= n_family && memcmp(line, p->now.name, n_family) == 0);
    char suffix[16];
    snprintf(suffix, sizeof suffix, "%.*s", (int)(n - n_family), line + n_family);
    if (strcmp(p->now.kind, "histogram") == 0)
        read_bucket(&p->now, suffix, key, le, value);
    else
        assert_string_equal(suffix, "");
    if (strcmp(p->now.kind, "counter") == 0) {
        assert_true(value >= 0);
        assert_string_equal(p->now.name + n_family - 6, "_total");
    }

    assert_true(p->n < MAX_SAMPLES);
    for (int i = 0; i < p->n; i++)
        assert_false(strlen(p->samples[i]) == (size_t)(s - line) &&
                     strncmp(p->samples[i], line, (size_t)(s - line)) == 0);
    p->samples[p->n] = strndup(line, (size_t)(s - line));
    p->values[p->n++] = value;
}

/* HELP begins a family, which comes once; TYPE follows, then the samples. */
static void read_comment(struct page *p, const char *line)
{
    char name[128], kind[16];
    int n = 0;
    if (sscanf(line, "# HELP %127s %n", name, &n) == 1 && n > 0) {
        assert_false(p->now.open);
        for (int i = 0; i < p->n_families; i++)
            assert_string_not_equal(p->families[i], name);
        assert_true(p->n_families < SK_METRIC_COUNT);
        p->families[p->n_families++] = strdup(name);
        p->now = (struct family){0};
        memcpy(p->now.name, name, sizeof name);
        assert_true(strlen(line) > (size_t)n);
        return;
    }
    assert_int_equal(sscanf(line, "# TYPE %127s %15s%n", name, kind, &n), 2);
    assert_int_equal(line[n], '\0');
    assert_string_equal(name, p->now.name);
    assert_string_equal(p->now.kind, "");
    assert_true(!strcmp(kind, "counter") || !strcmp(kind, "gauge") || !strcmp(kind, "histogram"));
    memcpy(p->now.kind, kind, sizeof kind);
}

static struct page page;

static void read_page(const struct sk_metrics *m)
{
    for (int i = 0; i < page.n; i++)
        free(page.samples[i]);
    for (int i = 0; i < page.n_families; i++)
        free(page.families[i]);
    memset(&page, 0, sizeof page);
    if (!m)
        return;
    struct sk_buf b;
    sk_buf_init(&b, 8 << 20);
    sk_metrics_write(m, &b);
    assert_int_equal(b.failed, 0);
    assert_true(b.n == 0 || b.p[b.n - 1] == '\n');
    assert_true(sk_utf8_valid(b.p ? b.p : "", b.n));
    for (char *line = b.p, *end; b.p && *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        if (*line == '#')
            read_comment(&page, line);
        else
            read_sample(&page, line);
    }
    assert_false(page.now.open);
    sk_buf_done(&b);
}

static double sample(const char *name)
{
    for (int i = 0; i < page.n; i++)
        if (strcmp(page.samples[i], name) == 0)
            return page.values[i];
    fail_msg("%s is not among the %d samples", name, page.n);
    return NAN;
}

/* ---- tests ---- */

static struct sk_metrics *open_metrics(void)
{
    struct sk_metrics *m = NULL;
    assert_int_equal(sk_metrics_new(&m), 0);
    return m;
}

static void test_begin(void **state)
{
    struct sk_metrics *m = open_metrics();
    read_page(m);
    assert_int_equal(page.n, 0);
    sk_metrics_name(m, "m", "0");
    read_page(m);
    assert_true(sample("vllm:num_requests_running{model_name=\"m\",engine=\"0\"}") == 0);
    assert_true(sample("vllm:prompt_tokens_total{model_name=\"m\",engine=\"0\"}") == 0);
    assert_true(sample("vllm:time_to_first_token_seconds_count{model_name=\"m\",engine=\"0\"}") == 0);
    sk_metrics_free(m);
    sk_metrics_free(NULL);
}

static void test_counters_and_gauges(void **state)
{
    struct sk_metrics *m = open_metrics();
    sk_metrics_name(m, "m", "0");
    sk_metric_add(m, SK_METRIC_REQUESTS, 1, "done", NULL);
    sk_metric_add(m, SK_METRIC_REQUESTS, 2, "done", NULL);
    sk_metric_add(m, SK_METRIC_REQUESTS, 1, "gone", NULL);
    sk_metric_add(m, SK_METRIC_REQUESTS, -1, "gone", NULL);
    sk_metric_add(m, SK_METRIC_REQUESTS, NAN, "gone", NULL);
    sk_metric_add(m, SK_METRIC_HTTP_REQUESTS, 1, "/v1/completions", "200");
    sk_metric_add(m, SK_METRIC_BUSY, 0.25, NULL, NULL);
    sk_metric_set(m, SK_METRIC_CONNECTIONS, 7, NULL, NULL);
    sk_metric_set(m, SK_METRIC_CONNECTIONS, 3, NULL, NULL);
    sk_metric_add(NULL, SK_METRIC_REQUESTS, 1, "done", NULL);
    read_page(m);
    assert_true(sample("skein_requests_total{model_name=\"m\",engine=\"0\",end=\"done\"}") == 3);
    assert_true(sample("skein_requests_total{model_name=\"m\",engine=\"0\",end=\"gone\"}") == 1);
    assert_true(sample("skein_http_requests_total{route=\"/v1/completions\",status=\"200\"}") == 1);
    assert_true(sample("skein_engine_busy_seconds_total{model_name=\"m\",engine=\"0\"}") == 0.25);
    assert_true(sample("skein_connections") == 3);
    assert_true(sk_metric_value(m, SK_METRIC_REQUESTS, "done", NULL) == 3);
    assert_true(sk_metric_value(m, SK_METRIC_REQUESTS, "never", NULL) == 0);
    assert_true(sk_metric_value(NULL, SK_METRIC_REQUESTS, "done", NULL) == 0);
    sk_metrics_name(m, "other", "1");
    read_page(m);
    assert_true(sample("skein_requests_total{model_name=\"other\",engine=\"1\",end=\"done\"}") == 3);
    sk_metrics_free(m);
}

/* 1234567 must not become 1.23457e+06: a counter that rounds seems to stand still. */
static void test_numbers(void **state)
{
    static const struct {
        double x;
        const char *text;
    } cases[] = {{0, "0"},     {1234567, "1234567"}, {9007199254740991.0, "9007199254740991"},
                 {0.1, "0.1"}, {1e300, "1e+300"},    {-3, "-3"},
                 {NAN, "NaN"}, {INFINITY, "+Inf"},   {-INFINITY, "-Inf"}};
    struct sk_metrics *m = open_metrics();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char want[64];
        struct sk_buf b;
        sk_buf_init(&b, 1 << 20);
        sk_metric_set(m, SK_METRIC_CONNECTIONS, cases[i].x, NULL, NULL);
        sk_metrics_write(m, &b);
        snprintf(want, sizeof want, "\nskein_connections %s\n", cases[i].text);
        if (!strstr(b.p, want))
            fail_msg("%s is not in %s", want, b.p);
        sk_buf_done(&b);
    }
    sk_metrics_free(m);
}

static void test_histogram(void **state)
{
    struct sk_metrics *m = open_metrics();
    sk_metrics_name(m, "m", "0");
    static const double times[] = {0.0005, 0.001, 0.0011, 1, 3000, -1, NAN};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        sk_metric_observe(m, SK_METRIC_TTFT, times[i]);
    read_page(m);
#define TTFT(what) sample("vllm:time_to_first_token_seconds_" what)
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"0.001\"}") == 4); /* a bound belongs to its bucket */
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"0.005\"}") == 5);
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"0.75\"}") == 5);
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"1.0\"}") == 6);
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"2560.0\"}") == 6);
    assert_true(TTFT("bucket{model_name=\"m\",engine=\"0\",le=\"+Inf\"}") == 7);
    assert_true(TTFT("count{model_name=\"m\",engine=\"0\"}") == 7);
    assert_true(fabs(TTFT("sum{model_name=\"m\",engine=\"0\"}") - 3001.0026) < 1e-9);
#undef TTFT
    sk_metrics_free(m);
}

/* Prometheus takes a value below the last one for a restart of what it scrapes, which this is not. */
static void test_total_never_goes_down(void **state)
{
    struct sk_metrics *m = open_metrics();
    static const double totals[][2] = {{5, 5}, {9, 9}, {9, 9}, {0, 9}, {4, 13}, {3, 16}, {NAN, 16}, {-1, 16}, {7, 20}};
    for (size_t i = 0; i < sizeof totals / sizeof totals[0]; i++) {
        sk_metric_total(m, SK_METRIC_STEPS, totals[i][0], NULL, NULL);
        assert_true(sk_metric_value(m, SK_METRIC_STEPS, NULL, NULL) == totals[i][1]);
    }
    sk_metrics_free(m);
}

static void test_labels_are_escaped(void **state)
{
    struct sk_metrics *m = open_metrics();
    sk_metrics_name(m, "a\"b\\c\nd", "\xFF\xC3\xA9");
    sk_metric_add(m, SK_METRIC_KEY_REQUESTS, 1, "key \"},{", "");
    read_page(m);
    assert_true(sample("vllm:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\",engine=\"\xEF\xBF\xBD\xC3\xA9\"}") ==
                0);
    assert_true(sample("skein_key_requests_total{key=\"key \\\"},{\",end=\"\"}") == 1);
    sk_metrics_free(m);
}

/* ("ab", "c") is not ("a", "bc"). */
static void test_series_are_kept_apart(void **state)
{
    struct sk_metrics *m = open_metrics();
    enum { N = 3000 };
    char key[32], end[32];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < N; i++) {
            snprintf(key, sizeof key, "%d", i / 10);
            snprintf(end, sizeof end, "%d", i % 10);
            sk_metric_add(m, SK_METRIC_KEY_REQUESTS, i, key, end);
        }
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "%d", i / 10);
        snprintf(end, sizeof end, "%d", i % 10);
        assert_true(sk_metric_value(m, SK_METRIC_KEY_REQUESTS, key, end) == 2 * i);
    }
    read_page(m);
    assert_int_equal(page.n, N);
    sk_metrics_free(m);
}

static void test_series_are_bounded(void **state)
{
    struct sk_metrics *m = open_metrics();
    char key[32];
    for (int i = 0; i < SK_METRIC_MAX_SERIES + 100; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        sk_metric_add(m, SK_METRIC_KEY_REQUESTS, 1, key, "done");
    }
    sk_metric_add(m, SK_METRIC_KEY_REQUESTS, 1, "key-0", "done"); /* the known ones go on */
    assert_true(sk_metric_value(m, SK_METRIC_KEY_REQUESTS, "key-0", "done") == 2);
    assert_true(sk_metric_value(m, SK_METRIC_KEY_REQUESTS, "other", "other") == 101);
    read_page(m);
    assert_int_equal(page.n, SK_METRIC_MAX_SERIES);
    sk_metrics_free(m);
}

static void test_known_series_allocate_nothing(void **state)
{
    struct sk_metrics *m = open_metrics();
    uint64_t before = 0;
    for (int i = 0; i < 2; i++) {
        before = sk_mem_count();
        sk_metric_add(m, SK_METRIC_KEY_TOKENS, 1, "key", "prompt");
        sk_metric_set(m, SK_METRIC_KV_BLOCKS, 1, "held", NULL);
        sk_metric_observe(m, SK_METRIC_ITL, 0.01);
    }
    assert_int_equal(sk_mem_count(), before);
    sk_metrics_free(m);
}

/* Every allocation fails once: nothing crashes, and what is then written is still well-formed. */
static void test_short_of_memory(void **state)
{
    for (uint64_t n = 1; n < 40; n++) {
        struct sk_metrics *m = NULL;
        sk_mem_fail_at(n, 0);
        int rc = sk_metrics_new(&m);
        if (rc == 0) {
            sk_metrics_name(m, "m", "0");
            for (int i = 0; i < 10; i++)
                sk_metric_add(m, SK_METRIC_HTTP_REQUESTS, 1, "/", (char[]){(char)('a' + i), '\0'});
            sk_metric_observe(m, SK_METRIC_E2E, 1);
        }
        sk_mem_fail_at(0, 0);
        assert_true(rc == 0 || (rc == -SK_ENOMEM && n == 1));
        if (rc == 0) {
            read_page(m);
            sk_metric_add(m, SK_METRIC_HTTP_REQUESTS, 1, "/", "late");
            assert_true(sk_metric_value(m, SK_METRIC_HTTP_REQUESTS, "/", "late") == 1);
        }
        sk_metrics_free(m);
    }
}

/* Every row can be written and read back. */
/* Three labels, each of which tells series apart; a counter is given as a total, whose owner may begin anew. */
static void test_put(void **state)
{
    struct sk_metrics *m = open_metrics();
    sk_metrics_name(m, "m", "0");
    sk_metric_put(m, SK_METRIC_RANK_STEPS, 5, (const char *const[]){"0", "1", "h"});
    sk_metric_put(m, SK_METRIC_RANK_STEPS, 7, (const char *const[]){"0", "1", "h"});
    sk_metric_put(m, SK_METRIC_RANK_STEPS, 2, (const char *const[]){"0", "1", "h"});
    sk_metric_put(m, SK_METRIC_RANK_STEPS, 3, (const char *const[]){"0", "1", "k"});
    sk_metric_put(m, SK_METRIC_RANK_RESIDENT, 9, (const char *const[]){"1", "1", "h"});
    sk_metric_put(m, SK_METRIC_RANK_RESIDENT, 4, (const char *const[]){"1", "1", "h"});
    read_page(m);
    assert_true(sample("skein_rank_steps_total{model_name=\"m\",engine=\"0\",replica=\"0\",rank=\"1\",host=\"h\"}") ==
                9);
    assert_true(sample("skein_rank_steps_total{model_name=\"m\",engine=\"0\",replica=\"0\",rank=\"1\",host=\"k\"}") ==
                3);
    assert_true(
        sample("skein_rank_resident_bytes{model_name=\"m\",engine=\"0\",replica=\"1\",rank=\"1\",host=\"h\"}") == 4);
    sk_metrics_free(m);
}

static void test_table(void **state)
{
    static const struct {
        enum sk_metric id;
        enum sk_metric_kind kind;
        const char *labels;
    } rows[] = {
#define SK_METRIC(id, kind, name, labels, help) {SK_METRIC_##id, SK_METRIC_##kind, labels},
#include "conf/metrics.def"
#undef SK_METRIC
    };
    struct sk_metrics *m = open_metrics();
    sk_metrics_name(m, "m", "0");
    for (int i = 0; i < SK_METRIC_COUNT; i++) {
        const char *own = rows[i].labels;
        if (strncmp(own, "engine", 6) == 0)
            own += own[6] == ',' ? 7 : 6;
        const char *l1 = *own ? "x" : NULL, *l2 = strchr(own, ',') ? "y" : NULL;
        if (l2 && strchr(strchr(own, ',') + 1, ','))
            sk_metric_put(m, rows[i].id, 1, (const char *const[]){l1, l2, "z"});
        else if (rows[i].kind == SK_METRIC_COUNTER)
            sk_metric_add(m, rows[i].id, 1, l1, l2);
        else if (rows[i].kind == SK_METRIC_GAUGE)
            sk_metric_set(m, rows[i].id, 1, l1, l2);
        else
            sk_metric_observe(m, rows[i].id, 1);
    }
    read_page(m);
    assert_int_equal(page.n_families, SK_METRIC_COUNT);
    sk_metrics_free(m);
}

static void test_process(void **state)
{
    struct sk_metrics *m = open_metrics();
    int fd = dup(0);
    sk_metrics_process(m, 1700000000);
    double n_fds = sk_metric_value(m, SK_METRIC_FDS, NULL, NULL);
    assert_true(sk_metric_value(m, SK_METRIC_RSS, NULL, NULL) > 100000);
    assert_true(sk_metric_value(m, SK_METRIC_CPU_SECONDS, NULL, NULL) > 0);
    assert_true(sk_metric_value(m, SK_METRIC_START_TIME, NULL, NULL) == 1700000000);
    close(fd);
    sk_metrics_process(m, 1700000000);
    assert_true(sk_metric_value(m, SK_METRIC_FDS, NULL, NULL) == n_fds - 1);
    read_page(m);
    sk_metrics_free(m);
}

static int teardown(void **state)
{
    read_page(NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin),
        cmocka_unit_test(test_counters_and_gauges),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_total_never_goes_down),
        cmocka_unit_test(test_labels_are_escaped),
        cmocka_unit_test(test_series_are_kept_apart),
        cmocka_unit_test(test_series_are_bounded),
        cmocka_unit_test(test_known_series_allocate_nothing),
        cmocka_unit_test(test_short_of_memory),
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_process),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
