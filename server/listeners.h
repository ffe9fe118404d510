/* The sockets that skeind serves: those that --listen and --admin-listen name, and those that a service manager passes.
 * Owner: loop thread.
 *
 * Passed by a socket unit: one whose FileDescriptorName= is "admin" serves the /admin routes too; of the others, each
 * stands in for the default of --listen.
 * Kept by the manager: every socket that we open ourselves is given to its store, so that the next skeind, after a
 * crash or a restart, finds it with the connections that came in between. It is used for the address that it was opened
 * for, and given back when the options no longer name that. */
#ifndef SK_LISTENERS_H
#define SK_LISTENERS_H
#include "server/notify.h"
#include "server/server.h"

/* Fills s->listeners and serves them: s->conf, limits, cors, tls are in force already. Errors are those of listen.h and
 * http.h, and -SK_ERANGE: more than SK_SERVER_MAX_LISTENERS. What was opened before an error is left to the end of the
 * process. */
int sk_listeners_open(struct sk_server *s, const struct sk_notify *n, struct sk_err *err);
/* "skeind: listening on http://127.0.0.1:8080", a line each, on stdout; then what an operator should be warned of. */
void sk_listeners_announce(const struct sk_server *s);
/* No new connections. Those of the admin listeners still come in unless `all`. */
void sk_listeners_quiesce(struct sk_server *s, bool all);
/* Ends them; `done` when the last handle is closed. Not from inside a request. */
void sk_listeners_close(struct sk_server *s, void (*done)(void *arg), void *arg);

#endif
