/* The leader's loop: frames in, one step of the model, frames out. All its state is in struct sk_loop. One iteration:
 *
 *   intake.c   frames -> jobs and sequences (wait, cancel, refuse)
 *   sched.c    sequences and blocks -> decisions
 *   apply.c    decisions -> blocks, slots and the plan's bytes
 *   draft.c    drafts for decode runs, where they pay (lookup.c finds them)
 *   model      plan -> result rows
 *   deliver.c  rows -> tokens, blocks into the prefix tree, the TOKENS frame
 *
 * Beside it: view.c tells the daemon what is there; record.c and flight.c keep the plans; who is on board stands on the
 * daemon's board while anything is done for them.
 *
 * Owner: leader control thread. All memory of a step is taken at open; a PROMPT or SEQ takes what it carries, and a
 * step takes nothing. */
#ifndef SK_LOOP_H
#define SK_LOOP_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/wire/board.h"
#include "comm/wire/chan.h"
#include "comm/wire/wire.h"
#include "engine/batch/kvpool.h"
#include "engine/batch/record.h"
#include "engine/batch/sched.h"
#include "engine/batch/seq.h"
#include "engine/model/step.h"

struct sk_flight;

enum { SK_LOOP_MAX_ENDED = 1024 }; /* entries of one frame for sequences that ended outside of a step */

struct sk_loop_conf {
    uint32_t max_seqs, max_row, max_len, max_queue; /* max_seqs <= max_row */
    bool no_evict;
    struct sk_draft_conf draft;
    bool times_chunks;    /* chunks are as large as the time between tokens allows: sched.h */
    double itl_target_us; /* with times_chunks; 0 = automatic */
    double prompt_row_us; /* what a prompt row takes, as far as known before the first step */
    struct sk_kvpool_conf kv;
    uint32_t n_vocab, n_eos;
    int32_t eos[SK_DIR_MAX_EOS];
    char digest[40];          /* a daemon that says another one is refused; "" = any */
    struct sk_rank *rank;     /* borrowed, with at least max_seqs slots and max_row rows and result rows */
    uint32_t n_thread;        /* that compute, for the bill */
    struct sk_record *record; /* borrowed; NULL = none */
    struct sk_board *board;   /* likewise */
    struct sk_flight *flight; /* likewise; its board is that board */
};

struct sk_loop {
    struct sk_loop_conf conf;
    struct sk_seqs *seqs;
    struct sk_kvpool *pool;
    struct sk_cost cost;
    struct sk_sched_conf sched;
    struct sk_sched_out todo;
    struct sk_buf plan;
    int32_t *table; /* [max_seqs][n_group][max_blk] */
    uint32_t max_blk;
    uint32_t *lookup;  /* [max_seqs] times the words of an index of n_lookup entries */
    uint32_t n_lookup; /* 0 = nothing is drafted */
    struct sk_draft_probe probe;
    uint32_t *slot_free, *slot_close; /* stacks; those to close are free once a plan says so */
    uint32_t n_slot_free, n_slot_close;
    uint64_t step; /* plans so far */
    bool greeted, quit;
    uint64_t now_us;               /* when the frame or step at hand began, and when its model was done */
    uint64_t step_cpu_us;          /* of the last step: its time, times the threads */
    struct sk_wire_view_seq *view; /* [sk_loop_credit] */
    struct sk_wire_stats stats;    /* counters; the levels are filled in when it is sent */
    uint64_t stats_us;             /* when it was sent last */
};

int sk_loop_open(const struct sk_loop_conf *conf, struct sk_loop **ret, struct sk_err *err);
void sk_loop_close(struct sk_loop *l);

/* Room that `out` must have before sk_loop_frame or sk_loop_step is called: the most that one call adds. */
size_t sk_loop_max_out(const struct sk_loop *l);
/* Sequences that may be unfinished here at once: what HELLO grants. */
uint32_t sk_loop_credit(const struct sk_loop *l);
/* Takes one checked frame of the daemon; answers go to `out`. -SK_EPROTO: the daemon broke the protocol. */
int sk_loop_frame(struct sk_loop *l, const struct sk_frame *f, struct sk_buf *out, struct sk_err *err);
/* Is there anything that a step would do? */
bool sk_loop_busy(const struct sk_loop *l);
/* One iteration; its TOKENS frame (if anything happened) goes to `out`. An error is final: what the ranks did is not
 * known. */
int sk_loop_step(struct sk_loop *l, struct sk_buf *out, struct sk_err *err);
void sk_loop_stats(const struct sk_loop *l, struct sk_wire_stats *ret);

/* Runs until the daemon says QUIT or goes away: 0. Sleeps in poll while there is nothing to do, and steps only while
 * the channel has room. */
int sk_loop_serve(struct sk_loop *l, struct sk_chan *c, struct sk_err *err);

/* ---- the parts of an iteration ---- */

/* Gives up slot and blocks of a running sequence: what it has computed stays in the prefix tree only. */
void sk_apply_leave(struct sk_loop *l, struct sk_seq *q);
/* Takes blocks until the sequence has them for n_pos positions: they are there. */
void sk_apply_grow(struct sk_loop *l, struct sk_seq *q, uint32_t n_pos);
/* Gives back the blocks past the sequence's text, after drafts of it were wrong. */
void sk_apply_trim(struct sk_loop *l, struct sk_seq *q);
/* The record that makes a slot the sequence's. */
void sk_apply_put_open(struct sk_buf *plan, const struct sk_seq *q);
/* Carries the decisions out and writes the plan of step l->step. */
int sk_apply_plan(struct sk_loop *l);
/* Takes the step's rows; adds to *n_entry the entries that it writes into the TOKENS frame. -SK_EINTERNAL: a row that
 * no backend may give. */
int sk_deliver_rows(struct sk_loop *l, const struct sk_result_row *rows, uint32_t n, struct sk_buf *out,
                    uint32_t *n_entry);
/* Last entries of sequences that ended outside of a step, up to SK_LOOP_MAX_ENDED; frees those. */
void sk_deliver_ended(struct sk_loop *l, struct sk_buf *out, uint32_t *n_entry);
/* The answer to a PEEK. */
void sk_view_put(struct sk_loop *l, const struct sk_wire_peek *p, struct sk_buf *out);

#endif
