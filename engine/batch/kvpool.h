/* Who holds which KV block number, per group of layers, and the prefix tree over them. Numbers only: the memory belongs
 * to the ranks.
 *
 * A block is free, held (refs > 0) or idle: held by nobody but still in the tree, to be evicted in LRU order when
 * blocks run out. The tree's nodes are blocks of text: a node's key is (parent, salt, number of prompt-class tokens,
 * token ids), compared exactly; the hash only finds the bucket. A node names one block of each group, or none where
 * that group's block was dropped or evicted. Owner: leader control thread; all memory is taken at open.
 *
 * The idea of a prefix tree over paged blocks is SGLang's RadixAttention (Zheng et al., 2023); paging is vLLM's (Kwon
 * et al., SOSP 2023). */
#ifndef SK_KVPOOL_H
#define SK_KVPOOL_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/dir/desc.h"

#define SK_KV_NONE (-1)

struct sk_kvpool_conf {
    uint32_t n_group, block_tok;
    uint32_t window[SK_MAX_GROUPS]; /* 0 = attends to all positions */
    uint32_t n_blk[SK_MAX_GROUPS];
    bool keep;          /* false: a block leaves the tree with its last holder */
    bool classes_equal; /* prompt and decode class give the same bits: the class is not part of the key */
};

struct sk_kv_block {
    uint32_t refs;
    int32_t node;       /* SK_KV_NONE = not in the tree */
    int32_t prev, next; /* idle list */
};
struct sk_kv_node {
    int32_t parent; /* SK_KV_NONE = at a root */
    int32_t next;   /* in its bucket, or in the list of free nodes */
    uint32_t n_child, n_pin, class;
    uint64_t salt;
    int32_t blk[SK_MAX_GROUPS]; /* SK_KV_NONE = gone */
};
struct sk_kv_group {
    struct sk_kv_block *blocks;
    int32_t *free; /* a stack */
    uint32_t n_free, n_idle;
    int32_t idle_first, idle_last; /* least recently held first */
};
struct sk_kvpool {
    struct sk_kvpool_conf conf;
    struct sk_kv_group groups[SK_MAX_GROUPS];
    struct sk_kv_node *nodes;
    int32_t *node_tok; /* [max_node][block_tok] */
    uint32_t max_node, n_node;
    int32_t node_free;
    int32_t *buckets;
    uint32_t bucket_mask;
    uint64_t hash_seed; /* secret, so that nobody can aim at one bucket; decides nothing */
};

/* A sequence's text as the tree sees it. */
struct sk_kv_text {
    uint64_t salt;
    const int32_t *tok;
    uint32_t n_prompt; /* tokens before it are prompt class */
};
struct sk_kv_hit {
    uint32_t n_blk;                 /* blocks of text found */
    int32_t node;                   /* the last of them, SK_KV_NONE if n_blk is 0 */
    uint32_t first[SK_MAX_GROUPS];  /* blocks before it are behind that group's window */
    uint32_t n_idle[SK_MAX_GROUPS]; /* idle ones among them: sharing takes these out of avail */
};

int sk_kvpool_open(const struct sk_kvpool_conf *conf, struct sk_kvpool **ret); /* -SK_ENOMEM */
void sk_kvpool_close(struct sk_kvpool *p);

/* Blocks that take can give: free and idle ones. */
uint32_t sk_kvpool_avail(const struct sk_kvpool *p, uint32_t g);
uint32_t sk_kvpool_refs(const struct sk_kvpool *p, uint32_t g, int32_t blk);
/* n blocks with one reference each, evicting as needed. -SK_ENOBLK: too few, nothing changed. */
int sk_kvpool_take(struct sk_kvpool *p, uint32_t g, uint32_t n, int32_t *ret_blk);
/* Gives back one reference. A sequence gives its last block back first, so that leaves are evicted before their
 * parents. */
void sk_kvpool_put(struct sk_kvpool *p, uint32_t g, int32_t blk);

/* Blocks of text that hold n_tok tokens. */
static inline uint32_t sk_kvpool_blocks(const struct sk_kvpool_conf *c, uint32_t n_tok)
{
    return (n_tok + c->block_tok - 1) / c->block_tok;
}

/* First block that a row at `pos` of a group with this window can touch. */
uint32_t sk_kvpool_first(const struct sk_kvpool_conf *c, uint32_t g, uint32_t pos);

/* The longest prefix of at most max_blk whole blocks that every group can still serve. Changes nothing. */
struct sk_kv_hit sk_kvpool_find(const struct sk_kvpool *p, const struct sk_kv_text *t, uint32_t max_blk);
/* Takes a reference to each block of the hit (as found, nothing taken since) into table[g][0..n_blk), and pins its
 * node. Entries behind a window are 0 and not held. */
void sk_kvpool_share(struct sk_kvpool *p, const struct sk_kv_hit *hit, int32_t *const table[SK_MAX_GROUPS]);
/* Enters block number i of the text, full and final, under the pinned node of block i - 1 (SK_KV_NONE for i = 0), with
 * the caller's blk[g] (SK_KV_NONE: not held). Where the tree has that text already it keeps its own blocks. The pin
 * moves to *ret_node. -SK_ENOBLK: no node is free, the pin stays. */
int sk_kvpool_enter(struct sk_kvpool *p, int32_t node, const struct sk_kv_text *t, uint32_t i,
                    const int32_t blk[SK_MAX_GROUPS], int32_t *ret_node);
void sk_kvpool_unpin(struct sk_kvpool *p, int32_t node); /* SK_KV_NONE is allowed */

#endif
