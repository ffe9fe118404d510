/* The queue of an engine: which waiting sequence goes on board next, and which one on board makes room for it.
 *
 * Between tenants: the one that was served least, by a virtual token counter (Sheng et al., "Fairness in Serving Large
 * Language Models", OSDI 2024): prompt tokens that were computed count 1, answer tokens SK_FAIR_ANSWER, over the
 * tenant's weight. A tenant that becomes busy is lifted to the least counter of the busy ones, so that nobody saves up.
 * A prompt is charged when it goes on board, and taken back if it leaves without a token to wait again. What decides
 * is the counter and the next SK_FAIR_AHEAD answer tokens of each sequence on board, the *level*: who has many places
 * will have got more soon.
 * Within a tenant: priority, then those that were on board before, nearest their end first, then age.
 * Suspects are in a line of their own: one at a time, behind those that an engine's end put out, before what is new.
 *
 * A tenant's fair share of the places on board is its weight's part among the busy ones. One that has less, and
 * nothing on board that waits for its first token, is *hungry*: for it alone others make room.
 *
 * Knows sequences and tenants, not jobs or frames. Private to server/job. Owner: loop thread. */
#ifndef SK_FAIR_H
#define SK_FAIR_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "server/job/tenant.h"

enum {
    SK_FAIR_ANSWER = 2,   /* an answer token is a step of the whole model, a prompt token a row of one */
    SK_FAIR_AHEAD = 64,   /* answer tokens of each sequence on board that count as had already */
    SK_FAIR_MAX_IDLE = 8, /* times that a sequence makes room without having got a token in between */
};

struct sk_fair_share { /* a tenant's part of one engine's queue, while it has jobs there */
    TAILQ_ENTRY(sk_fair_share) link;
    struct sk_tenant *tenant;
    struct sk_fair_seq *first; /* of its waiting ones; NULL = none */
    uint32_t n_user;           /* jobs */
    uint32_t n_fresh;          /* on board without a token yet */
    uint64_t unsettled_tok;    /* prompt tokens charged of these */
    uint64_t ahead_tok;        /* of those on board, charged in advance; not in virtual_tok */
};

struct sk_fair_seq { /* a sequence that waits or is on board */
    /* Set by its owner, and constant while it waits. */
    struct sk_fair_share *share;
    int32_t priority;          /* lower first */
    uint32_t n_prompt, n_left; /* tokens; n_left: of the answer, at most */
    uint64_t age;              /* lower = older */
    bool again, lost;          /* it was on board before, and is to go first; lost: until its engine ended */
    /* Kept here. */
    bool suspect, aboard, paid;
    uint32_t n_here; /* tokens since it came on board */
    uint32_t n_idle; /* times it made room since it got a token */
    uint32_t ahead_tok;
    uint32_t unsettled_tok;                  /* of the charge, what is taken back if it leaves without a token */
    struct sk_fair_seq *child, *next, *prev; /* in the heap of its line */
    TAILQ_ENTRY(sk_fair_seq) board;
};
TAILQ_HEAD(sk_fair_board, sk_fair_seq);
TAILQ_HEAD(sk_fair_shares, sk_fair_share);

struct sk_fair {
    struct sk_fair_shares shares;
    struct sk_fair_board board; /* in the order they came on board */
    struct sk_fair_seq *suspects;
    uint32_t n_waiting, n_board;
    uint32_t n_lost;      /* waiting, lost, not suspect */
    uint32_t n_probation; /* suspects on board */
    uint64_t waiting_tok; /* prompt tokens of those that wait */
    uint64_t fresh_tok;   /* prompt tokens of those on board without a token */
    double last_tok;      /* counter of the tenant that was busy last */
};

void sk_fair_init(struct sk_fair *f);
/* The tenant's share, for one more job. NULL = out of memory. */
struct sk_fair_share *sk_fair_join(struct sk_fair *f, struct sk_tenant *t);
void sk_fair_part(struct sk_fair *f, struct sk_fair_share *s);

void sk_fair_wait(struct sk_fair *f, struct sk_fair_seq *q);   /* comes: waits */
void sk_fair_board(struct sk_fair *f, struct sk_fair_seq *q);  /* waits -> on board */
void sk_fair_return(struct sk_fair *f, struct sk_fair_seq *q); /* on board -> waits */
void sk_fair_leave(struct sk_fair *f, struct sk_fair_seq *q);  /* either -> gone */
/* One on board got tokens; of its prompt n_cached came from the prefix cache. */
void sk_fair_spend(struct sk_fair *f, struct sk_fair_seq *q, uint32_t n_answer, uint32_t n_cached);
void sk_fair_suspect(struct sk_fair *f, struct sk_fair_seq *q); /* one that waits is a suspect from now on */
/* One on board is no suspect any more. */
void sk_fair_clear(struct sk_fair *f, struct sk_fair_seq *q);

/* NULL = nobody waits, or only suspects behind the one on board, or tenants that have their share of `places` while
 * another waits for its first token: its prompt then has the steps for itself. */
struct sk_fair_seq *sk_fair_next(const struct sk_fair *f, uint32_t places);
/* Of `places` places, how many are this tenant's; it counts as busy. */
double sk_fair_part_of(const struct sk_fair *f, const struct sk_tenant *t, uint32_t places);
bool sk_fair_is_hungry(const struct sk_fair *f, const struct sk_fair_share *s, uint32_t places);
/* Hungry, and its tenant asks for no more than its share, while another does: its prompt had better not share the steps
 * with what that one has on board. */
bool sk_fair_is_urgent(const struct sk_fair *f, const struct sk_fair_share *s, uint32_t places);
/* The sequence that gives its place to `next`: of the tenant that has most beyond its share, the least important and
 * youngest. Nobody falls below a share by it, nor below the other's level. NULL = none. */
struct sk_fair_seq *sk_fair_victim(const struct sk_fair *f, const struct sk_fair_seq *next, uint32_t places);
/* The youngest sequence on board without a token that had better come after `next`, as the levels say. The oldest of
 * these stay, prompts of keep_tok tokens together, unless n_held of all still wait in the engine. NULL = none. */
struct sk_fair_seq *sk_fair_early(const struct sk_fair *f, const struct sk_fair_seq *next, uint64_t keep_tok,
                                  uint32_t n_held);
/* Sequences that must end before a new one of this tenant gets one of `places` places. */
double sk_fair_ahead(const struct sk_fair *f, const struct sk_tenant *t, uint32_t places);

#endif
