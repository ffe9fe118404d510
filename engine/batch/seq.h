/* Sequences and jobs of the leader: fixed pools, three ordered lists. Owner: leader control thread.
 *
 *     +----------- refused ------------+
 *     |                                v
 *   FREE --> WAIT <-----> RUN -----> ENDED --> FREE
 *              |  preempted            ^
 *              +------ cancelled ------+          ENDED: its last entry is still to be written */
#ifndef SK_SEQ_H
#define SK_SEQ_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/wire/params.h"
#include "comm/wire/wire.h"
#include "engine/batch/draft.h"
#include "engine/batch/kvpool.h"
#include "engine/batch/lookup.h"

enum sk_seq_state { SK_SEQ_FREE, SK_SEQ_WAIT, SK_SEQ_RUN, SK_SEQ_ENDED };
/* Each kind has steps of its own (sched.h). */
enum sk_seq_kind { SK_SEQ_KIND_URGENT, SK_SEQ_KIND_ORDINARY, SK_SEQ_KIND_SUSPECT, SK_SEQ_KIND_COUNT };

struct sk_seq_list {
    struct sk_seq *first, *last;
    uint32_t n;
};

struct sk_seq_job {
    uint64_t id;
    int32_t *prompt; /* owned, until all choices have arrived; NULL: too long, or no memory */
    uint32_t n_prompt, n_choice, n_arrived, n_live; /* choices: in all, arrived so far, not ended */
    struct sk_seq *seqs;                            /* the live ones, by job_next */
    struct sk_seq_job *next;                        /* in its bucket, or in the list of free ones */
};

struct sk_seq {
    struct sk_seq *prev, *next; /* in the list of its state */
    struct sk_seq *job_next;
    struct sk_seq_job *job;
    enum sk_seq_state state;
    uint32_t choice;
    uint64_t id; /* 1, 2, ... in order of arrival; also its age */

    struct sk_params params;
    int32_t *list; /* owned, sk_params_list_len words */
    int32_t *tok;  /* owned, [n_prompt + max_gen]: prompt, then what was generated */
    uint32_t n_list, n_prompt, n_tok;
    uint32_t max_gen;    /* of the answer: params.max_tokens, cut at max_len */
    uint32_t n_computed; /* positions whose keys and values are in the cache */
    uint32_t n_planned;  /* those, and what the plans under way compute, drafts too */
    uint32_t n_plan;     /* plans under way with rows of it: till they are back it keeps slot and blocks */
    uint32_t n_scored;   /* prompt log-probs delivered, always of the first positions */
    uint32_t n_cached, n_preempt;
    bool counted;            /* the prefix cache's statistics know it */
    bool urgent;             /* until it has drawn a token */
    bool cancelled;          /* ends when no plan is under way */
    uint32_t probation;      /* tokens that it must still draw alone: > 0 makes it a suspect */
    uint64_t cpu_us, blk_us; /* as in struct sk_wire_entry; blk_us up to held_us */
    struct sk_draft_pace draft_pace;

    /* RUN only */
    uint32_t slot;
    int32_t *blk[SK_MAX_GROUPS];   /* block numbers by position / block_tok: the slot's row of the table */
    uint32_t n_blk;                /* entries of each group */
    uint32_t first[SK_MAX_GROUPS]; /* entries before it are not held */
    int32_t node;                  /* its block n_entered - 1 in the tree, pinned */
    uint32_t n_entered;
    uint64_t held_us; /* blk_us counts up to here */
    struct sk_lookup lookup;
    int32_t draft[SK_DRAFT_MAX]; /* of this step: what may follow tok */
    uint32_t n_draft;
    double draft_p; /* that those which were taken so far are all right */
    bool rejected;  /* drafts that were wrong stand behind its text in the slot: the next plan trims them */
    bool opened;    /* what the ranks know of it */
    uint32_t n_tok_sent, n_blk_sent, drop_sent[SK_MAX_GROUPS];

    /* ENDED only */
    enum sk_finish finish;
    int32_t reason;
};

struct sk_seqs {
    struct sk_seq *seqs;
    struct sk_seq_job *jobs, *jobs_free;
    struct sk_seq_job **buckets;
    uint32_t max_seq, n_bucket;
    uint64_t last_id;
    uint32_t n_plan;                           /* plans under way */
    struct sk_seq_list free, wait, run, ended; /* wait and run in the order of sk_seq_before */
    uint64_t last_step[SK_SEQ_KIND_COUNT];     /* of each kind; 0 = none yet */
};

int sk_seqs_open(uint32_t max_seq, struct sk_seqs **ret); /* -SK_ENOMEM */
void sk_seqs_close(struct sk_seqs *s);

/* Is a served before b? Lower priority value first, then the older. */
bool sk_seq_before(const struct sk_seq *a, const struct sk_seq *b);

struct sk_seq_job *sk_seq_job_find(const struct sk_seqs *s, uint64_t id);
/* NULL: as many jobs as there may be sequences, or the id is in use. */
struct sk_seq_job *sk_seq_job_new(struct sk_seqs *s, uint64_t id);
/* Frees a job that has no live sequence and expects none; anything else stays. */
void sk_seq_job_settle(struct sk_seqs *s, struct sk_seq_job *j);

/* A free sequence of this job, still FREE and without tokens; NULL when there is none. Then sk_seq_to moves it on. */
struct sk_seq *sk_seq_new(struct sk_seqs *s, struct sk_seq_job *j, uint32_t choice);
/* The one place where a state changes; keeps the lists. To ENDED through sk_seq_end. */
void sk_seq_to(struct sk_seqs *s, struct sk_seq *q, enum sk_seq_state to);
void sk_seq_end(struct sk_seqs *s, struct sk_seq *q, enum sk_finish finish, int32_t reason);
void sk_seq_free(struct sk_seqs *s, struct sk_seq *q); /* ENDED -> FREE; settles its job */

static inline uint32_t sk_seq_n_gen(const struct sk_seq *q)
{
    return q->n_tok - q->n_prompt;
}
/* May it have rows in the next plan? Not before the tokens that it needs are back. */
static inline bool sk_seq_can_go(const struct sk_seq *q)
{
    return q->n_planned < q->n_tok && !q->cancelled;
}
/* Are prompt log-probs still to be made? Then nothing is read from the prefix cache. */
static inline bool sk_seq_scores(const struct sk_seq *q)
{
    return q->params.n_prompt_logprobs >= 0 && q->n_scored + 1 < q->n_prompt;
}
static inline bool sk_seq_reads_cache(const struct sk_seq *q)
{
    return !(q->params.flags & SK_PARAMS_NO_CACHE) && !sk_seq_scores(q);
}
static inline bool sk_seq_is_suspect(const struct sk_seq *q)
{
    return q->probation > 0;
}
static inline enum sk_seq_kind sk_seq_kind(const struct sk_seq *q)
{
    if (sk_seq_is_suspect(q))
        return SK_SEQ_KIND_SUSPECT;
    return q->urgent ? SK_SEQ_KIND_URGENT : SK_SEQ_KIND_ORDINARY;
}
static inline uint32_t sk_seq_n_held(const struct sk_seq *q) /* blocks, of all groups; 0 unless RUN */
{
    uint32_t n = 0;
    for (uint32_t g = 0; g < SK_MAX_GROUPS && q->blk[g]; g++)
        n += q->n_blk - q->first[g];
    return n;
}
/* Before the blocks that it holds change, and before blk_us is told. */
static inline void sk_seq_count_held(struct sk_seq *q, uint64_t now_us)
{
    q->blk_us += sk_seq_n_held(q) * (now_us - q->held_us);
    q->held_us = now_us;
}
static inline struct sk_kv_text sk_seq_text(const struct sk_seq *q)
{
    return (struct sk_kv_text){.salt = q->params.salt, .tok = q->tok, .n_prompt = q->n_prompt};
}

#endif
