/* What the service manager is told about the daemon: that it serves, how far a start is, that it lives. Says nothing,
 * and wakes nobody, where there is no manager; an idle daemon is woken by the watchdog's clock alone.
 *
 * The watchdog is fed while the engine makes progress or nothing is asked of it, and also while the supervisor builds,
 * loads or restarts: each of these has a time-out of its own there, and to end the daemon would only lose the requests
 * that wait for the engine. What is left is an engine that is up, has work and does none of it, which the supervisor
 * should have replaced long ago; and a daemon whose own loop hangs. Owner: loop thread. */
#ifndef SK_REPORT_H
#define SK_REPORT_H
#include <uv.h>
#include "server/notify.h"
#include "server/server.h"

struct sk_report {
    struct sk_server *server;
    const struct sk_notify *notify;
    uv_timer_t status, watchdog;
    char said[512];    /* the last STATUS= */
    uint64_t moved_ms; /* loop time when that changed */
    bool is_ready;     /* READY=1 was sent */
    bool is_quiet;     /* the watchdog was not fed last time */
};

/* Both are borrowed; the engine is open. */
void sk_report_open(struct sk_report *r, struct sk_server *s, const struct sk_notify *n);
void sk_report_close(struct sk_report *r); /* its handles close with the loop's next turns */
void sk_report_state(struct sk_report *r); /* an engine's state has changed */
void sk_report_step(struct sk_report *r);  /* it made a step: cheap */
void sk_report_reloading(struct sk_report *r);
void sk_report_reloaded(struct sk_report *r);
void sk_report_stopping(struct sk_report *r, uint64_t within_ms); /* the daemon will have ended by then */

#endif
