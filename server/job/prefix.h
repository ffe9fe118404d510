/* What a replica's prefix cache has, as a guess: the chains of hashes of the prompts that were sent there, block by
 * block. A block's hash is of its tokens and of all before it, back to the salt, so one look-up says that everything up
 * to there was seen. The newest blocks are kept: a cache of SK_PREFIX_WAYS entries a set, of which the one that was not
 * used for longest makes room. Private to server/job. Owner: loop thread. */
#ifndef SK_PREFIX_H
#define SK_PREFIX_H
#include <stdint.h>

enum {
    SK_PREFIX_BLOCK_TOK = 32,
    SK_PREFIX_WAYS = 8,
    SK_PREFIX_SETS = 2048 /* 524,288 tokens, 256 KiB */
};

struct sk_prefix; /* of one replica */

int sk_prefix_new(struct sk_prefix **ret); /* -SK_ENOMEM */
void sk_prefix_free(struct sk_prefix *p);
void sk_prefix_clear(struct sk_prefix *p);
/* Hashes of the n_tok / SK_PREFIX_BLOCK_TOK full blocks into ret_chain. Returns how many. */
uint32_t sk_prefix_chain(uint64_t salt, const int32_t *tok, uint32_t n_tok, uint64_t *ret_chain);
/* Blocks of the chain that are there, from its beginning. */
uint32_t sk_prefix_find(const struct sk_prefix *p, const uint64_t *chain, uint32_t n);
/* The chain is there from now on. */
void sk_prefix_note(struct sk_prefix *p, const uint64_t *chain, uint32_t n);

#endif
