/* The plan of one iteration: what every rank does, as flat, pointer-free records. The leader writes it, ranks read it;
 * the stream of plans is the engine's whole history: it can be recorded, dumped and replayed. Layout, little-endian:
 *
 *   struct sk_plan_head, then records: struct sk_plan_rec, which says kind and length, and its body
 *
 * Order inside a plan: close, trim and drop before open; open before append, tok and run of that slot; runs last,
 * prompt-class runs before decode-class ones. Result rows of a step stand in the order of the runs that want them; a
 * run with prompt log-probs gives one row for each of its positions p with p + 1 < n_prompt (log-prob of token p + 1
 * given 0..p), then, if it also samples, the sampled row.
 *
 * The last n_draft positions of a decode-class run hold drafts, which tok wrote: guesses at tokens that are not drawn
 * yet. Each gives a result row, and so does the position before them: row i draws the token after draft i. What follows
 * the first row whose token is not the next draft means nothing; a trim then says how long the slot really is. */
#ifndef SK_PLAN_H
#define SK_PLAN_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/wire/params.h"

#define SK_PLAN_MAGIC   0x4e4c504bu /* "KPLN" */
#define SK_PLAN_VERSION 2

struct sk_plan_head {
    uint32_t magic, version;
    uint64_t step;            /* number of this iteration, from 1; 0: of the self-test */
    uint32_t bytes, n_rec;    /* of the whole plan */
    uint32_t n_row, n_result; /* rows that run; result rows they give */
};

enum sk_plan_kind {
    SK_PLAN_OPEN = 1,
    SK_PLAN_APPEND,
    SK_PLAN_DROP,
    SK_PLAN_TOK,
    SK_PLAN_RUN,
    SK_PLAN_TRIM,
    SK_PLAN_CLOSE,
    SK_PLAN_KIND_COUNT
};

struct sk_plan_rec {
    uint16_t kind, zero;
    uint32_t bytes; /* of the whole record, a multiple of 8 */
};
/* Then the list: int32 [n_list], padded to 8 bytes. */
struct sk_plan_open {
    struct sk_plan_rec rec;
    uint32_t slot, n_prompt;
    uint64_t seq; /* id of the sequence: for people, ranks do not read it */
    uint32_t choice, n_list;
    struct sk_params params;
};
/* Then n int32 block numbers, padded: they extend the slot's table of that group. */
struct sk_plan_append {
    struct sk_plan_rec rec;
    uint32_t slot, group, n, zero;
};
/* The first n entries still held of that group's table are given up (behind a window); the others keep their index. */
struct sk_plan_drop {
    struct sk_plan_rec rec;
    uint32_t slot, group, n, zero;
};
/* Then n int32 ids, padded: tokens at pos .. pos + n - 1. */
struct sk_plan_tok {
    struct sk_plan_rec rec;
    uint32_t slot, pos, n, zero;
};
enum {
    SK_RUN_SAMPLE = 1, /* the token at pos + n is drawn; with drafts those at pos + n - n_draft .. pos + n */
    SK_RUN_PROMPT_LOGPROBS = 2,
    SK_RUN_MIN_TOKENS = 4 /* still below min_tokens: the EOS set and stop ids are not drawn */
};
/* Positions pos .. pos + n - 1, all of one class; a token there is what tok wrote or a run of an earlier plan drew. */
struct sk_plan_run {
    struct sk_plan_rec rec;
    uint32_t slot, pos, n, want; /* SK_RUN_* */
    uint32_t n_draft, zero;      /* n_draft < n; 0 without SK_RUN_SAMPLE and in prompt class */
};
/* The slot is again `pos` tokens long: block tables shrink to cover it. */
struct sk_plan_trim {
    struct sk_plan_rec rec;
    uint32_t slot, pos;
};
struct sk_plan_close {
    struct sk_plan_rec rec;
    uint32_t slot, zero;
};

enum { SK_PLAN_MAX_GROUPS = 4 };
/* Bounds that a plan is checked against; the same on all ranks. */
struct sk_plan_limits {
    uint32_t max_slot, max_len, n_vocab, n_group;
    uint32_t n_blk[SK_PLAN_MAX_GROUPS]; /* blocks of each group */
    uint32_t max_row, max_result;
};

/* Writing. All go into `b`, whose failure is sticky. begin clears it, end fills in the head: 0, -SK_ETOOBIG,
 * -SK_ENOMEM. */
void sk_plan_begin(struct sk_buf *b, uint64_t step);
void sk_plan_put_open(struct sk_buf *b, const struct sk_plan_open *o, const int32_t *list);
void sk_plan_put_append(struct sk_buf *b, uint32_t slot, uint32_t group, const int32_t *blk, uint32_t n);
void sk_plan_put_drop(struct sk_buf *b, uint32_t slot, uint32_t group, uint32_t n);
void sk_plan_put_tok(struct sk_buf *b, uint32_t slot, uint32_t pos, const int32_t *ids, uint32_t n);
void sk_plan_put_run(struct sk_buf *b, uint32_t slot, uint32_t pos, uint32_t n, uint32_t want, uint32_t n_draft);
void sk_plan_put_trim(struct sk_buf *b, uint32_t slot, uint32_t pos);
void sk_plan_put_close(struct sk_buf *b, uint32_t slot);
int sk_plan_end(struct sk_buf *b, uint32_t n_row, uint32_t n_result);

/* Reading. check: sizes, kinds, order and bounds of every number; what depends on the slots' state the rank checks.
 * p is aligned to 8. -SK_EPROTO. The others are for a checked plan. */
int sk_plan_check(const void *p, size_t n, const struct sk_plan_limits *lim, struct sk_err *err);
const struct sk_plan_rec *sk_plan_first(const void *p);
const struct sk_plan_rec *sk_plan_next(const void *p, const struct sk_plan_rec *r); /* NULL after the last */
int sk_plan_dump(const void *p, struct sk_buf *b); /* one line a record. -SK_ETOOBIG, -SK_ENOMEM */

#endif
