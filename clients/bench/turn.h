/* One request and its answer, independent of what carries them: bytes of the reply -> pieces of text with their times,
 * usage, and how it ended. */
#ifndef SK_TURN_H
#define SK_TURN_H
#include <stdbool.h>

#include "clients/bench/load.h"
#include "clients/bench/round.h"
#include "clients/client/events.h"
#include "comm/base/buf.h"

enum {
    SK_TURN_MAX_EVENT = 1 << 20, /* bytes of an event or its line */
    SK_TURN_MAX_REPLY = 16 << 20 /* of a reply without a stream */
};

/*   WAITING -> HEAD -> (bytes) -> ENDED     ended: rec.end says how */
struct sk_turn {
    struct sk_buf body; /* the request's */
    struct sk_ask ask;
    struct sk_talk *talk;
    struct sk_round *round;
    struct sk_round_record rec;
    uint64_t start_ns; /* of the round */
    bool wants_stream, wants_text;
    bool is_event_stream, done_seen, finish_seen, ended;
    struct sk_events sse;
    struct sk_buf reply;             /* a reply that is no stream */
    struct sk_buf text;              /* the answer as the inside of a JSON string, where wants_text */
    void *carrier;                   /* its connection */
    struct sk_turn *next, *prev; /* in the driver's list */
};

void sk_turn_init(struct sk_turn *x); /* once; begin comes before each use */
void sk_turn_begin(struct sk_turn *x);
void sk_turn_done(struct sk_turn *x);

void sk_turn_head(struct sk_turn *x, int status, bool event_stream);
/* Bytes of the body, read from the socket at `at_ns`. False: enough, or broken; it has ended and the connection is to
 * be closed. */
bool sk_turn_bytes(struct sk_turn *x, const char *p, size_t n, uint64_t at_ns);
/* The reply is complete. */
void sk_turn_end(struct sk_turn *x, uint64_t at_ns);
/* It ended so; without effect on one that has ended. `why` may be "". */
void sk_turn_over(struct sk_turn *x, enum sk_round_end end, uint64_t at_ns, const char *why);

#endif
