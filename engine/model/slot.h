/* A rank's mirror of the sequences: for each slot how many tokens are known, which table entries hold blocks, the
 * sampling parameters. Changed by plan records only. The tokens, lists and block tables themselves are in backend
 * memory, written when a plan is taken. */
#ifndef SK_SLOT_H
#define SK_SLOT_H
#include <stdbool.h>
#include "comm/dir/dir.h"
#include "comm/wire/plan.h"
#include "engine/model/kv.h"

enum { SK_SLOT_LIST = SK_MAX_LIST + SK_DIR_MAX_EOS }; /* words of a slot's list */

struct sk_slot {
    bool open;
    uint32_t n_prompt, choice;
    uint32_t n_known; /* tokens 0 .. n_known-1 are in the token array, or will be when the plan's draws are done */
    uint32_t first_blk[SK_MAX_GROUPS], n_blk[SK_MAX_GROUPS]; /* table entries first..n-1 hold blocks */
    uint32_t n_bad_word;                                     /* entries, where params count words of the list */
    struct sk_params params;
};

struct sk_slots {
    const struct sk_desc *desc;
    struct sk_backend *be;
    const struct sk_kv *kv; /* its block tables */
    uint32_t max_slot, max_len;
    struct sk_slot *slot, *next; /* [max_slot] each; next is where a plan is tried out */
    struct sk_dev mem;
    uint64_t bytes;
    struct sk_dev token; /* int32 [max_slot][max_len] */
    struct sk_dev list;  /* int32 [max_slot][SK_SLOT_LIST]: the EOS set, then the list of sk_params */
    uint32_t n_eos;
};

uint64_t sk_slots_bytes(uint32_t max_slot, uint32_t max_len);
/* -SK_ENOMEM; -SK_EFORMAT for an EOS id outside the vocabulary. kv and dir are borrowed. */
int sk_slots_open(struct sk_slots *s, const struct sk_dir *dir, const struct sk_kv *kv, uint32_t max_slot,
                  uint32_t max_len, struct sk_err *err);
void sk_slots_close(struct sk_slots *s); /* also after a failed open */

/* Replays a plan (checked by sk_plan_check) on a copy of the state. -SK_EPROTO: it does not follow from the state;
 * nothing changed. */
int sk_slots_check(struct sk_slots *s, const void *plan, struct sk_err *err);
/* Makes the last sk_slots_check of this plan the state, and writes tokens, lists and tables. */
void sk_slots_commit(struct sk_slots *s, const void *plan);

/* Result rows of prompt log-probs that a run gives. */
uint32_t sk_slot_prompt_results(const struct sk_slot *slot, const struct sk_plan_run *run);

#endif
