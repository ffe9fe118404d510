/* Plans by hand: a test's leader. It decides nothing: a slot owns a fixed range of block numbers, records go in as the
 * test says. Asserts on failure. */
#ifndef SK_DRIVER_H
#define SK_DRIVER_H
#include <stdint.h>
#include "comm/base/buf.h"
#include "engine/model/step.h"

enum { DRIVER_MAX_SLOTS = 64 };

struct driver {
    struct sk_rank *rank; /* borrowed */
    struct sk_plan_limits lim;
    struct sk_buf plan;
    uint64_t step;
    uint32_t n_row, n_result;
    uint32_t n_prompt[DRIVER_MAX_SLOTS];
};

void driver_init(struct driver *d, struct sk_rank *rank);
void driver_done(struct driver *d);

/* Between begin and go: records of one plan, in the order that comm/wire/plan.h asks for. */
void driver_begin(struct driver *d);
/* Opens `slot` with the prompt and blocks for n_tok tokens in every group: numbers slot * per, ... where per = blocks /
 * max_slot. NULL params = greedy. */
void driver_open(struct driver *d, uint32_t slot, const int32_t *prompt, uint32_t n_prompt, uint32_t n_tok,
                 const struct sk_params *params, const int32_t *list);
void driver_run(struct driver *d, uint32_t slot, uint32_t pos, uint32_t n, uint32_t want);
/* A run of the token at `pos` and of n_draft drafts, which a tok of the plan has put after it. */
void driver_draft(struct driver *d, uint32_t slot, uint32_t pos, uint32_t n_draft);
/* Ends the plan and runs it; rows are valid until the next go. */
const struct sk_result_row *driver_go(struct driver *d, uint32_t *ret_n);
/* The same, but gives sk_rank_step's answer where that is not 0. */
int driver_try(struct driver *d, struct sk_err *err);

/* One plan that closes `slot`. */
void driver_close(struct driver *d, uint32_t slot);
/* Opens slot 0, runs the prompt in chunks of `chunk`, draws n tokens one by one into ret, closes. prompt_rows (may be
 * NULL) gets the n_prompt - 1 rows of prompt log-probs, then rows (may be NULL) the n drawn ones. */
void driver_generate(struct driver *d, const int32_t *prompt, uint32_t n_prompt, const struct sk_params *params,
                     uint32_t chunk, uint32_t n, struct sk_result_row *prompt_rows, struct sk_result_row *rows);

#endif
