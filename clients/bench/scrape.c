#include "clients/bench/scrape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"

/* ---- GET ---- */

static size_t on_bytes(char *p, size_t size, size_t n, void *arg)
{
    return sk_buf_add(arg, p, size * n) ? 0 : size * n;
}

int sk_scrape_get(const struct sk_target *t, const char *path, struct sk_buf *ret_body, struct sk_err *err)
{
    CURL *h;
    char detail[CURL_ERROR_SIZE] = "";
    long status = 0;
    int rc = sk_target_handle(t, path, NULL, 0, &h, err);
    if (rc)
        return rc;
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, ret_body);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, detail);
    CURLcode code = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK)
        rc = sk_target_failed(t, h, code, detail, err);
    else if (status != 200)
        rc = sk_target_refused(t, status, ret_body->p ? ret_body->p : "", ret_body->n, err);
    curl_easy_cleanup(h);
    return rc;
}

int sk_scrape_model(const struct sk_target *t, char *ret, size_t size, struct sk_err *err)
{
    struct sk_buf b;
    struct cJSON *v = NULL;
    sk_buf_init(&b, SK_SCRAPE_MAX_BYTES);
    int rc = sk_scrape_get(t, "/models", &b, err);
    if (rc == 0)
        rc = sk_json_parse(b.p ? b.p : "", b.n, SK_SCRAPE_MAX_BYTES, &v, err);
    const char *id = sk_json_str(sk_json_get(sk_json_first(sk_json_get(v, "data")), "id"));
    if (rc == 0 && !id)
        rc = sk_err_set(err, SK_EMODEL, "model", "%s lists no models: name one with --model", t->url);
    if (rc == 0)
        snprintf(ret, size, "%s", id);
    sk_json_free(v);
    sk_buf_done(&b);
    return rc;
}

/* ---- /metrics ---- */

struct sample {
    const char *name; /* with labels */
    size_t n_name;
    double value;
};

/* The end of a metric's name and labels at s; a '}' within a label's quotes is none. */
static const char *end_of_name(const char *s)
{
    bool quoted = false, braces = false;
    for (; *s && *s != '\n'; s++) {
        if (quoted && *s == '\\' && s[1] && s[1] != '\n')
            s++;
        else if (*s == '"')
            quoted = braces && !quoted;
        else if (*s == '{' && !quoted)
            braces = true;
        else if (*s == '}' && !quoted)
            return s + 1;
        else if (*s == ' ' && !braces)
            return s;
    }
    return s;
}

static bool ends_in(const char *s, size_t n, const char *end)
{
    size_t n_end = strlen(end);
    return n >= n_end && memcmp(s + n - n_end, end, n_end) == 0;
}

/* By name, as Prometheus wants counters to be called. */
static bool is_counter(const struct sample *x)
{
    const char *brace = memchr(x->name, '{', x->n_name);
    size_t n = brace ? (size_t)(brace - x->name) : x->n_name;
    return ends_in(x->name, n, "_total") || ends_in(x->name, n, "_sum") || ends_in(x->name, n, "_count");
}

/* The sample of the line at *s, which is moved to the next one. */
static bool next_sample(const char **s, struct sample *ret)
{
    const char *line = *s, *lf = strchr(line, '\n');
    *s = lf ? lf + 1 : line + strlen(line);
    if (*line == '#')
        return false;
    const char *end = end_of_name(line);
    if (end == line || *end != ' ')
        return false;
    char *after;
    *ret = (struct sample){.name = line, .n_name = (size_t)(end - line), .value = strtod(end, &after)};
    return after != end && is_counter(ret);
}

static int by_name(const void *a, const void *b)
{
    const struct sample *x = a, *y = b;
    size_t n = x->n_name < y->n_name ? x->n_name : y->n_name;
    int d = memcmp(x->name, y->name, n);
    return d ? d : (x->n_name > y->n_name) - (x->n_name < y->n_name);
}

static int add_delta(struct sk_round *r, const struct sample *x, double by)
{
    if (r->n_delta == SK_ROUND_MAX_DELTAS)
        return -SK_ETOOBIG;
    struct sk_round_delta *p = sk_realloc(r->deltas, (r->n_delta + 1) * sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    r->deltas = p;
    char *name = sk_strndup(x->name, x->n_name);
    if (!name)
        return -SK_ENOMEM;
    p[r->n_delta++] = (struct sk_round_delta){.name = name, .by = by};
    return 0;
}

int sk_scrape_deltas(struct sk_round *r, const char *before, const char *after)
{
    struct sk_buf b;
    struct sample x;
    int rc = 0;
    sk_buf_init(&b, SK_SCRAPE_MAX_BYTES);
    while (*before && rc == 0)
        if (next_sample(&before, &x))
            rc = sk_buf_add(&b, &x, sizeof x);
    struct sample *old = (struct sample *)b.p;
    size_t n_old = b.n / sizeof x;
    if (n_old)
        qsort(old, n_old, sizeof *old, by_name);
    while (*after && rc == 0) {
        if (!next_sample(&after, &x))
            continue;
        const struct sample *was = n_old ? bsearch(&x, old, n_old, sizeof *old, by_name) : NULL;
        double by = x.value - (was ? was->value : 0);
        if (by > 0)
            rc = add_delta(r, &x, by);
    }
    sk_buf_done(&b);
    return rc;
}

/* ---- processes ---- */

/* CPU seconds and resident bytes by /proc/PID/stat (proc(5)); the name in parentheses may hold anything. */
static bool look(int64_t pid, double *ret_cpu_s, double *ret_rss_bytes)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *at = strrchr(text, ')');
    unsigned long user, system;
    long rss;
    if (!at ||
        sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld",
               &user, &system, &rss) != 3)
        return false;
    *ret_cpu_s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    *ret_rss_bytes = (double)rss * (double)sysconf(_SC_PAGESIZE);
    return true;
}

int sk_scrape_pids(const char *list, struct sk_round *r, struct sk_err *err)
{
    for (const char *at = list; *at;) {
        char *end;
        struct sk_round_pid p = {.pid = strtoll(at, &end, 10)};
        if (end == at || (*end && *end != ',') || p.pid <= 0)
            return sk_err_set(err, SK_EINVAL, "pid", "pid must be numbers of processes such as 12,34, not '%s'", list);
        if (r->n_pid == SK_ROUND_MAX_PIDS)
            return sk_err_set(err, SK_ERANGE, "pid", "pid takes at most %d processes", SK_ROUND_MAX_PIDS);
        if (!look(p.pid, &p.cpu_s, &p.rss_bytes))
            return sk_err_set(err, SK_ENOENT, "pid", "there is no process %lld here", (long long)p.pid);
        p.peak_bytes = p.rss_bytes;
        p.cpu_s = -p.cpu_s; /* until the end, when what it is then is added */
        r->pids[r->n_pid++] = p;
        at = end + (*end == ',');
    }
    return 0;
}

void sk_scrape_pids_look(struct sk_round *r)
{
    for (struct sk_round_pid *p = r->pids; p < r->pids + r->n_pid; p++) {
        double cpu_s;
        if (look(p->pid, &cpu_s, &p->rss_bytes) && p->rss_bytes > p->peak_bytes)
            p->peak_bytes = p->rss_bytes;
    }
}

void sk_scrape_pids_end(struct sk_round *r)
{
    sk_scrape_pids_look(r);
    for (struct sk_round_pid *p = r->pids; p < r->pids + r->n_pid; p++) {
        double cpu_s = 0;
        p->cpu_s = look(p->pid, &cpu_s, &p->rss_bytes) ? cpu_s + p->cpu_s : 0;
    }
}
