#include "server/http/cors.h"

#include <ctype.h>
#include <string.h>
#include "comm/base/mem.h"
#include "server/http/http.h"

/* scheme "://" host [":" port], and nothing behind it: an origin has no path. */
static bool is_origin(const char *s)
{
    static const char scheme[] = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
    static const char host[] = "abcdefghijklmnopqrstuvwxyz0123456789-._~%[]:";
    size_t n = strspn(s, scheme);
    if (n == 0 || strncmp(s + n, "://", 3) != 0)
        return false;
    s += n + 3;
    n = strspn(s, host);
    return n > 0 && s[n] == '\0' && s[0] != ':' && s[n - 1] != ':';
}

static int add(struct sk_cors *c, const char *s, size_t n, struct sk_err *err)
{
    if (n == 1 && *s == '*') {
        c->any = true;
        return 0;
    }
    if (c->n == SK_CORS_MAX_ORIGINS)
        return sk_err_set(err, SK_ERANGE, "cors-origins", "cors-origins: at most %d origins can be named",
                          SK_CORS_MAX_ORIGINS);
    char *origin = sk_strndup(s, n);
    if (!origin)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    for (char *p = origin; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    if (!is_origin(origin)) {
        sk_free(origin);
        return sk_err_set(err, SK_EINVAL, "cors-origins", "cors-origins: \"%.*s\" is not SCHEME://HOST[:PORT] or *",
                          (int)n, s);
    }
    c->origin[c->n++] = origin;
    return 0;
}

int sk_cors_parse(const char *list, struct sk_cors *ret, struct sk_err *err)
{
    int rc = 0;
    *ret = (struct sk_cors){0};
    while (*list && rc == 0) {
        size_t n = strcspn(list, ",");
        const char *s = list;
        list += n + (list[n] == ',');
        for (; n > 0 && *s == ' '; s++)
            n--;
        while (n > 0 && s[n - 1] == ' ')
            n--;
        if (n > 0)
            rc = add(ret, s, n, err);
    }
    if (rc != 0)
        sk_cors_done(ret);
    return rc;
}

void sk_cors_done(struct sk_cors *c)
{
    for (int i = 0; i < c->n; i++)
        sk_free(c->origin[i]);
    *c = (struct sk_cors){0};
}

const char *sk_cors_allow(const struct sk_cors *c, const char *origin)
{
    if (!origin)
        return NULL;
    for (int i = 0; i < c->n; i++) {
        if (strcmp(c->origin[i], origin) == 0)
            return c->origin[i];
    }
    return c->any ? "*" : NULL;
}

/* The wildcard stands for every header but Authorization, which must be named. The age is what Chromium caps it to. */
void sk_cors_preflight(struct sk_http_headers *h, const char *methods)
{
    const char *const more[][2] = {{"Access-Control-Allow-Methods", methods},
                                   {"Access-Control-Allow-Headers", "*, Authorization"},
                                   {"Access-Control-Max-Age", "7200"}};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        sk_assert(h->n < SK_HTTP_MAX_HEADERS);
        h->more[h->n].name = more[i][0];
        h->more[h->n++].value = more[i][1];
    }
}
