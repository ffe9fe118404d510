#include "server/job/prefix.h"

#include <string.h>
#include "comm/base/err.h"
#include "comm/base/mem.h"

struct entry {
    uint64_t hash; /* 0 = free */
    uint64_t used; /* clock of its last use */
};

struct sk_prefix {
    uint64_t clock;
    struct entry set[SK_PREFIX_SETS][SK_PREFIX_WAYS];
};

int sk_prefix_new(struct sk_prefix **ret)
{
    struct sk_prefix *p = sk_calloc(1, sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    *ret = p;
    return 0;
}

void sk_prefix_free(struct sk_prefix *p)
{
    sk_free(p);
}

void sk_prefix_clear(struct sk_prefix *p)
{
    if (p)
        memset(p, 0, sizeof *p);
}

/* The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) + 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9u;
    h = (h ^ h >> 27) * 0x94D049BB133111EBu;
    return h ^ h >> 31;
}

uint32_t sk_prefix_chain(uint64_t salt, const int32_t *tok, uint32_t n_tok, uint64_t *ret_chain)
{
    uint32_t n = n_tok / SK_PREFIX_BLOCK_TOK;
    uint64_t h = salt;
    for (uint32_t i = 0; i < n * SK_PREFIX_BLOCK_TOK; i++) {
        h = mix(h, (uint32_t)tok[i]);
        if (i % SK_PREFIX_BLOCK_TOK == SK_PREFIX_BLOCK_TOK - 1)
            ret_chain[i / SK_PREFIX_BLOCK_TOK] = h ? h : 1;
    }
    return n;
}

static const struct entry *find(const struct sk_prefix *p, uint64_t hash)
{
    const struct entry *set = p->set[hash % SK_PREFIX_SETS];
    for (uint32_t i = 0; i < SK_PREFIX_WAYS; i++) {
        if (set[i].hash == hash)
            return &set[i];
    }
    return NULL;
}

uint32_t sk_prefix_find(const struct sk_prefix *p, const uint64_t *chain, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && find(p, chain[i]))
        i++;
    return i;
}

/* Its own entry, or that which was not used for longest: a free one was never used. */
static struct entry *place_of(struct sk_prefix *p, uint64_t hash)
{
    struct entry *set = p->set[hash % SK_PREFIX_SETS], *oldest = set;
    for (uint32_t i = 0; i < SK_PREFIX_WAYS; i++) {
        if (set[i].hash == hash)
            return &set[i];
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    return oldest;
}

/* From the end, so that of a chain the beginning is the newest: what is lost first is what stands alone. */
void sk_prefix_note(struct sk_prefix *p, const uint64_t *chain, uint32_t n)
{
    while (n-- > 0)
        *place_of(p, chain[n]) = (struct entry){.hash = chain[n], .used = ++p->clock};
}
