#include "server/api/auth.h"

#include <ctype.h>
#include <errno.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include "comm/base/buf.h"
#include "comm/base/mem.h"

enum { MAX_FILE_BYTES = 4 << 20, MAX_USER_BYTES = 48, SECRET_BYTES = 32 };

struct known { /* a key; what is compared is its digest mixed with a secret of ours */
    uint8_t mixed[SHA256_DIGEST_SIZE];
    struct sk_key key;
    struct sk_tenant *tenant;
};

struct user {
    int64_t uid;
    char name[SK_TENANT_NAME_MAX]; /* of the tenant: "user:NAME" */
    struct sk_tenant *tenant;
};

struct sk_auth {
    uint8_t secret[SECRET_BYTES];
    struct known *keys; /* in the order of `mixed` */
    size_t n_key;       /* 0 = nobody needs one */
    struct user users[SK_AUTH_MAX_USERS];
    size_t n_user;
    struct sk_tenant *nobody;
};

/* --- digests --- */

static void digest_of(const void *a, size_t n_a, const void *b, size_t n_b, uint8_t ret[SHA256_DIGEST_SIZE])
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, n_a, a);
    sha256_update(&ctx, n_b, b);
    sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret);
}

uint64_t sk_auth_salt(uint64_t salt, const char *text)
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    uint64_t x;
    digest_of(&salt, sizeof salt, text, strlen(text), digest);
    memcpy(&x, digest, sizeof x);
    return x ? x : 1;
}

static uint64_t salt_of(const struct sk_key *k)
{
    char text[2 * SK_TENANT_NAME_MAX];
    if (!k->name[0])
        return 0;
    snprintf(text, sizeof text, "%s:%s", k->group[0] ? "group" : "key", k->group[0] ? k->group : k->name);
    return sk_auth_salt(0, text);
}

/* --- keys --- */

static int by_mixed(const void *a, const void *b)
{
    const struct known *x = a, *y = b;
    return memcmp(x->mixed, y->mixed, sizeof x->mixed);
}

static int take_keys(struct sk_auth *a, const struct sk_keyfile *f, const char *path, struct sk_err *err)
{
    if (getrandom(a->secret, sizeof a->secret, 0) != sizeof a->secret)
        return sk_err_errno(err, SK_EIO, NULL, "cannot get random bytes");
    a->keys = sk_calloc(f->n, sizeof *a->keys);
    if (!a->keys)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
    a->n_key = f->n;
    for (size_t i = 0; i < f->n; i++) {
        struct known *k = &a->keys[i];
        k->key = f->keys[i];
        digest_of(a->secret, sizeof a->secret, k->key.digest, sizeof k->key.digest, k->mixed);
    }
    qsort(a->keys, a->n_key, sizeof *a->keys, by_mixed);
    return 0;
}

int sk_auth_parse(const char *path, const char *text, size_t n, struct sk_auth **ret, struct sk_err *err)
{
    struct sk_keyfile f = {0};
    struct sk_auth *a = sk_calloc(1, sizeof *a);
    int rc = a ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
    if (rc == 0)
        rc = sk_keyfile_parse(path, text, n, &f, err);
    if (rc == 0)
        rc = take_keys(a, &f, path, err);
    sk_keyfile_done(&f);
    if (rc == 0)
        *ret = a;
    else
        sk_auth_free(a);
    return rc;
}

/* Nobody outside knows the secret, so the way that the search takes through `mixed` depends on nothing that a caller
 * could choose or would like to know. The last comparison is done whether there is a chance or not. */
static const struct known *find(const struct sk_auth *a, const char *s, size_t n)
{
    uint8_t digest[SHA256_DIGEST_SIZE], mixed[SHA256_DIGEST_SIZE];
    size_t from = 0;
    digest_of(s, n, NULL, 0, digest);
    digest_of(a->secret, sizeof a->secret, digest, sizeof digest, mixed);
    for (size_t left = a->n_key; left > 1;) {
        size_t half = left / 2;
        from += memcmp(a->keys[from + half].mixed, mixed, sizeof mixed) <= 0 ? half : 0;
        left -= half;
    }
    return memeql_sec(a->keys[from].mixed, mixed, sizeof mixed) ? &a->keys[from] : NULL;
}

/* --- users --- */

static int add_user(struct sk_auth *a, const char *s, size_t n, struct sk_err *err)
{
    char name[MAX_USER_BYTES + 1], *end;
    if (n == 0 || n > MAX_USER_BYTES)
        return sk_err_set(err, SK_EINVAL, "trust-users", "trust-users: a name of 1 to %d bytes is expected",
                          MAX_USER_BYTES);
    if (a->n_user == SK_AUTH_MAX_USERS)
        return sk_err_set(err, SK_ERANGE, "trust-users", "trust-users: more than %d users", SK_AUTH_MAX_USERS);
    snprintf(name, sizeof name, "%.*s", (int)n, s);
    errno = 0;
    unsigned long uid = strtoul(name, &end, 10);
    if (!isdigit((unsigned char)name[0]) || *end) {
        const struct passwd *pw = getpwnam(name);
        if (!pw)
            return sk_err_set(err, SK_EINVAL, "trust-users", "trust-users: there is no user `%s`", name);
        uid = pw->pw_uid;
    } else if (errno || uid > UINT32_MAX) {
        return sk_err_set(err, SK_ERANGE, "trust-users", "trust-users: %s is no user number", name);
    }
    struct user *u = &a->users[a->n_user++];
    u->uid = (int64_t)uid;
    snprintf(u->name, sizeof u->name, "user:%s", name);
    return 0;
}

static int take_users(struct sk_auth *a, const char *users, struct sk_err *err)
{
    int rc = 0;
    for (const char *s = users; rc == 0 && *s;) {
        size_t n = strcspn(s, ",");
        rc = add_user(a, s, n, err);
        s += n + (s[n] == ',');
    }
    return rc;
}

/* --- life --- */

int sk_auth_open(const char *path, const char *users, struct sk_auth **ret, struct sk_err *err)
{
    struct sk_auth *a = NULL;
    struct sk_buf b;
    int rc = 0;
    sk_buf_init(&b, MAX_FILE_BYTES);
    if (*path) {
        rc = sk_buf_file(&b, path, err);
        if (rc == 0)
            rc = sk_auth_parse(path, b.p ? b.p : "", b.n, &a, err);
    } else {
        a = sk_calloc(1, sizeof *a);
        rc = a ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    sk_buf_done(&b);
    if (rc == 0)
        rc = take_users(a, users, err);
    if (rc == 0)
        *ret = a;
    else
        sk_auth_free(a);
    return rc;
}

void sk_auth_free(struct sk_auth *a)
{
    if (!a)
        return;
    sk_free(a->keys);
    sk_free(a);
}

int sk_auth_bind(struct sk_auth *a, struct sk_tenants *t, struct sk_err *err)
{
    const struct sk_tenant_limits none = {.weight = 1};
    int rc = sk_tenants_get(t, "", &none, 0, &a->nobody);
    for (size_t i = 0; rc == 0 && i < a->n_key; i++) {
        struct known *k = &a->keys[i];
        rc = sk_tenants_get(t, k->key.name, &k->key.limits, salt_of(&k->key), &k->tenant);
    }
    for (size_t i = 0; rc == 0 && i < a->n_user; i++) {
        struct user *u = &a->users[i];
        rc = sk_tenants_get(t, u->name, &none, sk_auth_salt(0, u->name), &u->tenant);
    }
    if (rc == -SK_ERANGE)
        return sk_err_set(err, SK_ERANGE, "api-key-file",
                          "There were more than %d names of keys since the start; a restart forgets those of the past.",
                          SK_TENANT_MAX);
    return rc == 0 ? 0 : sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
}

/* --- the check --- */

static const struct user *find_user(const struct sk_auth *a, int64_t uid)
{
    for (size_t i = 0; i < a->n_user; i++) {
        if (a->users[i].uid == uid)
            return &a->users[i];
    }
    return NULL;
}

/* The key in the value of a header, blanks around it cut off. */
static int key_of(const struct sk_auth_asked *asked, const char **ret, size_t *ret_n, struct sk_err *err)
{
    static const char scheme[] = "bearer ";
    const char *s = asked->x_api_key;
    if (asked->authorization) {
        if (strncasecmp(asked->authorization, scheme, sizeof scheme - 1) != 0)
            return sk_err_set(err, SK_EAUTH, NULL, "The Authorization header must be `Bearer KEY`.");
        s = asked->authorization + sizeof scheme - 1;
    }
    if (!s)
        return sk_err_set(err, SK_EAUTH, NULL, "No API key: send one in the header `Authorization: Bearer KEY`.");
    s += strspn(s, " \t");
    size_t n = strlen(s);
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        n--;
    *ret = s;
    *ret_n = n;
    return 0;
}

int sk_auth_check(const struct sk_auth *a, const struct sk_auth_asked *asked, struct sk_auth_who *ret,
                  struct sk_err *err)
{
    const struct user *u = asked->uid >= 0 ? find_user(a, asked->uid) : NULL;
    const char *s = NULL;
    size_t n = 0;
    if (u || a->n_key == 0) {
        *ret = (struct sk_auth_who){.tenant = u ? u->tenant : a->nobody, .scopes = SK_SCOPE_ALL};
        return 0;
    }
    int rc = key_of(asked, &s, &n, err);
    if (rc != 0)
        return rc;
    const struct known *k = n > 0 ? find(a, s, n) : NULL; /* an empty key is a script's mistake, in a file too */
    if (!k)
        return sk_err_set(err, SK_EAUTH, NULL, "The API key is not known here.");
    *ret = (struct sk_auth_who){.tenant = k->tenant, .scopes = k->key.scopes};
    return 0;
}
