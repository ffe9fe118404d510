#include "server/web/web.h"

#include <stdbool.h>
#include <string.h>
#include "server/api/api.h"
#include "server/api/reply.h"

/* Nothing from elsewhere, nothing inline, in no other page's frame: even text of a model that became HTML by a mistake
 * could run nothing and send nothing. Content Security Policy Level 3. */
#define POLICY                                                                                                         \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "              \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const struct sk_web_file *sk_web_find(const char *path)
{
    for (size_t i = 0; i < sk_web_n_file; i++) {
        if (strcmp(sk_web_files[i].path, path) == 0)
            return &sk_web_files[i];
    }
    return NULL;
}

/* `asked`: If-None-Match, a list of tags. The quotes are part of a tag, so that none is found inside another. */
static bool has(const char *asked, const struct sk_web_file *f)
{
    return asked && (strcmp(asked, "*") == 0 || strstr(asked, f->etag));
}

void sk_web_page(const struct sk_call *c)
{
    const struct sk_web_file *f = sk_web_find(sk_http_path(c->req));
    struct sk_err err;
    if (!f) {
        sk_err_set(&err, SK_ENOROUTE, NULL, "There is nothing at %.200s.", sk_http_path(c->req));
        sk_reply_send_error(c->req, &err);
        return;
    }
    bool known = has(sk_http_header(c->req, "If-None-Match"), f);
    const struct sk_http_headers h = {.content_type = f->type,
                                      .n = 5,
                                      .more = {{"ETag", f->etag},
                                               {"Cache-Control", "no-cache"}, /* kept, but asked about each time */
                                               {"Content-Security-Policy", POLICY},
                                               {"X-Content-Type-Options", "nosniff"},
                                               {"Referrer-Policy", "no-referrer"}}};
    sk_http_reply(c->req, known ? 304 : 200, &h, known ? "" : f->text, known ? 0 : f->n);
}
