/* What is asked: conversations and the requests of their turns, each a function of the seed and its number alone. */
#ifndef SK_LOAD_H
#define SK_LOAD_H
#include <stdbool.h>
#include <stdint.h>

#include "clients/bench/dist.h"
#include "clients/bench/trace.h"
#include "comm/base/buf.h"

enum { SK_LOAD_MAX_BODY = 64 << 20 };

struct sk_load { /* fixed for a run; pointers are borrowed */
    bool chat, stream, ignore_eos;
    const char *model;
    struct sk_dist input, output, turns, cancel_after, think_ms;
    int64_t prefixes, prefix_words;
    double cancel, deadlines; /* shares */
    int64_t deadline_ms;
    int64_t token_ids; /* > 0: prompts are arrays of token ids below it */
    const char *extra; /* "" or members of an object: "\"temperature\":0" */
    uint64_t seed;
    const struct sk_trace *trace; /* NULL: none */
};

struct sk_talk { /* a conversation */
    uint64_t index;
    int n_turn, turn; /* turns asked so far */
    const struct sk_trace_item *item;
    struct sk_draw draw;
    struct sk_buf past; /* turns so far, as they stand in a request; empty where there is one turn only */
};

struct sk_ask {
    int64_t n_out;
    int64_t cancel_after; /* leave after so many pieces; 0: stay */
    int64_t deadline_ms;  /* 0: none */
};

void sk_load_talk(const struct sk_load *l, uint64_t index, struct sk_talk *ret);
void sk_load_talk_done(struct sk_talk *t);
/* The body of the next turn's request, in place of what `body` holds. -SK_ETOOBIG, -SK_ENOMEM. */
int sk_load_ask(const struct sk_load *l, struct sk_talk *t, struct sk_buf *body, struct sk_ask *ret);
/* The answer, as the inside of a JSON string, where a further turn follows. */
int sk_load_answer(const struct sk_load *l, struct sk_talk *t, const char *s, size_t n);

#endif
