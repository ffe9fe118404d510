/* Which replica a sequence goes to: the one with the least work before it, which is what it has still to do less what
 * it need not do for this prompt, since it has it in its cache. So the longest cached prefix wins unless that replica
 * has more outstanding tokens than another by more than it saves. Of equals the one whose last prompt is longest ago,
 * so that different prefixes spread.
 *
 * Outstanding tokens are those of prompts that are not computed and those of answers still to make: of each answer at
 * most AHEAD_TOK, since most end before their limit. */
#include "comm/base/mem.h"
#include "server/job/engine.h"

enum { AHEAD_TOK = 256 };

struct chain {
    const uint64_t *hash;
    uint32_t n;
};

static uint32_t cached_tok(const struct replica *r, struct chain chain)
{
    return r->prefix && chain.n ? SK_PREFIX_BLOCK_TOK * sk_prefix_find(r->prefix, chain.hash, chain.n) : 0;
}

static struct replica *find(struct sk_engine *e, struct chain chain, bool (*may)(const struct replica *r))
{
    struct replica *best = NULL;
    int64_t best_tok = 0;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct replica *r = &e->replicas[i];
        if (!may(r))
            continue;
        int64_t tok = (int64_t)r->todo_tok - cached_tok(r, chain);
        if (!best || tok < best_tok || (tok == best_tok && r->taken < best->taken)) {
            best = r;
            best_tok = tok;
        }
    }
    return best;
}

static struct chain chain_of(const struct sk_job *j)
{
    return (struct chain){.hash = j->chain, .n = j->n_chain};
}

struct replica *sk_route_find(struct sk_engine *e, const struct choice *c)
{
    return find(e, chain_of(c->job), sk_replica_has_place);
}

struct replica *sk_route_find_for(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt)
{
    if (e->n_replica == 1)
        return sk_replica_serves(&e->replicas[0]) ? &e->replicas[0] : NULL;
    uint64_t *hash = sk_malloc((n_tok / SK_PREFIX_BLOCK_TOK + 1) * sizeof *hash);
    if (!hash)
        return NULL;
    struct chain chain = {.hash = hash, .n = sk_prefix_chain(salt, tok, n_tok, hash)};
    struct replica *r = find(e, chain, sk_replica_serves);
    sk_free(hash);
    return r;
}

static void set_todo(struct replica *r, struct choice *c, uint32_t tok)
{
    r->todo_tok += tok;
    r->todo_tok -= c->todo_tok;
    c->todo_tok = tok;
}

static uint32_t answer_todo(const struct choice *c)
{
    uint32_t max = c->job->params.max_tokens, left = max > c->n_tok ? max - c->n_tok : 0;
    return left < AHEAD_TOK ? left : AHEAD_TOK;
}

void sk_route_sent(struct replica *r, struct choice *c)
{
    const struct sk_job *j = c->job;
    r->n_board++;
    set_todo(r, c, j->n_prompt + c->n_tok - cached_tok(r, chain_of(j)) + answer_todo(c));
}

void sk_route_note(struct replica *r, struct sk_job *j)
{
    r->taken = ++r->engine->n_taken;
    if (!r->prefix || j->n_chain == 0)
        return;
    if (cached_tok(r, chain_of(j)) > 0) {
        r->n_routed++;
        sk_metric_add(r->engine->conf.metrics, SK_METRIC_REPLICA_ROUTED, 1, r->name, NULL);
    }
    sk_prefix_note(r->prefix, j->chain, j->n_chain);
}

void sk_route_tokens(struct replica *r, struct choice *c)
{
    set_todo(r, c, answer_todo(c));
}

void sk_route_left(struct replica *r, struct choice *c)
{
    r->n_board--;
    set_todo(r, c, 0);
}
