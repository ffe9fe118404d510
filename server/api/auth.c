#include "server/api/auth.h"

#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include "comm/base/buf.h"
#include "comm/base/mem.h"

enum { MAX_FILE_BYTES = 4 << 20, MAX_KEYS = 10000, MAX_NAME_BYTES = 63 };

struct key {
    uint8_t digest[SHA256_DIGEST_SIZE];
    char name[MAX_NAME_BYTES + 1];
};

struct sk_auth {
    size_t n_key, cap;
    struct key *keys;
};

static const char *const BLANKS = " \t\r";

static void digest_of(const char *s, size_t n, uint8_t ret_digest[SHA256_DIGEST_SIZE])
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, n, (const uint8_t *)s);
    sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret_digest);
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c | 0x20) : NULL;
    return at && (c >= '0') ? (int)(at - digits) : -1;
}

static bool unhex(const char *s, size_t n, uint8_t ret_digest[SHA256_DIGEST_SIZE])
{
    if (n != 2 * SHA256_DIGEST_SIZE)
        return false;
    for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++) {
        int high = hex_digit(s[2 * i]), low = hex_digit(s[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret_digest[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* One line without its end, blanks around it cut off. */
static bool parse_line(const char *s, size_t n, struct key *ret)
{
    static const char scheme[] = "sha256:";
    const size_t n_scheme = sizeof scheme - 1;
    size_t n_word = 0;
    while (n_word < n && !strchr(BLANKS, s[n_word]))
        n_word++;
    *ret = (struct key){0};
    if (n_word == n) { /* a digest alone would be a key that nobody has: a name was forgotten */
        if (n > n_scheme && strncmp(s, scheme, n_scheme) == 0)
            return false;
        digest_of(s, n, ret->digest);
        return true;
    }
    size_t at = n_word;
    while (strchr(BLANKS, s[at]))
        at++;
    if (n_word > MAX_NAME_BYTES || n - at < n_scheme || strncmp(s + at, scheme, n_scheme) != 0)
        return false;
    memcpy(ret->name, s, n_word);
    return unhex(s + at + n_scheme, n - at - n_scheme, ret->digest);
}

static int add_key(struct sk_auth *a, const struct key *k)
{
    if (a->n_key == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 8;
        struct key *keys = sk_realloc(a->keys, cap * sizeof *keys);
        if (!keys)
            return -SK_ENOMEM;
        a->keys = keys;
        a->cap = cap;
    }
    a->keys[a->n_key++] = *k;
    return 0;
}

int sk_auth_parse(const char *path, const char *text, size_t n, struct sk_auth **ret, struct sk_err *err)
{
    int rc = 0, line = 0;
    struct sk_auth *a = sk_calloc(1, sizeof *a);
    if (!a)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
    if (memchr(text, '\0', n))
        rc = sk_err_set(err, SK_EINVAL, "api-key-file", "%s: there is a NUL byte in it", path);
    for (const char *s = text, *end = text + n; rc == 0 && s < end;) {
        const char *next = memchr(s, '\n', (size_t)(end - s));
        const char *to = next ? next : end;
        struct key k;
        line++;
        while (s < to && strchr(BLANKS, *s))
            s++;
        while (to > s && strchr(BLANKS, to[-1]))
            to--;
        if (s < to && *s != '#') {
            if (a->n_key == MAX_KEYS)
                rc = sk_err_set(err, SK_EINVAL, "api-key-file", "%s:%d: more than %d keys", path, line, MAX_KEYS);
            else if (!parse_line(s, (size_t)(to - s), &k))
                rc = sk_err_set(
                    err, SK_EINVAL, "api-key-file",
                    "%s:%d: expected `NAME sha256:HEX` (a name of at most %d bytes, 64 hex digits) or a bare key", path,
                    line, MAX_NAME_BYTES);
            else if (add_key(a, &k) != 0)
                rc = sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
        }
        s = next ? next + 1 : end;
    }
    if (rc == 0 && a->n_key == 0)
        rc = sk_err_set(err, SK_EINVAL, "api-key-file", "%s: there is no key in it, so nobody could call", path);
    if (rc == 0)
        *ret = a;
    else
        sk_auth_free(a);
    return rc;
}

int sk_auth_open(const char *path, struct sk_auth **ret, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_FILE_BYTES);
    int rc = sk_buf_file(&b, path, err);
    if (rc == 0)
        rc = sk_auth_parse(path, b.p ? b.p : "", b.n, ret, err);
    sk_buf_done(&b);
    return rc;
}

void sk_auth_free(struct sk_auth *a)
{
    if (!a)
        return;
    sk_free(a->keys);
    sk_free(a);
}

int sk_auth_check(const struct sk_auth *a, const char *authorization, const char **ret_name, struct sk_err *err)
{
    static const char scheme[] = "bearer ";
    const size_t n_scheme = sizeof scheme - 1;
    if (!authorization)
        return sk_err_set(err, SK_EAUTH, NULL, "No API key: send one in the header `Authorization: Bearer KEY`.");
    if (strncasecmp(authorization, scheme, n_scheme) != 0)
        return sk_err_set(err, SK_EAUTH, NULL, "The Authorization header must be `Bearer KEY`.");
    const char *s = authorization + n_scheme;
    s += strspn(s, " ");
    size_t n = strlen(s);
    while (n > 0 && strchr(BLANKS, s[n - 1]))
        n--;

    uint8_t digest[SHA256_DIGEST_SIZE];
    digest_of(s, n, digest);
    const struct key *found = NULL;
    for (size_t i = 0; i < a->n_key; i++)
        found = memeql_sec(a->keys[i].digest, digest, sizeof digest) ? &a->keys[i] : found;
    if (!found)
        return sk_err_set(err, SK_EAUTH, NULL, "The API key is not known here.");
    *ret_name = found->name;
    return 0;
}
