/* GET /admin/state: what the server holds at this moment. It asks one engine after the other, and writes down each
 * answer as it comes, side by side with what the daemon knows then. An engine that does not answer has the daemon's
 * part alone. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/conf_row.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/ask.h"

enum {
    MAX_STATE_BYTES = 32 << 20,
    MAX_JOBS = 10000, /* rows of an answer; how many there are is said */
    MAX_TENANTS = 1000
};

static void put_str(struct sk_buf *b, const char *s)
{
    sk_json_quote(b, s, strlen(s));
}

static const char *bool_of(bool x)
{
    return x ? "true" : "false";
}

/* --- the server, its models, its tenants --- */

static void put_options(struct sk_buf *b, const struct sk_conf *c)
{
    bool any = false;
    for (size_t i = 0; i < sk_conf_n_rows; i++) {
        const struct sk_conf_row *r = &sk_conf_rows[i];
        if (!(r->prog & SK_PROG_DAEMON) || !sk_conf_row_is_given(r, c))
            continue;
        sk_buf_fmt(b, "%s\"%s\"", any ? "," : "", r->name);
        any = true;
    }
}

static void put_server(struct sk_buf *b, const struct sk_server *s)
{
    sk_buf_fmt(b,
               "\"server\":{\"version\":\"" SK_VERSION "\",\"uptime_s\":%" PRId64
               ",\"draining\":%s,\"connections\":%u,\"active\":%zu,\"listeners\":[",
               sk_clock_unix() - s->started, bool_of(s->draining), sk_api_n_connection(s), sk_server_active(s));
    for (uint32_t i = 0; i < s->n_listener; i++) {
        sk_buf_str(b, i ? ",{\"address\":" : "{\"address\":");
        put_str(b, s->listeners[i].listen.name);
        sk_buf_fmt(b, ",\"admin\":%s}", bool_of(s->listeners[i].admin));
    }
    sk_buf_str(b, "],\"options_given\":[");
    put_options(b, s->conf);
    sk_buf_str(b, "]}");
}

static void put_models(struct sk_buf *b, const struct sk_server *s)
{
    sk_buf_str(b, ",\"models\":[");
    for (uint32_t i = 0; i < s->n_model; i++) {
        const struct sk_model *m = s->models[i];
        sk_buf_str(b, i ? ",{\"name\":" : "{\"name\":");
        put_str(b, m->name);
        sk_buf_fmt(b, ",\"loaded\":%s,\"max_model_len\":%u}", bool_of(m->loaded), m->max_len);
    }
    sk_buf_char(b, ']');
}

static void put_tenants(struct sk_buf *b, const struct sk_tenants *t)
{
    uint32_t n = sk_tenants_n(t);
    sk_buf_fmt(b, ",\"n_tenants\":%u,\"tenants\":[", n);
    for (uint32_t i = 0; i < n && i < MAX_TENANTS; i++) {
        const struct sk_tenant *k = sk_tenants_at(t, i);
        sk_buf_str(b, i ? ",{\"name\":" : "{\"name\":");
        put_str(b, k->name);
        sk_buf_str(b, ",\"weight\":");
        sk_json_put_num(b, k->limits.weight);
        sk_buf_fmt(b,
                   ",\"rpm\":%" PRId64 ",\"tpm\":%" PRId64 ",\"concurrent\":%" PRId64
                   ",\"open\":%u,\"waiting\":%u,\"sent\":%u,\"prompt_tokens\":%" PRIu64 ",\"answer_tokens\":%" PRIu64
                   "}",
                   k->limits.rpm, k->limits.tpm, k->limits.concurrent, k->n_open, k->n_waiting, k->n_sent,
                   k->n_prompt_tok, k->n_answer_tok);
    }
    sk_buf_char(b, ']');
}

/* --- an engine and its jobs --- */

/* `v`: the levels as they are now; NULL = as they were last said. */
static void put_engine(struct sk_buf *b, const struct sk_engine_status *st, const struct sk_wire_view *v)
{
    static const char *const states[] = {
        [SK_ENGINE_BUILDING] = "building", [SK_ENGINE_STARTING] = "starting", [SK_ENGINE_READY] = "ready",
        [SK_ENGINE_BACKOFF] = "backoff",   [SK_ENGINE_FAILED] = "failed",     [SK_ENGINE_STOPPING] = "stopping",
        [SK_ENGINE_STOPPED] = "stopped"};
    const struct sk_wire_stats *w = &st->stats, *level = v ? &v->stats : w;
    sk_buf_fmt(b, "{\"state\":\"%s\",\"text\":", states[st->state]);
    put_str(b, st->text);
    sk_buf_fmt(b, ",\"pid\":%d,\"isa\":", st->pid);
    put_str(b, st->hello.isa);
    sk_buf_fmt(b,
               ",\"restarts\":%u,\"making_progress\":%s,\"waiting\":%u,\"running\":%u,\"journal_tokens\":%" PRIu64
               ",\"blocks\":{\"total\":%u,\"held\":%u,\"cached\":%u,\"free\":%u}",
               st->restarts, bool_of(st->making_progress), st->n_waiting, st->n_running, st->journal_tok,
               level->blk_total, level->blk_total - level->blk_free - level->blk_cached, level->blk_cached,
               level->blk_free);
    sk_buf_fmt(b,
               ",\"steps\":%" PRIu64 ",\"prompt_tokens\":%" PRIu64 ",\"answer_tokens\":%" PRIu64
               ",\"preemptions\":%" PRIu64 ",\"prefix_cache\":{\"queries\":%" PRIu64 ",\"hits\":%" PRIu64
               "},\"drafts\":{\"drafted\":%" PRIu64 ",\"accepted\":%" PRIu64
               "},\"busy_s\":%.3f,\"tokens_per_busy_s\":%.1f",
               w->steps, w->prompt_tok, w->decode_tok, w->preemptions, w->cache_query_tok, w->cache_hit_tok,
               w->draft_tok, w->accept_tok, (double)w->busy_us * 1e-6,
               w->busy_us ? (double)(w->prompt_tok + w->decode_tok) / ((double)w->busy_us * 1e-6) : 0.0);
}

struct jobs { /* the rows of an answer */
    struct sk_buf *b;
    uint32_t n;
    const struct sk_wire_view_seq **seqs; /* what the engine says, in the order of (job, choice) */
    uint32_t n_seq;
};

static int by_job(const struct sk_wire_view_seq *x, uint64_t job, uint32_t choice)
{
    if (x->job != job)
        return x->job < job ? -1 : 1;
    return x->choice < choice ? -1 : x->choice > choice;
}

static int by_jobs(const void *a, const void *b)
{
    const struct sk_wire_view_seq *const *x = a, *const *y = b;
    return by_job(*x, (*y)->job, (*y)->choice);
}

static const struct sk_wire_view_seq *find_seq(const struct jobs *j, uint64_t job, uint32_t choice)
{
    uint32_t from = 0, to = j->n_seq;
    while (from < to) {
        uint32_t mid = from + (to - from) / 2;
        int order = by_job(j->seqs[mid], job, choice);
        if (order == 0)
            return j->seqs[mid];
        if (order < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return NULL;
}

static void put_job(void *arg, const struct sk_job_view *v)
{
    static const char *const states[] = {[SK_JOB_WAITING] = "waiting", [SK_JOB_SENT] = "sent", [SK_JOB_OVER] = "over"};
    struct jobs *j = arg;
    struct sk_buf *b = j->b;
    if (j->n++ >= MAX_JOBS)
        return;
    sk_buf_str(b, j->n > 1 ? ",{\"id\":" : "{\"id\":");
    put_str(b, v->id);
    sk_buf_str(b, ",\"key\":");
    put_str(b, v->tenant);
    sk_buf_fmt(b,
               ",\"choice\":%u,\"state\":\"%s\",\"prompt_tokens\":%u,\"answer_tokens\":%u,\"max_tokens\":%u,"
               "\"priority\":%d,\"suspect\":%s,\"age_s\":%.3f,\"engine\":",
               v->choice, states[v->state], v->n_prompt, v->n_done, v->max_tokens, v->priority, bool_of(v->suspect),
               (double)v->age_us * 1e-6);
    const struct sk_wire_view_seq *q = v->state == SK_JOB_SENT ? find_seq(j, v->wire, v->choice) : NULL;
    if (q)
        sk_buf_fmt(b,
                   "{\"state\":\"%s\",\"tokens\":%u,\"computed\":%u,\"cached\":%u,\"blocks\":%u,\"preemptions\":%u}}",
                   q->state == SK_VIEW_RUNNING ? "running" : "waiting", q->n_tok, q->n_computed, q->n_cached, q->n_blk,
                   q->n_preempt);
    else
        sk_buf_str(b, "null}");
}

/* `v`: what the engine says of itself; NULL = nothing. */
static void put_engine_and_jobs(struct sk_buf *b, const struct sk_engine *e, const struct sk_wire_view *v)
{
    struct jobs j = {.b = b, .n_seq = v ? v->n_seq : 0};
    struct sk_engine_status st;
    j.seqs = sk_malloc(j.n_seq * sizeof *j.seqs);
    if (!j.seqs)
        j.n_seq = 0;
    for (uint32_t i = 0; i < j.n_seq; i++)
        j.seqs[i] = sk_wire_view_seqs(v) + i;
    if (j.n_seq > 0)
        qsort(j.seqs, j.n_seq, sizeof *j.seqs, by_jobs);
    sk_engine_status(e, &st);
    put_engine(b, &st, v);
    sk_buf_fmt(b, ",\"answers\":%s,\"sequences\":%u,\"jobs\":[", bool_of(v), j.n_seq);
    sk_engine_each(e, put_job, &j);
    sk_buf_fmt(b, "],\"n_jobs\":%u}", j.n);
    sk_free(j.seqs);
}

void sk_api_admin_state(const struct sk_call *c)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_STATE_BYTES);
    sk_buf_char(&b, '{');
    put_server(&b, c->server);
    put_models(&b, c->server);
    put_tenants(&b, c->server->tenants);
    sk_buf_str(&b, ",\"engines\":[");
    sk_ask_engines(c, &b, put_engine_and_jobs);
}
