#include "clients/bench/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clients/bench/scrape.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"

enum { DEFAULT_REQUESTS = 100, DEFAULT_VS_ROUNDS = 5, CONNECT_MS = 10000, GET_SILENCE_MS = 30000 };

/* Two rates are told apart down to this ratio. */
static const double search_step = 1.05;

/* ---- options ---- */

static int read_rates(struct sk_run *r, struct sk_err *err)
{
    const char *s = r->conf->bench_rate;
    while (*s) {
        char *end;
        double x = strtod(s, &end);
        if (end == s || (*end && *end != ',') || !(x > 0 && x <= 1e6))
            return sk_err_set(err, SK_EINVAL, "rate", "rate must be requests a second such as 4 or 1,2,4, not '%s'",
                              r->conf->bench_rate);
        if (r->n_rate == SK_RUN_MAX_RATES)
            return sk_err_set(err, SK_ERANGE, "rate", "rate takes at most %d rates", SK_RUN_MAX_RATES);
        r->rates[r->n_rate++] = x;
        s = end + (*end == ',');
    }
    return 0;
}

static int read_extra(struct sk_run *r, struct sk_err *err)
{
    const char *s = r->conf->bench_extra;
    struct cJSON *v;
    struct sk_err why = {0};
    if (!*s)
        return 0;
    if (sk_json_parse(s, strlen(s), SK_CONF_STR_MAX, &v, &why))
        return sk_err_set(err, SK_EINVAL, "extra", "extra: %s", why.msg);
    int rc = 0;
    if (sk_json_type(v) != SK_JSON_OBJECT)
        rc = sk_err_set(err, SK_EINVAL, "extra", "extra must be an object such as {\"temperature\":0}, not %s",
                        sk_json_typename(v));
    else if (sk_json_len(v) && sk_json_print(&r->extra, v) == 0) {
        r->extra.p[--r->extra.n] = '\0';
        sk_buf_drop(&r->extra, 1);
    }
    sk_json_free(v);
    return rc;
}

static int read_lengths(struct sk_run *r, struct sk_err *err)
{
    const struct sk_conf *c = r->conf;
    struct {
        const char *text, *option;
        struct sk_dist *dist;
    } all[] = {{c->bench_input, "input", &r->load.input},
               {c->bench_output, "output", &r->load.output},
               {c->bench_turns, "turns", &r->load.turns},
               {c->bench_think, "think", &r->load.think_ms},
               {c->bench_cancel_after, "cancel-after", &r->load.cancel_after}};
    int rc = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == 0; i++)
        rc = sk_dist_parse(all[i].text, all[i].option, all[i].dist, err);
    return rc;
}

static int read_file(struct sk_run *r, struct sk_err *err)
{
    if (!r->conf->bench_file[0])
        return 0;
    int rc = sk_trace_read(&r->trace, r->conf->bench_file, err);
    if (rc)
        return rc;
    r->load.trace = &r->trace;
    if (r->trace.n_messages && !r->load.chat)
        return sk_err_set(err, SK_EINVAL, "api", "%s has messages, which need --api chat", r->conf->bench_file);
    return 0;
}

/* What does not go together. */
static int check(const struct sk_run *r, struct sk_err *err)
{
    const struct sk_conf *c = r->conf;
    bool is_trace = strcmp(c->bench_arrival, "trace") == 0;
    const struct sk_dist *turns = &r->load.turns;
    if (c->bench_concurrency && (r->n_rate || is_trace) && !c->bench_find_rate)
        return sk_err_set(err, SK_EINVAL, "concurrency",
                          "a load is a closed loop (--concurrency) or an open one (--rate)");
    if (is_trace && (r->n_rate || !r->load.trace || r->trace.n_timed < r->trace.n))
        return sk_err_set(err, SK_EINVAL, "arrival",
                          "--arrival trace needs a --file with a timestamp in each line, and no --rate");
    if (c->bench_find_rate && (!c->bench_slo[0] || r->n_rate > 1 || is_trace || c->bench_vs[0]))
        return sk_err_set(err, SK_EINVAL, "find-rate", "--find-rate needs --slo, and takes one --rate and one server");
    if (c->bench_token_ids && (r->load.chat || turns->kind != SK_DIST_FIXED || turns->a > 1))
        return sk_err_set(err, SK_EINVAL, "token-ids", "--token-ids is for completions of one turn");
    if (r->load.trace && c->bench_token_ids && r->trace.items[0].turns[0].text)
        return sk_err_set(err, SK_EINVAL, "token-ids", "%s has texts, which are not token ids", c->bench_file);
    return 0;
}

static int open_server(struct sk_run *r, const char *url, struct sk_err *err)
{
    const struct sk_conf *c = r->conf;
    struct sk_target_conf t = {.url = url,
                               .api_key = c->client_api_key,
                               .ca_file = c->client_ca_file,
                               .insecure = c->client_insecure,
                               .connect_ms = CONNECT_MS,
                               .silence_ms = GET_SILENCE_MS};
    int i = r->n_server;
    int rc = sk_target_init(&r->servers[i], &t, err);
    if (rc)
        return rc;
    r->urls[i] = url;
    r->n_server++;
    if (!c->bench_model[0])
        return sk_scrape_model(&r->servers[i], r->models[i], sizeof r->models[i], err);
    strcpy(r->models[i], c->bench_model); /* both of SK_CONF_STR_MAX */
    return 0;
}

static void fill(struct sk_run *r)
{
    const struct sk_conf *c = r->conf;
    struct sk_load *l = &r->load;
    struct sk_drive *d = &r->drive;
    l->stream = c->bench_stream;
    l->ignore_eos = c->bench_ignore_eos;
    l->prefixes = c->bench_prefixes;
    l->prefix_words = c->bench_prefix_words;
    l->cancel = c->bench_cancel;
    l->deadlines = c->bench_deadlines;
    l->deadline_ms = c->bench_deadline;
    l->token_ids = c->bench_token_ids;
    l->extra = r->extra.p ? r->extra.p : "";
    l->seed = (uint64_t)c->bench_seed;
    d->load = l;
    d->gap = strcmp(c->bench_arrival, "fixed") == 0   ? SK_DIST_GAP_FIXED
             : strcmp(c->bench_arrival, "gamma") == 0 ? SK_DIST_GAP_GAMMA
                                                      : SK_DIST_GAP_POISSON;
    d->burstiness = c->bench_burstiness;
    d->speed = c->bench_speed;
    d->timeout_ns = (uint64_t)c->bench_timeout * 1000000;
    d->duration_ns = (uint64_t)c->bench_duration * 1000000;
    d->max_requests = (uint64_t)c->bench_requests;
    d->max_in_flight = (uint64_t)c->bench_connections;
    d->stop = r->stop;
    bool is_trace = strcmp(c->bench_arrival, "trace") == 0;
    if (!is_trace && !r->n_rate)
        d->concurrency = c->bench_find_rate ? 0 : c->bench_concurrency ? c->bench_concurrency : 1;
    if (!d->max_requests && !d->duration_ns && !is_trace)
        d->max_requests = l->trace ? l->trace->n : DEFAULT_REQUESTS;
}

int sk_run_init(struct sk_run *r, const struct sk_conf *c, const char *url, const volatile sig_atomic_t *stop,
                struct sk_err *err)
{
    *r = (struct sk_run){.conf = c, .stop = stop};
    sk_buf_init(&r->extra, SK_CONF_STR_MAX * 2);
    r->load.chat = strcmp(c->bench_api, "chat") == 0;
    int rc = sk_round_slo_parse(c->bench_slo, &r->drive.slo, err);
    rc = rc ? rc : read_rates(r, err);
    rc = rc ? rc : read_extra(r, err);
    rc = rc ? rc : read_lengths(r, err);
    rc = rc ? rc : read_file(r, err);
    rc = rc ? rc : check(r, err);
    rc = rc ? rc : open_server(r, url, err);
    if (rc == 0 && c->bench_vs[0])
        rc = open_server(r, c->bench_vs, err);
    fill(r);
    return rc;
}

void sk_run_done(struct sk_run *r)
{
    for (int i = 0; i < r->n_round; i++)
        sk_round_done(&r->rounds[i]);
    for (int i = 0; i < r->n_server; i++)
        sk_target_done(&r->servers[i]);
    sk_free(r->rounds);
    sk_trace_done(&r->trace);
    sk_buf_done(&r->extra);
}

/* ---- rounds ---- */

static void on_tick(void *arg, const struct sk_round *round, uint64_t now_ns, uint64_t n_in_flight)
{
    struct sk_run *r = arg;
    sk_scrape_pids_look(&r->rounds[r->n_round]); /* the round that runs, which is not counted yet */
    if (r->tick)
        r->tick(r->arg, round, now_ns, n_in_flight);
}

static int drive(struct sk_run *r, int server, struct sk_round *round, struct sk_err *err)
{
    r->load.model = r->models[server];
    round->url = r->urls[server];
    round->server = server;
    round->rate = r->drive.rate;
    round->concurrency = r->drive.concurrency;
    r->drive.tick = on_tick;
    r->drive.arg = r;
    return sk_drive(&r->drive, &r->servers[server], r->load.chat ? "/chat/completions" : "/completions", round, err);
}

static void get_metrics(struct sk_run *r, int server, struct sk_buf *b)
{
    sk_buf_init(b, SK_SCRAPE_MAX_BYTES);
    if (r->conf->bench_metrics && sk_scrape_get(&r->servers[server], "//metrics", b, NULL))
        sk_buf_done(b); /* a server may well have none */
}

/* One measured round of `server`; `number` names its conversations, so that those of a pair are the same. */
static int run_round(struct sk_run *r, int server, int number, struct sk_err *err)
{
    if (r->n_round == SK_RUN_MAX_ROUNDS)
        return sk_err_set(err, SK_ETOOBIG, NULL, "more than %d rounds", SK_RUN_MAX_ROUNDS);
    struct sk_round *rounds = sk_realloc(r->rounds, (size_t)(r->n_round + 1) * sizeof *rounds);
    if (!rounds)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    r->rounds = rounds;
    struct sk_round *round = &rounds[r->n_round];
    struct sk_buf before, after;
    sk_round_init(round, r->load.seed);
    int rc = sk_scrape_pids(r->conf->bench_pids, round, err);
    if (rc)
        return rc;
    r->drive.first_talk = r->load.trace ? 0 : (uint64_t)number << 32;
    get_metrics(r, server, &before);
    rc = drive(r, server, round, err);
    sk_scrape_pids_end(round);
    get_metrics(r, server, &after);
    if (before.n && after.n)
        sk_scrape_deltas(round, before.p, after.p);
    sk_buf_done(&before);
    sk_buf_done(&after);
    r->n_round++;
    r->is_cut = round->was_cut;
    return rc;
}

static int warm_up(struct sk_run *r, struct sk_err *err)
{
    struct sk_drive kept = r->drive;
    int rc = 0;
    r->drive.max_requests = (uint64_t)r->conf->bench_warmup;
    r->drive.duration_ns = 0;
    r->drive.rate = 0;
    r->drive.concurrency = kept.concurrency ? kept.concurrency : 1;
    r->drive.first_talk = UINT64_C(1) << 62;
    for (int i = 0; i < r->n_server && r->conf->bench_warmup && rc == 0; i++) {
        struct sk_round *round = r->rounds = sk_calloc(1, sizeof *round);
        if (!round)
            return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        sk_round_init(round, r->load.seed);
        rc = drive(r, i, round, err);
        r->is_cut = round->was_cut;
        sk_round_done(round);
        sk_free(round);
        r->rounds = NULL;
    }
    r->drive = kept;
    return rc;
}

/* Server A and B in the orders AB BA AB ..., so that what drifts falls on both. */
static int run_pairs(struct sk_run *r, int n, int *number, struct sk_err *err)
{
    int rc = 0;
    for (int i = 0; i < n && rc == 0 && !r->is_cut; i++, ++*number)
        for (int k = 0; k < r->n_server && rc == 0 && !r->is_cut; k++)
            rc = run_round(r, (i + k) % r->n_server, *number, err);
    return rc;
}

static int run_rates(struct sk_run *r, struct sk_err *err)
{
    int n = (int)r->conf->bench_rounds, number = 0, rc = 0;
    n = n ? n : r->n_server > 1 ? DEFAULT_VS_ROUNDS : 1;
    if (r->n_rate == 0)
        return run_pairs(r, n, &number, err);
    for (int i = 0; i < r->n_rate && rc == 0 && !r->is_cut; i++) {
        r->drive.rate = r->rates[i];
        rc = run_pairs(r, n, &number, err);
    }
    return rc;
}

/* Rates double until one fails, or halve until one passes; then the gap between the two is bisected. */
static int find_rate(struct sk_run *r, struct sk_err *err)
{
    double pass = 0, fail = INFINITY, rate = r->n_rate ? r->rates[0] : 1;
    double least = rate / (1 << SK_RUN_MAX_HALVINGS);
    for (int i = 0; i < SK_RUN_MAX_SEARCH && rate >= least && !(fail / pass < search_step); i++) {
        r->drive.rate = rate;
        int rc = run_round(r, 0, i, err);
        if (rc || r->is_cut)
            return rc;
        if (sk_round_good_share(&r->rounds[r->n_round - 1]) >= r->conf->bench_slo_share)
            r->found_rate = pass = rate;
        else
            fail = rate;
        rate = isinf(fail) ? rate * 2 : pass == 0 ? rate / 2 : sqrt(pass * fail);
    }
    return 0;
}

int sk_run(struct sk_run *r, struct sk_err *err)
{
    int rc = warm_up(r, err);
    if (rc || r->is_cut)
        return rc;
    return r->conf->bench_find_rate ? find_rate(r, err) : run_rates(r, err);
}

struct sk_stat_ratio sk_run_ratio(const struct sk_run *r, sk_run_figure figure)
{
    double a[SK_RUN_MAX_ROUNDS / 2], b[SK_RUN_MAX_ROUNDS / 2];
    int n = 0;
    for (int i = 0; i + 1 < r->n_round; i += 2, n++) {
        double first = figure(&r->rounds[i]), second = figure(&r->rounds[i + 1]);
        a[n] = r->rounds[i].server == 0 ? first : second;
        b[n] = r->rounds[i].server == 0 ? second : first;
    }
    return sk_stat_ratio(a, b, n);
}
