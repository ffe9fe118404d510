#include "engine/batch/kvpool.h"

#include <string.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"

static int group_open(struct sk_kv_group *g, uint32_t n_blk)
{
    *g = (struct sk_kv_group){.n_free = n_blk, .idle_first = SK_KV_NONE, .idle_last = SK_KV_NONE};
    g->blocks = sk_calloc(n_blk, sizeof *g->blocks);
    g->free = sk_calloc(n_blk, sizeof *g->free);
    if (!g->blocks || !g->free)
        return -SK_ENOMEM;
    for (uint32_t i = 0; i < n_blk; i++) {
        g->blocks[i].node = SK_KV_NONE;
        g->free[i] = (int32_t)(n_blk - 1 - i); /* low numbers are given out first */
    }
    return 0;
}

int sk_kvpool_open(const struct sk_kvpool_conf *conf, struct sk_kvpool **ret)
{
    struct sk_kvpool *p = sk_calloc(1, sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    p->conf = *conf;
    p->hash_seed = sk_rng_seed();
    int rc = 0;
    for (uint32_t g = 0; g < conf->n_group && rc == 0; g++) {
        rc = group_open(&p->groups[g], conf->n_blk[g]);
        p->max_node += conf->n_blk[g];
    }
    if (rc)
        goto out;
    uint32_t n_bucket = 16;
    while (n_bucket < p->max_node)
        n_bucket *= 2;
    p->bucket_mask = n_bucket - 1;
    p->buckets = sk_malloc(n_bucket * sizeof *p->buckets);
    p->nodes = sk_calloc(p->max_node, sizeof *p->nodes);
    p->node_tok = sk_calloc(p->max_node, conf->block_tok * sizeof *p->node_tok);
    if (!p->buckets || !p->nodes || !p->node_tok) {
        rc = -SK_ENOMEM;
        goto out;
    }
    for (uint32_t i = 0; i < n_bucket; i++)
        p->buckets[i] = SK_KV_NONE;
    for (uint32_t i = 0; i < p->max_node; i++)
        p->nodes[i].next = i + 1 < p->max_node ? (int32_t)i + 1 : SK_KV_NONE;
    p->node_free = p->max_node ? 0 : SK_KV_NONE;
    *ret = p;
    p = NULL;
out:
    sk_kvpool_close(p);
    return rc;
}

void sk_kvpool_close(struct sk_kvpool *p)
{
    if (!p)
        return;
    for (uint32_t g = 0; g < p->conf.n_group; g++) {
        sk_free(p->groups[g].blocks);
        sk_free(p->groups[g].free);
    }
    sk_free(p->buckets);
    sk_free(p->nodes);
    sk_free(p->node_tok);
    sk_free(p);
}

/* ---- nodes ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint32_t bucket_of(const struct sk_kvpool *p, const struct sk_kv_node *key, const int32_t *tok)
{
    uint64_t h = mix(mix(mix(p->hash_seed, (uint64_t)(uint32_t)key->parent), key->salt), key->class);
    for (uint32_t i = 0; i < p->conf.block_tok; i++)
        h = mix(h, (uint64_t)(uint32_t)tok[i]);
    return (uint32_t)(h >> 32) & p->bucket_mask;
}

/* The key of block i of a text under `parent`; its tokens are returned apart. */
static const int32_t *key_of(const struct sk_kvpool *p, const struct sk_kv_text *t, uint32_t i, int32_t parent,
                             struct sk_kv_node *ret)
{
    uint32_t at = i * p->conf.block_tok, n = p->conf.block_tok;
    if (!p->conf.classes_equal)
        n = t->n_prompt <= at ? 0 : t->n_prompt - at < n ? t->n_prompt - at : n;
    *ret = (struct sk_kv_node){.parent = parent, .salt = t->salt, .class = n};
    return t->tok + at;
}

static int32_t node_find(const struct sk_kvpool *p, const struct sk_kv_node *key, const int32_t *tok)
{
    size_t bytes = p->conf.block_tok * sizeof *tok;
    int32_t i = p->buckets[bucket_of(p, key, tok)];
    for (; i != SK_KV_NONE; i = p->nodes[i].next) {
        const struct sk_kv_node *n = &p->nodes[i];
        if (n->parent == key->parent && n->salt == key->salt && n->class == key->class &&
            memcmp(p->node_tok + (size_t)i * p->conf.block_tok, tok, bytes) == 0)
            break;
    }
    return i;
}

static void node_unlink(struct sk_kvpool *p, int32_t node)
{
    int32_t *at = &p->buckets[bucket_of(p, &p->nodes[node], p->node_tok + (size_t)node * p->conf.block_tok)];
    while (*at != node)
        at = &p->nodes[*at].next;
    *at = p->nodes[node].next;
}

/* Frees the node if nothing needs it any more, and then its parents likewise. */
static void node_settle(struct sk_kvpool *p, int32_t node)
{
    while (node != SK_KV_NONE) {
        struct sk_kv_node *n = &p->nodes[node];
        if (n->n_child || n->n_pin)
            return;
        for (uint32_t g = 0; g < p->conf.n_group; g++)
            if (n->blk[g] != SK_KV_NONE)
                return;
        node_unlink(p, node);
        int32_t parent = n->parent;
        n->next = p->node_free;
        p->node_free = node;
        p->n_node--;
        if (parent != SK_KV_NONE)
            p->nodes[parent].n_child--;
        node = parent;
    }
}

/* ---- blocks ---- */

static void idle_remove(struct sk_kv_group *gr, int32_t b)
{
    struct sk_kv_block *x = &gr->blocks[b];
    *(x->prev == SK_KV_NONE ? &gr->idle_first : &gr->blocks[x->prev].next) = x->next;
    *(x->next == SK_KV_NONE ? &gr->idle_last : &gr->blocks[x->next].prev) = x->prev;
    gr->n_idle--;
}

static void idle_append(struct sk_kv_group *gr, int32_t b)
{
    struct sk_kv_block *x = &gr->blocks[b];
    x->prev = gr->idle_last;
    x->next = SK_KV_NONE;
    *(gr->idle_last == SK_KV_NONE ? &gr->idle_first : &gr->blocks[gr->idle_last].next) = b;
    gr->idle_last = b;
    gr->n_idle++;
}

/* A block that nobody holds leaves the tree and is free. */
static void forget(struct sk_kvpool *p, uint32_t g, int32_t b)
{
    struct sk_kv_group *gr = &p->groups[g];
    int32_t node = gr->blocks[b].node;
    gr->blocks[b].node = SK_KV_NONE;
    gr->free[gr->n_free++] = b;
    if (node != SK_KV_NONE) {
        p->nodes[node].blk[g] = SK_KV_NONE;
        node_settle(p, node);
    }
}

static void evict(struct sk_kvpool *p, uint32_t g)
{
    int32_t b = p->groups[g].idle_first;
    idle_remove(&p->groups[g], b);
    forget(p, g, b);
}

uint32_t sk_kvpool_avail(const struct sk_kvpool *p, uint32_t g)
{
    return p->groups[g].n_free + p->groups[g].n_idle;
}

uint32_t sk_kvpool_refs(const struct sk_kvpool *p, uint32_t g, int32_t blk)
{
    return p->groups[g].blocks[blk].refs;
}

int sk_kvpool_take(struct sk_kvpool *p, uint32_t g, uint32_t n, int32_t *ret_blk)
{
    struct sk_kv_group *gr = &p->groups[g];
    if (n > sk_kvpool_avail(p, g))
        return -SK_ENOBLK;
    for (uint32_t i = 0; i < n; i++) {
        if (gr->n_free == 0)
            evict(p, g);
        ret_blk[i] = gr->free[--gr->n_free];
        gr->blocks[ret_blk[i]].refs = 1;
    }
    return 0;
}

void sk_kvpool_put(struct sk_kvpool *p, uint32_t g, int32_t blk)
{
    struct sk_kv_block *b = &p->groups[g].blocks[blk];
    sk_assert(b->refs > 0);
    if (--b->refs > 0)
        return;
    if (b->node != SK_KV_NONE && p->conf.keep)
        idle_append(&p->groups[g], blk);
    else
        forget(p, g, blk);
}

/* ---- the tree ---- */

uint32_t sk_kvpool_first(const struct sk_kvpool_conf *c, uint32_t g, uint32_t pos)
{
    uint32_t w = c->window[g];
    return w == 0 || pos < w ? 0 : (pos - w + 1) / c->block_tok;
}

struct sk_kv_hit sk_kvpool_find(const struct sk_kvpool *p, const struct sk_kv_text *t, uint32_t max_blk)
{
    struct sk_kv_hit hit = {.node = SK_KV_NONE};
    uint32_t whole[SK_MAX_GROUPS] = {0}; /* from this block on, up to the one at hand, the group has every block */
    int32_t parent = SK_KV_NONE;
    for (uint32_t i = 0; i < max_blk; i++) {
        struct sk_kv_node key;
        const int32_t *tok = key_of(p, t, i, parent, &key);
        int32_t node = node_find(p, &key, tok);
        if (node == SK_KV_NONE)
            break;
        bool served = true;
        for (uint32_t g = 0; g < p->conf.n_group; g++) {
            if (p->nodes[node].blk[g] == SK_KV_NONE)
                whole[g] = i + 1;
            served = served && whole[g] <= sk_kvpool_first(&p->conf, g, (i + 1) * p->conf.block_tok);
        }
        if (served) {
            hit.n_blk = i + 1;
            hit.node = node;
        }
        parent = node;
    }
    for (uint32_t g = 0; g < p->conf.n_group; g++) {
        hit.first[g] = sk_kvpool_first(&p->conf, g, hit.n_blk * p->conf.block_tok);
        int32_t node = hit.node;
        for (uint32_t i = hit.n_blk; i-- > hit.first[g]; node = p->nodes[node].parent)
            hit.n_idle[g] += p->groups[g].blocks[p->nodes[node].blk[g]].refs == 0;
    }
    return hit;
}

void sk_kvpool_share(struct sk_kvpool *p, const struct sk_kv_hit *hit, int32_t *const table[SK_MAX_GROUPS])
{
    for (uint32_t g = 0; g < p->conf.n_group; g++) {
        int32_t node = hit->node;
        for (uint32_t i = hit->n_blk; i-- > 0; node = p->nodes[node].parent) {
            table[g][i] = 0;
            if (i < hit->first[g])
                continue;
            int32_t b = p->nodes[node].blk[g];
            sk_assert(b != SK_KV_NONE);
            table[g][i] = b;
            if (p->groups[g].blocks[b].refs++ == 0)
                idle_remove(&p->groups[g], b);
        }
    }
    if (hit->node != SK_KV_NONE)
        p->nodes[hit->node].n_pin++;
}

/* Every node may stand without blocks of its own (behind a window, or evicted under a pinned tail), so nodes can run
 * out before blocks do: then the longest idle blocks go until their nodes do. */
static int32_t node_take(struct sk_kvpool *p)
{
    for (uint32_t g = 0; g < p->conf.n_group; g++)
        while (p->node_free == SK_KV_NONE && p->groups[g].n_idle > 0)
            evict(p, g);
    int32_t node = p->node_free;
    if (node != SK_KV_NONE) {
        p->node_free = p->nodes[node].next;
        p->n_node++;
    }
    return node;
}

int sk_kvpool_enter(struct sk_kvpool *p, int32_t node, const struct sk_kv_text *t, uint32_t i,
                    const int32_t blk[SK_MAX_GROUPS], int32_t *ret_node)
{
    struct sk_kv_node key;
    const int32_t *tok = key_of(p, t, i, node, &key);
    int32_t at = node_find(p, &key, tok);
    if (at == SK_KV_NONE) {
        at = node_take(p);
        if (at == SK_KV_NONE)
            return -SK_ENOBLK;
        for (uint32_t g = 0; g < SK_MAX_GROUPS; g++)
            key.blk[g] = SK_KV_NONE;
        uint32_t bucket = bucket_of(p, &key, tok);
        key.next = p->buckets[bucket];
        p->buckets[bucket] = at;
        p->nodes[at] = key;
        memcpy(p->node_tok + (size_t)at * p->conf.block_tok, tok, p->conf.block_tok * sizeof *tok);
        if (node != SK_KV_NONE)
            p->nodes[node].n_child++;
    }
    struct sk_kv_node *n = &p->nodes[at];
    for (uint32_t g = 0; g < p->conf.n_group; g++) {
        if (n->blk[g] != SK_KV_NONE || blk[g] == SK_KV_NONE || p->groups[g].blocks[blk[g]].node != SK_KV_NONE)
            continue;
        n->blk[g] = blk[g];
        p->groups[g].blocks[blk[g]].node = at;
    }
    n->n_pin++;
    sk_kvpool_unpin(p, node);
    *ret_node = at;
    return 0;
}

void sk_kvpool_unpin(struct sk_kvpool *p, int32_t node)
{
    if (node == SK_KV_NONE)
        return;
    p->nodes[node].n_pin--;
    node_settle(p, node);
}
