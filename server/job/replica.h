/* A replica: one whole engine of the several that serve one queue (engine.h). Private to server/job. Owner: loop
 * thread.
 *
 *   EMPTY --open--> OPEN --close--> CLOSING --its processes are gone--> EMPTY
 *
 * An OPEN one has a supervisor, whose state says how it is. It takes sequences while that is READY and nobody drains
 * it. What is on board of a replica that ends, or that is drained, waits again in the queue, and goes on elsewhere. */
#ifndef SK_REPLICA_H
#define SK_REPLICA_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/wire/wire.h"
#include "server/job/job.h"
#include "server/job/prefix.h"
#include "server/job/super.h"

struct choice;

enum replica_state { REPLICA_EMPTY, REPLICA_OPEN, REPLICA_CLOSING };

struct replica {
    struct sk_engine *engine;
    enum replica_state state;
    uint32_t index;
    char name[8];           /* the index, as a label */
    struct sk_super *super; /* NULL while EMPTY */
    bool is_drained;        /* takes nothing */
    bool was_up;            /* this supervisor's engine was READY */
    bool is_hopeless;       /* it cannot be started, since it was READY last */
    char why[512];          /* why it was closed for good; "" = it was not */
    struct sk_wire_hello hello;
    struct sk_wire_stats base, last; /* counters of engines before, and what this one said last */
    struct sk_prefix *prefix;        /* NULL where there is one replica */
    uint32_t n_sent;                 /* sequences that it has not finished, those cancelled too */
    uint32_t n_held;                 /* of these, how many it lets wait, as it said last */
    uint32_t n_board;                /* sequences on board: not cancelled */
    uint32_t n_end;                  /* sequences that ended on board since the last STATS */
    uint32_t n_restart, n_told;      /* by supervisors before; that the metrics have */
    uint64_t todo_tok;               /* outstanding tokens of those on board (route.c) */
    uint64_t n_routed;               /* prompts that came for their prefix */
    uint64_t taken;                  /* the engine's number of the last prompt that came */
};

void sk_replica_init(struct replica *r, struct sk_engine *e, uint32_t index);
void sk_replica_done(struct replica *r);
/* EMPTY -> OPEN, on the engine directory that is known, else --model. was_ready as in struct sk_super_conf. */
int sk_replica_open(struct replica *r, bool was_ready, struct sk_err *err);
/* OPEN -> CLOSING; sk_roll_closed follows. What it has on board waits again. */
void sk_replica_close(struct replica *r);
/* What it has on board waits again, in its turn, and it is told to forget it. */
void sk_replica_unload(struct replica *r);

bool sk_replica_is_ready(const struct replica *r);
bool sk_replica_serves(const struct replica *r);    /* READY, and not drained */
bool sk_replica_may_serve(const struct replica *r); /* it does, or may yet without anybody's doing */
/* NULL: frames cannot be sent. */
struct sk_link *sk_replica_link(const struct replica *r);
bool sk_replica_has_place(const struct replica *r);
void sk_replica_status(const struct replica *r, struct sk_engine_status *ret);
uint32_t sk_replica_n_held(const struct replica *r);

/* route.c: the replica that the sequence goes to, of those that have a place; NULL = none has. */
struct replica *sk_route_find(struct sk_engine *e, const struct choice *c);
/* The replica that a request with this prompt would go to, of those that are READY; NULL = none is, or memory is short.
 */
struct replica *sk_route_find_for(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt);
void sk_route_sent(struct replica *r, struct choice *c);   /* it goes there */
void sk_route_note(struct replica *r, struct sk_job *j);   /* so does its prompt */
void sk_route_tokens(struct replica *r, struct choice *c); /* it got tokens */
void sk_route_left(struct replica *r, struct choice *c);   /* it is on board no more */

#endif
