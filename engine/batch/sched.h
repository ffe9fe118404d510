/* The scheduler: state -> what the next step does. A pure function: it reads sequences and blocks and changes neither;
 * the same state gives the same decisions.
 *
 * Decode rows first, then the rest of the row budget to chunks, oldest sequence first, then admission of waiting ones
 * in order; one whose prompt another is just computing (choices of a job, the same prompt sent twice) is passed over
 * until it can share those blocks. A sequence that lacks a block takes from the younger: the youngest running one is
 * preempted (its blocks are given up, it is computed again later). The oldest is never preempted and can always go on,
 * so everything ends.
 *
 * The rows of a step are of one kind. Those of urgent sequences (SK_SEQ_URGENT of comm/wire/wire.h) run together, up to
 * their first tokens; a suspect's (SK_SEQ_SUSPECT) alone, of several suspects' one at a time: the first one's, until it
 * has passed its probation; the others wait and are not admitted. The kinds take turns: whose last step is longest ago
 * comes first, a kind that can do nothing is passed over. So none starves another, and what is between two steps of one
 * is at most one of each other. Only the rows are apart: in blocks and in age all are alike, preempt and are preempted,
 * and are admitted in one order; but a suspect is admitted in its own step, and the others' admit none that would take
 * the room for which it waits. The oldest of all still goes on in one of any three steps.
 *
 * A stream waits for each step. So while any sequence generates, chunks are cut to what the cost model (cost.h) says
 * can be done within a target for the time between two tokens, beside the decode rows and the steps of the other kinds;
 * but SK_SCHED_LEAST_CHUNK rows are always done, so that prompts end too. Without a target of the user's it is twice
 * what the decode rows alone take: so prompts and answers have equal parts of the time, whatever the machine and the
 * model; a step of urgent ones, whose first token is waited for too, then has the whole of it to itself. While none
 * generates, only max_row bounds chunks.
 *
 * Pipeline stages (n_stage > 1) each have a plan to work on when several are under way. So the sequences that generate
 * are divided: a plan takes its share of them, 1 / n_stage, and so many plans are under way as there are stages; each
 * time one is back, those that it had go on. A prompt's chunks follow one another without waiting, and are divided too:
 * where nobody generates, into a few for each stage, but none so small that weights are read for little. What is under
 * way cannot be preempted: who lacks a block then waits until something is back. A suspect's plan is alone under way.
 *
 * Iteration-level scheduling: Orca (Yu et al., OSDI 2022); chunked prefill beside decode: Sarathi-Serve (Agrawal et
 * al., OSDI 2024); micro-batches that follow the load: FasterTransformer (NVIDIA, 2021). */
#ifndef SK_SCHED_H
#define SK_SCHED_H
#include <stdbool.h>
#include <stdint.h>
#include "engine/batch/cost.h"
#include "engine/batch/kvpool.h"
#include "engine/batch/seq.h"

enum {
    SK_SCHED_LEAST_CHUNK = 32,       /* rows: fewer would read the weights for little */
    SK_SCHED_LEAST_PART = 64,        /* the same, of a prompt that is divided over stages */
    SK_SCHED_STAGE_PARTS = 4,        /* for each stage: what the pipeline needs to fill and to drain is a part's time */
    SK_SCHED_LEAST_TARGET_US = 25000 /* where there is none of the user's: nobody reads faster */
};

struct sk_sched_conf {
    uint32_t max_seqs;      /* that run at once, <= max_row */
    uint32_t max_row;       /* of one step */
    uint32_t max_open_word; /* int32 words (tokens and lists) of what one step admits, unless one alone has more */
    uint32_t n_stage;       /* of the pipeline, >= 1 */
    bool no_evict;          /* admit only what surely fits to its end: nothing is preempted */
    const struct sk_cost_rate *rate; /* borrowed: what steps take; NULL = chunks are bounded by max_row only */
    double itl_target_us; /* with rate: no step should take longer while a sequence generates; 0 = see above */
};

/* One stretch of rows of a sequence: positions pos .. pos + n - 1, all of one class. */
struct sk_sched_run {
    struct sk_seq *seq;
    uint32_t pos, n, want; /* want: SK_RUN_* of comm/wire/plan.h */
    uint32_t n_result;     /* result rows */
    uint32_t n_draft;      /* of the rows, at their end: 0 here, see draft.h */
};
struct sk_sched_admit {
    struct sk_seq *seq;
    struct sk_kv_hit hit;
};

struct sk_sched_cand; /* scratch */
struct sk_sched_out {
    struct sk_seq **preempt;
    struct sk_sched_admit *admit;
    struct sk_sched_run *run; /* prompt class before decode class */
    uint32_t n_preempt, n_admit, n_run, n_row, n_result;
    enum sk_seq_kind kind; /* whose step it is */
    uint32_t cap;          /* entries of each array */
    struct sk_sched_cand *cand;
};
int sk_sched_open(const struct sk_sched_conf *conf, struct sk_sched_out *ret); /* -SK_ENOMEM */
void sk_sched_close(struct sk_sched_out *out);

void sk_sched_next(const struct sk_sched_conf *conf, const struct sk_seqs *seqs, const struct sk_kvpool *pool,
                   struct sk_sched_out *ret);

/* Blocks of group g that a sequence of n_pos computed positions holds at most, in chunks of up to `chunk` rows. */
uint32_t sk_sched_peak(const struct sk_kvpool_conf *c, uint32_t g, uint32_t n_pos, uint32_t chunk);
/* Could the sequence run to its end if it were alone? */
bool sk_sched_fits(const struct sk_kvpool_conf *c, uint32_t n_prompt, uint32_t max_gen);

#endif
