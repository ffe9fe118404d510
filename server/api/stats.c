/* GET /stats: what the engines work on, for a page that asks several times a second. Small, and without a request's id
 * or text, so that it belongs to the scope of the metrics: each engine's levels and counters, its sequences as it
 * answers with them between two steps, and whose they are. */
#include <inttypes.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/api/api.h"
#include "server/api/ask.h"

enum {
    MAX_STATS_BYTES = 4 << 20,
    MAX_ROWS = 1024 /* of sequences, and of jobs, of an answer; how many there are is said */
};

static void put_levels(struct sk_buf *b, const struct sk_engine_status *st, const struct sk_wire_stats *w)
{
    sk_buf_fmt(b, "{\"ready\":%s,\"text\":", st->state == SK_ENGINE_READY ? "true" : "false");
    sk_json_quote(b, st->text, strlen(st->text));
    sk_buf_str(b, ",\"isa\":");
    sk_json_quote(b, st->hello.isa, strlen(st->hello.isa));
    sk_buf_fmt(b,
               ",\"max_seqs\":%u,\"block_tokens\":%u,\"restarts\":%u,\"waiting\":%u,\"running\":%u,\"blocks\":{"
               "\"total\":%u,\"held\":%u,\"cached\":%u,\"free\":%u}",
               st->hello.max_seqs, st->hello.block_tok, st->restarts, st->n_waiting, st->n_running, w->blk_total,
               w->blk_total - w->blk_free - w->blk_cached, w->blk_cached, w->blk_free);
    sk_buf_fmt(b,
               ",\"steps\":%" PRIu64 ",\"busy_us\":%" PRIu64 ",\"prompt_tokens\":%" PRIu64 ",\"answer_tokens\":%" PRIu64
               ",\"preemptions\":%" PRIu64 ",\"prefix_cache\":{\"queries\":%" PRIu64 ",\"hits\":%" PRIu64
               "},\"drafts\":{\"drafted\":%" PRIu64 ",\"accepted\":%" PRIu64 "}",
               w->steps, w->busy_us, w->prompt_tok, w->decode_tok, w->preemptions, w->cache_query_tok, w->cache_hit_tok,
               w->draft_tok, w->accept_tok);
}

/* Numbers of jobs use all 64 bits, which JSON's readers may not have: they are text. */
static void put_sequences(struct sk_buf *b, const struct sk_wire_view *v)
{
    uint32_t n = v ? v->n_seq : 0;
    sk_buf_fmt(b, ",\"n_sequences\":%u,\"sequences\":[", n);
    for (uint32_t i = 0; i < n && i < MAX_ROWS; i++) {
        const struct sk_wire_view_seq *q = sk_wire_view_seqs(v) + i;
        sk_buf_fmt(b,
                   "%s{\"job\":\"%" PRIx64 "\",\"choice\":%u,\"running\":%s,\"prompt_tokens\":%u,\"tokens\":%u,"
                   "\"computed\":%u,\"cached\":%u,\"blocks\":%u,\"preemptions\":%u}",
                   i ? "," : "", q->job, q->choice, q->state == SK_VIEW_RUNNING ? "true" : "false", q->n_prompt,
                   q->n_tok, q->n_computed, q->n_cached, q->n_blk, q->n_preempt);
    }
    sk_buf_char(b, ']');
}

struct jobs {
    struct sk_buf *b;
    uint32_t n;
};

static void put_job(void *arg, const struct sk_job_view *v)
{
    struct jobs *j = arg;
    if (j->n++ >= MAX_ROWS)
        return;
    sk_buf_fmt(j->b,
               "%s{\"job\":\"%" PRIx64 "\",\"choice\":%u,\"prompt_tokens\":%u,\"answer_tokens\":%u,\"age_s\":%.3f",
               j->n > 1 ? "," : "", v->wire, v->choice, v->n_prompt, v->n_done, (double)v->age_us * 1e-6);
    sk_buf_str(j->b, ",\"key\":");
    sk_json_quote(j->b, v->tenant, strlen(v->tenant));
    sk_buf_char(j->b, '}');
}

/* `v`: what the engine says of itself; NULL = nothing. Counters are the daemon's, which go on over a restart. */
static void put_engine(struct sk_buf *b, const struct sk_engine *e, const struct sk_wire_view *v)
{
    struct jobs j = {.b = b};
    struct sk_engine_status st;
    sk_engine_status(e, &st);
    if (v) {
        st.stats.blk_total = v->stats.blk_total;
        st.stats.blk_free = v->stats.blk_free;
        st.stats.blk_cached = v->stats.blk_cached;
    }
    put_levels(b, &st, &st.stats);
    put_sequences(b, v);
    sk_buf_str(b, ",\"jobs\":[");
    sk_engine_each(e, put_job, &j);
    sk_buf_fmt(b, "],\"n_jobs\":%u}", j.n);
}

void sk_api_stats(const struct sk_call *c)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_STATS_BYTES);
    sk_buf_str(&b, "{\"version\":\"" SK_VERSION "\",\"engines\":[");
    sk_ask_engines(c, &b, put_engine);
}
