/* A daemon in miniature: hands frames to a batch manager and collects what comes back, per sequence. Asserts on
 * failure. */
#ifndef SK_FRONT_H
#define SK_FRONT_H
#include <stdbool.h>
#include <stdint.h>
#include "engine/batch/loop.h"

enum { FRONT_MAX_SEQS = 512, FRONT_MAX_ITEMS = 512 };

struct front_item {
    struct sk_wire_item it;
    struct sk_wire_top top[SK_MAX_TOP];
};
struct front_seq {
    uint64_t job;
    uint32_t choice, n_item;
    struct front_item *items; /* [FRONT_MAX_ITEMS], prompt log-probs and answer tokens as they came */
    uint32_t finish;          /* SK_FINISH_NONE until the last entry */
    int32_t reason;
    uint32_t n_cached, n_preempt;
    uint64_t cpu_us, blk_us;
};
/* One request: n choices of one prompt. */
struct front_req {
    const int32_t *prompt;
    uint32_t n_prompt, n_choice;
    struct sk_params params;
    const int32_t *list;
    const int32_t *done; /* given to every choice */
    uint32_t n_done;
    bool suspect, urgent;
};
struct front {
    struct sk_loop *loop;
    struct sk_buf in, out;
    struct front_seq *seqs;
    uint32_t n_seq, n_open;
    uint64_t n_frame;          /* TOKENS frames so far */
    uint32_t n_waiting;        /* as the last of them said */
    struct sk_wire_view *view; /* the last VIEW, whole; NULL = none came */
    uint64_t last_job, last_peek;
};

void front_init(struct front *f, struct sk_loop *loop); /* says HELLO */
void front_done(struct front *f);
/* Returns the index in seqs of choice 0; the others follow it. */
uint32_t front_submit(struct front *f, const struct front_req *r);
/* Asks for a VIEW: it is in f->view then. */
void front_peek(struct front *f, const int32_t *tok, uint32_t n_tok, uint64_t salt);
void front_cancel(struct front *f, uint32_t seq);
/* One step, or none if there is nothing to do (false). */
bool front_step(struct front *f);
void front_run(struct front *f); /* until every sequence has ended */
/* Takes what is in `out`. */
void front_drain(struct front *f);
/* Answer tokens of a sequence, without prompt items; returns their number. */
uint32_t front_answer(const struct front_seq *s, int32_t *ret_ids);

#endif
