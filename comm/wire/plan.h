/* The plan of one iteration: what every rank does, as flat, pointer-free records. The leader writes it, ranks read it; the stream of plans is the
 * engine's whole history: it can be recorded, dumped and replayed. Layout, little-endian:
 *
 *   struct sk_plan_head, then records; each is struct sk_plan_rec { kind, bytes } followed by its body; bytes (head and body) is a multiple of 8.
 *
 * Order inside a plan: close, trim and drop before open; open before tok / append / run of that slot; runs last, prompt-class runs before
 * decode-class ones. Result rows of a step stand in the order of the runs that want them; a run with prompt log-probs gives one row for each of
 * its positions p with p + 1 < n_prompt (log-prob of token p + 1 given 0..p), then, if it also samples, the sampled row. */
#ifndef SK_PLAN_H
#define SK_PLAN_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/wire/params.h"

#define SK_PLAN_MAGIC   0x4e4c504bu /* "KPLN" */
#define SK_PLAN_VERSION 1

struct sk_plan_head {
    uint32_t magic, version;
    uint64_t step; /* number of this iteration, from 1 */
    uint32_t bytes, n_rec;
    uint32_t n_row, n_result; /* rows that run; result rows they give */
};

enum sk_plan_kind { SK_PLAN_OPEN = 1, SK_PLAN_APPEND, SK_PLAN_DROP, SK_PLAN_TOK, SK_PLAN_RUN, SK_PLAN_TRIM, SK_PLAN_CLOSE, SK_PLAN_KIND_COUNT };

struct sk_plan_rec {
    uint16_t kind, zero;
    uint32_t bytes;
};
struct sk_plan_open { /* then list: int32 [sk_params_list_len], padded to 8 bytes */
    struct sk_plan_rec rec;
    uint32_t slot, n_prompt;
    uint64_t seq; /* id of the sequence: for logs and suspects */
    uint32_t choice, n_list;
    struct sk_params params;
};
struct sk_plan_append { /* then n int32 block numbers, padded; they extend the slot's table of that group */
    struct sk_plan_rec rec;
    uint32_t slot, group, n, zero;
};
struct sk_plan_drop { /* the first n entries still held of that group's table are given up (behind a window); positions keep their index */
    struct sk_plan_rec rec;
    uint32_t slot, group, n, zero;
};
struct sk_plan_tok { /* then n int32 ids, padded: tokens at pos .. pos + n - 1 */
    struct sk_plan_rec rec;
    uint32_t slot, pos, n, zero;
};
enum { SK_RUN_SAMPLE = 1, SK_RUN_PROMPT_LOGPROBS = 2, SK_RUN_MIN_TOKENS = 4 /* still below min_tokens: stop ids and EOS are suppressed */ };
struct sk_plan_run { /* positions pos .. pos + n - 1; a token there is what tok wrote or an earlier run sampled */
    struct sk_plan_rec rec;
    uint32_t slot, pos, n, want; /* SAMPLE: draw the token at pos + n */
};
struct sk_plan_trim { /* the slot is again `pos` tokens long: block tables shrink to cover it */
    struct sk_plan_rec rec;
    uint32_t slot, pos;
};
struct sk_plan_close {
    struct sk_plan_rec rec;
    uint32_t slot, zero;
};

/* Bounds that a plan is checked against; the same on all ranks. */
struct sk_plan_limits {
    uint32_t max_slot, max_len, n_vocab, n_group;
    uint32_t n_blk[4]; /* blocks of each group */
    uint32_t max_row, max_result;
};

/* Writing. All go into `b` (fixed maximum; its failure is sticky). begin clears it, end fills in the head: 0, -SK_ETOOBIG, -SK_ENOMEM. */
void sk_plan_begin(struct sk_buf *b, uint64_t step);
void sk_plan_put_open(struct sk_buf *b, const struct sk_plan_open *o, const int32_t *list);
void sk_plan_put_append(struct sk_buf *b, uint32_t slot, uint32_t group, const int32_t *blk, uint32_t n);
void sk_plan_put_drop(struct sk_buf *b, uint32_t slot, uint32_t group, uint32_t n);
void sk_plan_put_tok(struct sk_buf *b, uint32_t slot, uint32_t pos, const int32_t *ids, uint32_t n);
void sk_plan_put_run(struct sk_buf *b, uint32_t slot, uint32_t pos, uint32_t n, uint32_t want);
void sk_plan_put_trim(struct sk_buf *b, uint32_t slot, uint32_t pos);
void sk_plan_put_close(struct sk_buf *b, uint32_t slot);
int sk_plan_end(struct sk_buf *b, uint32_t n_row, uint32_t n_result);

/* Reading. check: sizes, kinds, bounds of every number (what depends on slot state is the rank's check). -SK_EPROTO. */
int sk_plan_check(const void *p, size_t n, const struct sk_plan_limits *lim, struct sk_err *err);
const struct sk_plan_rec *sk_plan_first(const void *p);
const struct sk_plan_rec *sk_plan_next(const void *p, const struct sk_plan_rec *r); /* NULL after the last */
int sk_plan_dump(const void *p, struct sk_buf *b); /* one line a record; p is checked */

#endif
