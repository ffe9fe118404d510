/* The end of the daemon:
 *
 *   RUNNING --begin--> DRAINING --nothing runs any more, time is over, or begin again--> FLUSHING
 *   FLUSHING --the last words are sent, or nobody reads them--> CLOSING --all closed--> STOPPED
 *
 * DRAINING: no new connections, except on the admin listeners, where one can watch; new requests are refused (503),
 * running ones go on. FLUSHING: the API is closed, so requests that still ran have got an error. CLOSING: HTTP, engine,
 * model, in the order of who calls whom. Owner: loop thread. */
#ifndef SK_STOP_H
#define SK_STOP_H
#include <uv.h>
#include "server/replace.h"
#include "server/report.h"
#include "server/server.h"

enum sk_stop_state { SK_STOP_RUNNING, SK_STOP_DRAINING, SK_STOP_FLUSHING, SK_STOP_CLOSING, SK_STOP_STOPPED };

struct sk_stop {
    enum sk_stop_state state;
    struct sk_server *server;
    struct sk_report *report;
    struct sk_replace *replace;
    uint32_t n_engine;        /* that are not closed yet */
    void (*on_closing)(void); /* to close what is the owner's own; runs once; NULL = nothing is */
    uv_timer_t timer;
    uint64_t until_ms; /* loop time */
};

/* All are borrowed. */
void sk_stop_init(struct sk_stop *s, struct sk_server *server, struct sk_report *report, struct sk_replace *replace);
/* Gives running requests `drain_ms` to end; a second call gives them no more. What is then left takes a bounded time.
 * Nothing is closed before it returns. */
void sk_stop_begin(struct sk_stop *s, uint64_t drain_ms);

#endif
