/* Frames between the daemon and an engine's leader, over any stream socket: struct sk_frame, then the body.
 * Little-endian, fixed layouts, everything 8-byte aligned.
 *
 *   daemon to engine   HELLO, PROMPT, SEQ, CANCEL, BEAT, PEEK, QUIT
 *   engine to daemon   STATE while it starts, then HELLO, then TOKENS, STATS, RANKS, SEATS, BEAT, VIEW
 *
 * The daemon's first frame is HELLO. The engine grants `credit` sequences in its own: the daemon never has more
 * unfinished ones there; each finish gives one back. VECTOR and ADAPTER are reserved. A frame that does not check ends
 * the connection. */
#ifndef SK_WIRE_H
#define SK_WIRE_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/wire/params.h"

#define SK_WIRE_MAGIC   0x45524957u /* "WIRE" */
#define SK_WIRE_VERSION 4
enum { SK_FRAME_MAX = 64 << 20, SK_WIRE_MAX_GROUPS = 4, SK_WIRE_MAX_RANKS = 256 };

enum sk_frame_kind {
    SK_FRAME_HELLO = 1,
    SK_FRAME_STATE,
    SK_FRAME_PROMPT,
    SK_FRAME_SEQ,
    SK_FRAME_CANCEL,
    SK_FRAME_TOKENS,
    SK_FRAME_STATS,
    SK_FRAME_BEAT,
    SK_FRAME_QUIT,
    SK_FRAME_PEEK,
    SK_FRAME_VIEW,
    SK_FRAME_VECTOR,
    SK_FRAME_ADAPTER,
    SK_FRAME_RANKS,
    SK_FRAME_SEATS,
    SK_FRAME_KIND_COUNT
};
struct sk_frame {
    uint32_t bytes; /* of head and body, a multiple of 8, at most SK_FRAME_MAX */
    uint16_t kind, zero;
};

/* Both ways; the daemon fills magic, version, build and digest only. */
struct sk_wire_hello {
    struct sk_frame frame;
    uint32_t magic, version;
    char build[32];  /* SK_VERSION */
    char digest[40]; /* engine directory, hex */
    char isa[32];    /* backend/isa, for example "cpu/avx512-bf16" */
    uint32_t max_len, max_seqs, block_tok, n_group;
    uint32_t n_blk[SK_WIRE_MAX_GROUPS];
    uint32_t credit, pid;
    uint32_t n_tp, n_pp;                             /* ranks: n_tp * n_pp */
    uint64_t weights_bytes, kv_bytes, scratch_bytes; /* of rank 0 */
};
/* While an engine starts: how far it is. failed: it gives up, text says why; LOST: because of what a rank, a host or a
 * link did, for which no request is to blame and after which another start may go well. */
enum { SK_STATE_OK, SK_STATE_FAILED, SK_STATE_LOST };
struct sk_wire_state {
    struct sk_frame frame;
    uint32_t permille, failed; /* SK_STATE_* */
    char text[448];
};
/* Then n_tok int32, padded to 8 bytes: the prompt of a job, which n_choice SEQ frames refer to. */
struct sk_wire_prompt {
    struct sk_frame frame;
    uint64_t job; /* an id that no unfinished job has */
    uint32_t n_tok, n_choice;
};
/* A suspect: its rows run in steps of their own until it has drawn SK_SEQ_PROBATION tokens here (or ended), so that a
 * crash is surely its own. Of several, one at a time. An urgent one: until its first token here, its rows do not share
 * their steps with those that are not urgent. */
enum { SK_SEQ_SUSPECT = 1, SK_SEQ_URGENT = 2, SK_SEQ_PROBATION = 4 };
/* Then the list, int32 [n_list], then n_done int32 tokens generated already; each padded to 8 bytes. */
struct sk_wire_seq {
    struct sk_frame frame;
    uint64_t job;
    uint32_t choice, n_list, n_done, flags; /* SK_SEQ_SUSPECT, SK_SEQ_URGENT */
    struct sk_params params;
};
struct sk_wire_cancel {
    struct sk_frame frame;
    uint64_t job;
    uint32_t choice, zero; /* SK_WIRE_ALL = every choice, those that have not come too */
};
#define SK_WIRE_ALL 0xffffffffu

enum sk_finish {
    SK_FINISH_NONE,
    SK_FINISH_EOS,
    SK_FINISH_STOP_ID,
    SK_FINISH_LENGTH,
    SK_FINISH_CANCEL,
    SK_FINISH_ERROR
};
enum { SK_ITEM_PROMPT = 1 /* a prompt log-prob, not an answer token */ };
/* Then n_top struct sk_wire_top. Numbers as in struct sk_result_row. */
struct sk_wire_item {
    int32_t id;
    float logprob;
    int32_t rank;
    uint16_t n_top, flags;
};
struct sk_wire_top {
    int32_t id;
    float logprob;
};
/* Then n_item items: prompt log-probs in the order of positions, then the answer's tokens, several where
 * drafts were right. */
struct sk_wire_entry {
    uint64_t job;
    uint32_t choice, n_item;
    uint32_t finish;    /* enum sk_finish; anything but NONE is the sequence's last entry */
    int32_t reason;     /* STOP_ID / EOS: the token id (which is not among the items); ERROR: SK_Exxx */
    uint32_t n_cached;  /* prompt tokens that came from the prefix cache */
    uint32_t n_preempt; /* times preempted so far */
    /* What it has cost in this engine so far: its rows' share of each step's time, times the compute threads; blocks
     * held (of all groups) times the wall time they were held. */
    uint64_t cpu_us, blk_us;
};
/* Then n_entry entries: one frame a step, with what has ended otherwise since; a sequence without credit has its own.
 */
struct sk_wire_tokens {
    struct sk_frame frame;
    uint64_t step;
    uint32_t n_entry;
    uint32_t n_waiting; /* sequences that wait in the engine after this step: preempted, or not admitted yet */
};
/* After steps, at most each 100 ms while busy, and with each BEAT. */
struct sk_wire_stats {
    struct sk_frame frame;
    /* counters since the start */
    uint64_t steps, prompt_tok, decode_tok, preemptions, cache_query_tok, cache_hit_tok, busy_us;
    uint64_t draft_tok, accept_tok; /* tokens drafted, and of these those that were drawn */
    /* levels; blocks of all groups, cached ones are held by nobody and can be evicted */
    uint32_t running, waiting, blk_total, blk_free, blk_cached, zero;
};
/* Asks what the engine holds. Then n_tok int32, padded: how many of these tokens' positions would come from the prefix
 * cache? Answered between steps by a VIEW with the same number. */
struct sk_wire_peek {
    struct sk_frame frame;
    uint64_t number, salt;
    uint32_t n_tok, zero;
};
enum sk_view_state { SK_VIEW_WAITING, SK_VIEW_RUNNING };
struct sk_wire_view_seq {
    uint64_t job; /* as in PROMPT */
    uint32_t choice, state;
    uint32_t n_prompt, n_tok, n_computed, n_cached, n_blk, n_preempt; /* n_blk: held, of all groups */
};
/* Then n_seq struct sk_wire_view_seq: every sequence that has not ended, running ones first. */
struct sk_wire_view {
    struct sk_frame frame;
    uint64_t number;
    uint32_t n_seq, n_cached; /* n_cached: of the tokens asked for */
    struct sk_wire_stats stats;
};
/* Who computes: after HELLO, and then at most once a second while steps go on. Then n_rank struct sk_wire_rank. */
struct sk_wire_rank {
    uint32_t rank, stage, tp_rank;
    int32_t pid; /* on its host */
    char host[64];
    uint32_t first_layer, n_layer, first_head, n_head, first_vocab, n_vocab; /* its part of the model */
    uint64_t rss_bytes, step, busy_us, collective_us,
        wait_us; /* counters since the start, as in struct sk_ctl_report */
};
struct sk_wire_ranks {
    struct sk_frame frame;
    uint32_t n_rank, zero;
};
/* Who is on board (comm/wire/board.h), where daemon and leader share no memory: before each step and, with nobody, when
 * nothing is under way any more; what happens between steps is not covered. Then n_seat struct sk_wire_seat. */
struct sk_wire_seat {
    uint64_t job;
    uint32_t choice, zero;
};
struct sk_wire_seats {
    struct sk_frame frame;
    uint64_t step, progress;
    uint32_t n_seat, zero;
};
/* The engine answers with the same number; `step` lets the daemon see progress. */
struct sk_wire_beat {
    struct sk_frame frame;
    uint64_t number, step;
};

/* Writing: append one frame to b. 0, -SK_ETOOBIG, -SK_ENOMEM. */
int sk_wire_put_hello(struct sk_buf *b, const struct sk_wire_hello *h);
int sk_wire_put_state(struct sk_buf *b, uint32_t permille, int failed, const char *text);
int sk_wire_put_prompt(struct sk_buf *b, uint64_t job, uint32_t n_choice, const int32_t *tok, uint32_t n_tok);
int sk_wire_put_seq(struct sk_buf *b, const struct sk_wire_seq *s, const int32_t *list, const int32_t *done);
int sk_wire_put_cancel(struct sk_buf *b, uint64_t job, uint32_t choice);
int sk_wire_put_stats(struct sk_buf *b, const struct sk_wire_stats *s);
int sk_wire_put_beat(struct sk_buf *b, uint64_t number, uint64_t step);
int sk_wire_put_quit(struct sk_buf *b);
int sk_wire_put_peek(struct sk_buf *b, uint64_t number, uint64_t salt, const int32_t *tok, uint32_t n_tok);
int sk_wire_put_view(struct sk_buf *b, const struct sk_wire_view *v, const struct sk_wire_view_seq *seqs);
int sk_wire_put_ranks(struct sk_buf *b, const struct sk_wire_rank *ranks, uint32_t n);
int sk_wire_put_seats(struct sk_buf *b, const struct sk_wire_seats *s, const struct sk_wire_seat *seats);
/* TOKENS is written piece by piece: begin, then entries each followed by its items, then end; a frame of no
 * entries is taken out again. */
void sk_wire_tokens_begin(struct sk_buf *b, size_t *ret_at, uint64_t step);
void sk_wire_tokens_entry(struct sk_buf *b, const struct sk_wire_entry *e);
void sk_wire_tokens_item(struct sk_buf *b, const struct sk_wire_item *it, const struct sk_wire_top *top);
int sk_wire_tokens_end(struct sk_buf *b, size_t at, uint32_t n_entry, uint32_t n_waiting);

/* Reading. check: a whole frame as it came, every count against the bytes that are there. 0 or -SK_EPROTO. The views
 * below are for a checked frame. */
int sk_wire_check(const struct sk_frame *f);
const int32_t *sk_wire_prompt_tok(const struct sk_wire_prompt *p);
const int32_t *sk_wire_seq_list(const struct sk_wire_seq *s);
const int32_t *sk_wire_seq_done(const struct sk_wire_seq *s);
const int32_t *sk_wire_peek_tok(const struct sk_wire_peek *p);
const struct sk_wire_view_seq *sk_wire_view_seqs(const struct sk_wire_view *v);
const struct sk_wire_rank *sk_wire_ranks_list(const struct sk_wire_ranks *r);
const struct sk_wire_seat *sk_wire_seats_list(const struct sk_wire_seats *s);
/* NULL: no (more) entries. */
const struct sk_wire_entry *sk_wire_first(const struct sk_wire_tokens *t);
const struct sk_wire_entry *sk_wire_next(const struct sk_wire_tokens *t, const struct sk_wire_entry *e);
const struct sk_wire_item *sk_wire_item_first(const struct sk_wire_entry *e);
const struct sk_wire_item *sk_wire_item_next(const struct sk_wire_item *it); /* the caller counts n_item */
const struct sk_wire_top *sk_wire_item_top(const struct sk_wire_item *it);

#endif
