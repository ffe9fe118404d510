/* The file of API keys, one a line; empty lines and lines that begin with # are passed over:
 *
 *   NAME sha256:HEX [scope=inference,metrics,admin] [rpm=N] [tpm=N] [concurrent=N] [weight=X] [cache=GROUP]
 *   KEY
 *
 * HEX is the SHA-256 of the key, 64 digits. scope: what it may do (inference alone where it does not say). rpm, tpm,
 * concurrent: requests and tokens a minute, unfinished requests; without them there is no limit. weight: its share of
 * the engine, 1 where it does not say. cache: prompts of the keys of a GROUP may be answered from one another's cached
 * blocks; else a name's are its own. Keys of one name are one tenant, so all its lines must say the same of it; only
 * their scopes may differ. A line of one word is a key as it is, of the tenant without a name. */
#ifndef SK_KEYFILE_H
#define SK_KEYFILE_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "server/job/tenant.h"

enum { SK_KEYFILE_MAX_KEYS = 10000, SK_KEYFILE_DIGEST_BYTES = 32 };

enum { SK_SCOPE_INFERENCE = 1, SK_SCOPE_METRICS = 2, SK_SCOPE_ADMIN = 4, SK_SCOPE_ALL = 7 };

struct sk_key {
    uint8_t digest[SK_KEYFILE_DIGEST_BYTES];
    char name[SK_TENANT_NAME_MAX];  /* UTF-8 without blanks and control characters; "" = a bare key */
    char group[SK_TENANT_NAME_MAX]; /* likewise; "" = its cached blocks are its own */
    unsigned scopes;
    struct sk_tenant_limits limits;
    int line;
};

struct sk_keyfile {
    struct sk_key *keys; /* owned, in the order of their digests */
    size_t n, cap;
};

/* `path` is only for messages, which name file and line, and never a key. -SK_EINVAL: malformed, a key or a word twice,
 * lines of one name that differ, a name that begins with "user:" (those are users of the system), too many, or none at
 * all. -SK_ERANGE: a number beyond its limits. -SK_ENOMEM. */
int sk_keyfile_parse(const char *path, const char *text, size_t n, struct sk_keyfile *ret, struct sk_err *err);
void sk_keyfile_done(struct sk_keyfile *f);

#endif
