/* The table of paths and the way into it. */
#ifndef SK_ROUTE_H
#define SK_ROUTE_H
#include <stdbool.h>
#include "comm/base/err.h"
#include "server/http/http.h"

struct sk_conf;
struct sk_server;

/* Reads the API keys and gives them their tenants (s->tenants); sets s->api. The message names the file and line. */
int sk_api_open(struct sk_server *s, struct sk_err *err);
/* Reads them anew, for requests that come from now on; on an error the old ones stay. `conf`: the configuration that
 * will be in force. With `try_only` nothing changes. */
int sk_api_reload(struct sk_server *s, const struct sk_conf *conf, bool try_only, struct sk_err *err);
/* Ends running requests (their clients get an error event) and frees s->api; call before sk_http_close. */
void sk_api_close(struct sk_server *s);
/* sk_http_conf.on_request and .on_answer with arg = struct sk_listener *. */
void sk_api_request(void *arg, struct sk_http_req *r);
void sk_api_answered(void *arg, const struct sk_http_req *r, int status);

#endif
