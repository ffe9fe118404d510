/* Which web pages may call us from a browser: the headers of cross-origin requests. Fetch standard, section 3.2. */
#ifndef SK_CORS_H
#define SK_CORS_H
#include <stdbool.h>
#include "comm/base/err.h"

struct sk_http_headers;
enum { SK_CORS_MAX_ORIGINS = 32 };
struct sk_cors {
    bool any; /* "*" */
    int n;
    char *origin[SK_CORS_MAX_ORIGINS];
};

/* "https://a.example,https://b.example:8443" or "*"; "" = none. Schemes and hosts are taken in lower case, as browsers
 * send them. -SK_EINVAL (not scheme://host[:port]), -SK_ERANGE (too many), -SK_ENOMEM; *ret is then empty. */
int sk_cors_parse(const char *list, struct sk_cors *ret, struct sk_err *err);
void sk_cors_done(struct sk_cors *c);
/* What Access-Control-Allow-Origin says to this Origin (NULL = the request has none); NULL = nothing. */
const char *sk_cors_allow(const struct sk_cors *c, const char *origin);
/* Adds to `h` what the answer to a preflight (OPTIONS with Access-Control-Request-Method) has besides the headers that
 * server/http gives to every answer; `methods` as in Allow, borrowed as `h` borrows. */
void sk_cors_preflight(struct sk_http_headers *h, const char *methods);

/* The headers of ours that scripts may read, for Access-Control-Expose-Headers. */
#define SK_CORS_EXPOSED "x-request-id, retry-after, retry-after-ms, x-should-retry, www-authenticate"

#endif
