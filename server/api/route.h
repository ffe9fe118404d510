/* The table of paths and the way into it. */
#ifndef SK_ROUTE_H
#define SK_ROUTE_H
#include "comm/base/err.h"
#include "server/http/http.h"

struct sk_server;

/* Reads the API keys and starts the API's timers; sets s->api. The message names the file and line. */
int sk_api_open(struct sk_server *s, struct sk_err *err);
/* Ends running requests (their clients get an error event) and frees s->api; call before sk_http_close. */
void sk_api_close(struct sk_server *s);
/* sk_http_conf.on_request with arg = struct sk_server *. */
void sk_api_request(void *arg, struct sk_http_req *r);

#endif
