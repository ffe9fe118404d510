/* The leader's loop: frames in, one step of the model, frames out. All its state is in struct sk_loop. One iteration:
 *
 *   intake.c   frames -> jobs and sequences (wait, cancel, refuse)
 *   sched.c    sequences and blocks -> decisions
 *   apply.c    decisions -> blocks, slots and the plan's bytes
 *   draft.c    drafts for decode runs, where they pay (lookup.c finds them)
 *   crew       plan -> result rows
 *   deliver.c  rows -> tokens, blocks into the prefix tree, the TOKENS frame
 *
 * With one pipeline stage a plan's rows are there before the next plan is decided. With several, up to sk_crew_depth
 * plans are under way: what a sequence has in them is counted in it (n_planned, n_plan), it keeps slot and blocks as
 * long, and rows are taken in the order of the plans. What is decided does not wait for rows, except for those of the
 * same sequence that it needs.
 *
 * Beside it: view.c tells the daemon what is there; record.c and flight.c keep the plans; seat.c says who is on board
 * while anything is done for them.
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
#include "engine/model/crew.h"
#include "engine/model/step.h"

struct sk_flight;
struct sk_timeline;

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
    struct sk_crew *crew;     /* borrowed, its ranks with at least max_seqs slots and max_row rows and result rows */
    uint32_t n_thread;        /* that compute in a stage, on all its ranks, for the bill */
    bool sends_seats;         /* the daemon shares no board: who is on it goes out as a frame before each step */
    struct sk_record *record; /* borrowed; NULL = none */
    struct sk_board *board;   /* likewise */
    struct sk_flight *flight; /* likewise; its board is that board */
    struct sk_timeline *timeline; /* likewise */
};

/* A plan under way. */
struct sk_loop_sent {
    uint64_t step;
    struct sk_sched_run *run; /* [max_seqs] */
    uint32_t n_run, n_row, n_result;
};

struct sk_loop {
    struct sk_loop_conf conf;
    struct sk_seqs *seqs;
    struct sk_kvpool *pool;
    struct sk_cost cost;
    struct sk_sched_conf sched;
    struct sk_sched_out todo;
    struct sk_loop_sent *sent; /* [depth], a ring: seqs->n_plan of them from first_sent on, the oldest first */
    uint32_t depth, first_sent;
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
    struct sk_wire_rank *rank;     /* [SK_WIRE_MAX_RANKS] */
    struct sk_wire_seat *seat;     /* [max_seqs] */
    struct sk_chan *chan;          /* while it serves; else NULL */
    struct sk_wire_stats stats;    /* counters; the levels are filled in when it is sent */
    uint64_t stats_us, ranks_us;   /* when they were sent last */
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
/* One iteration: takes rows that are there, plans, and where that cannot be waits for rows; TOKENS frames of what
 * happened go to `out`. At most one plan's rows are taken. An error is final: what the ranks did is not known. */
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
/* Are these rows of the oldest plan under way, and such as a backend may give? Nothing else may touch others. */
bool sk_deliver_may(const struct sk_loop *l, const struct sk_crew_result *res);
/* Takes them; adds to *n_entry the entries that it writes into the TOKENS frame. */
void sk_deliver_rows(struct sk_loop *l, const struct sk_crew_result *res, struct sk_buf *out, uint32_t *n_entry);
/* Last entries of sequences that ended outside of a step, up to SK_LOOP_MAX_ENDED; frees those. */
void sk_deliver_ended(struct sk_loop *l, struct sk_buf *out, uint32_t *n_entry);
/* While it is decided what runs: whom a crash would be of cannot be known, but that it is of one of these. */
void sk_seat_all(struct sk_loop *l);
/* Those with rows in plans under way; nobody where there is none. */
void sk_seat_under_way(struct sk_loop *l);
/* While a frame is taken in: its job, beside those. */
void sk_seat_frame(struct sk_loop *l, const struct sk_frame *f);
/* The SEATS frame of those with rows in plans under way. */
void sk_seat_put(struct sk_loop *l, struct sk_buf *out);
/* The answer to a PEEK. */
void sk_view_put(struct sk_loop *l, const struct sk_wire_peek *p, struct sk_buf *out);

#endif
