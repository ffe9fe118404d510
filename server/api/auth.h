/* Who may call: the keys of a file, of which only digests are kept, and the users of this system that need none over a
 * Unix socket. */
#ifndef SK_AUTH_H
#define SK_AUTH_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "server/api/keyfile.h"
#include "server/job/tenant.h"

enum { SK_AUTH_MAX_USERS = 64 };

struct sk_auth; /* immutable but for sk_auth_bind */

struct sk_auth_asked {         /* what a request shows; borrowed */
    const char *authorization; /* header; NULL = absent */
    const char *x_api_key;     /* header, that of Anthropic's clients; looked at where there is no Authorization */
    int64_t uid;               /* of the peer of a Unix socket; -1 = it is another one */
};
struct sk_auth_who {
    struct sk_tenant *tenant;
    unsigned scopes;
};

/* path: a key file (keyfile.h), "" = nobody needs a key. users: names or numbers with commas between them, "" = none;
 * each is looked up in the user database now. -SK_ENOENT, -SK_EIO, -SK_ETOOBIG, -SK_ENOMEM; -SK_EINVAL: a user that
 * does not exist, or what keyfile.h says. */
int sk_auth_open(const char *path, const char *users, struct sk_auth **ret, struct sk_err *err);
/* The same over the text of a key file; `path` is only for messages. */
int sk_auth_parse(const char *path, const char *text, size_t n, struct sk_auth **ret, struct sk_err *err);
void sk_auth_free(struct sk_auth *a); /* NULL is allowed */

/* Gives every key and user its tenant, and the tenants the limits of these; before the first check. On an error some
 * may have them already: binding what was in force before puts them back. -SK_ENOMEM, -SK_ERANGE. */
int sk_auth_bind(struct sk_auth *a, struct sk_tenants *t, struct sk_err *err);

/* A trusted user has all scopes, whatever else it shows; without a key file everybody has, as the tenant without a
 * name. -SK_EAUTH: no key, or none that is known. What the time of a check tells is nothing about the keys that are
 * known, nor how much of one matches. */
int sk_auth_check(const struct sk_auth *a, const struct sk_auth_asked *asked, struct sk_auth_who *ret,
                  struct sk_err *err);

/* A part of the prefix tree `salt` that is told apart by a text; never 0, and nobody can find two that are equal. */
uint64_t sk_auth_salt(uint64_t salt, const char *text);

#endif
