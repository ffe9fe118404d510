#include "server/api/keyfile.h"

#include <nettle/sha2.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"
#include "comm/base/utf8.h"

_Static_assert(SK_KEYFILE_DIGEST_BYTES == SHA256_DIGEST_SIZE, "digest");

enum { MAX_NUMBER_BYTES = 20, MAX_MESSAGE_BYTES = 256 };

static const char *const BLANKS = " \t\r";

struct place { /* for messages */
    const char *path;
    int line;
};

struct span { /* text, without an end */
    const char *p;
    size_t n;
};

static int wrong(struct sk_err *err, int code, const struct place *at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int wrong(struct sk_err *err, int code, const struct place *at, const char *fmt, ...)
{
    char what[MAX_MESSAGE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return sk_err_set(err, code, "api-key-file", "%s:%d: %s", at->path, at->line, what);
}

/* --- words --- */

static bool is_blank(char c)
{
    return c != '\0' && strchr(BLANKS, c);
}

/* Cuts the first word off; n = 0 at the end. */
static struct span next_word(struct span *rest)
{
    struct span w;
    while (rest->n > 0 && is_blank(*rest->p)) {
        rest->p++;
        rest->n--;
    }
    w = (struct span){.p = rest->p};
    while (w.n < rest->n && !is_blank(w.p[w.n]))
        w.n++;
    rest->p += w.n;
    rest->n -= w.n;
    return w;
}

static bool begins(struct span s, const char *with)
{
    return s.n >= strlen(with) && memcmp(s.p, with, strlen(with)) == 0;
}

static struct span after(struct span s, size_t n)
{
    return (struct span){.p = s.p + n, .n = s.n - n};
}

static bool is_word(struct span s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

/* Names go into metrics, logs and JSON as they are. */
static int take_name(struct span w, const char *what, char ret[SK_TENANT_NAME_MAX], const struct place *at,
                     struct sk_err *err)
{
    if (w.n == 0 || w.n >= SK_TENANT_NAME_MAX)
        return wrong(err, SK_EINVAL, at, "%s has %zu bytes; 1 to %d are allowed", what, w.n, SK_TENANT_NAME_MAX - 1);
    bool clean = sk_utf8_valid(w.p, w.n);
    for (size_t i = 0; i < w.n; i++)
        clean = clean && (unsigned char)w.p[i] > ' ' && w.p[i] != 0x7f;
    if (!clean)
        return wrong(err, SK_EINVAL, at, "%s is not UTF-8, or has a control character in it", what);
    memcpy(ret, w.p, w.n);
    ret[w.n] = '\0';
    return 0;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c >= '0' ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool unhex(struct span s, uint8_t ret_digest[SHA256_DIGEST_SIZE])
{
    if (s.n != 2 * SHA256_DIGEST_SIZE)
        return false;
    for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++) {
        int high = hex_digit(s.p[2 * i]), low = hex_digit(s.p[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret_digest[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void digest_of(struct span s, uint8_t ret_digest[SHA256_DIGEST_SIZE])
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, s.n, (const uint8_t *)s.p);
    sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret_digest);
}

/* --- options of a key --- */

/* Digits, with a point among them where `whole` is false. */
static int take_number(struct span value, const char *name, bool whole, double min, double max, double *ret,
                       const struct place *at, struct sk_err *err)
{
    char text[MAX_NUMBER_BYTES + 1];
    size_t n_point = 0, n_digit = 0;
    for (size_t i = 0; i < value.n; i++) {
        n_point += value.p[i] == '.';
        n_digit += value.p[i] >= '0' && value.p[i] <= '9';
    }
    if (n_digit == 0 || n_digit + n_point != value.n || n_point > !whole || value.n > MAX_NUMBER_BYTES)
        return wrong(err, SK_EINVAL, at, "%s must be %s", name, whole ? "a whole number" : "a number such as 0.5");
    memcpy(text, value.p, value.n);
    text[value.n] = '\0';
    double x = strtod(text, NULL);
    if (!(x >= min && x <= max))
        return wrong(err, SK_ERANGE, at, "%s is %s; it must be in %g to %.0f", name, text, min, max);
    *ret = x;
    return 0;
}

static int take_scopes(struct span value, unsigned *ret, const struct place *at, struct sk_err *err)
{
    static const struct {
        const char *name;
        unsigned bit;
    } names[] = {{"inference", SK_SCOPE_INFERENCE}, {"metrics", SK_SCOPE_METRICS}, {"admin", SK_SCOPE_ADMIN}};
    unsigned scopes = 0;
    for (const char *p = value.p, *end = value.p + value.n; p <= end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        struct span one = {.p = p, .n = (size_t)((comma ? comma : end) - p)};
        unsigned bit = 0;
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            bit |= is_word(one, names[i].name) ? names[i].bit : 0;
        if (!bit)
            return wrong(err, SK_EINVAL, at, "scope must be a list of inference, metrics and admin");
        scopes |= bit;
        p += one.n + 1;
    }
    *ret = scopes;
    return 0;
}

enum { OPT_SCOPE, OPT_RPM, OPT_TPM, OPT_CONCURRENT, OPT_WEIGHT, OPT_CACHE, N_OPT };

static int take_option(struct sk_key *k, int opt, struct span value, const struct place *at, struct sk_err *err)
{
    double x = 0;
    int rc;
    switch (opt) {
    case OPT_SCOPE:
        return take_scopes(value, &k->scopes, at, err);
    case OPT_CACHE:
        return take_name(value, "cache", k->group, at, err);
    case OPT_WEIGHT:
        return take_number(value, "weight", false, 0.001, 1000, &k->limits.weight, at, err);
    case OPT_RPM:
        rc = take_number(value, "rpm", true, 1, 1e9, &x, at, err);
        k->limits.rpm = (int64_t)x;
        return rc;
    case OPT_TPM:
        rc = take_number(value, "tpm", true, 1, 1e12, &x, at, err);
        k->limits.tpm = (int64_t)x;
        return rc;
    default:
        rc = take_number(value, "concurrent", true, 1, 1e6, &x, at, err);
        k->limits.concurrent = (int64_t)x;
        return rc;
    }
}

/* A word that is no option is not repeated in the message: it may be a key. */
static int take_options(struct sk_key *k, struct span rest, const struct place *at, struct sk_err *err)
{
    static const char *const names[N_OPT] = {"scope=", "rpm=", "tpm=", "concurrent=", "weight=", "cache="};
    unsigned seen = 0;
    int rc = 0;
    for (struct span w = next_word(&rest); rc == 0 && w.n > 0; w = next_word(&rest)) {
        int opt = 0;
        while (opt < N_OPT && !begins(w, names[opt]))
            opt++;
        if (opt == N_OPT)
            return wrong(err, SK_EINVAL, at,
                         "behind the digest, only scope=, rpm=, tpm=, concurrent=, weight= and cache= are known");
        if (seen >> opt & 1)
            return wrong(err, SK_EINVAL, at, "%s is there twice", names[opt]);
        seen |= 1u << opt;
        rc = take_option(k, opt, after(w, strlen(names[opt])), at, err);
    }
    return rc;
}

/* --- lines --- */

static int take_line(struct span line, struct sk_key *ret, const struct place *at, struct sk_err *err)
{
    static const char scheme[] = "sha256:";
    struct span first = next_word(&line), second = next_word(&line);
    *ret = (struct sk_key){.scopes = SK_SCOPE_INFERENCE, .limits = {.weight = 1}, .line = at->line};
    if (second.n == 0 && !begins(first, scheme)) {
        digest_of(first, ret->digest);
        return 0;
    }
    if (!begins(second, scheme) || !unhex(after(second, strlen(scheme)), ret->digest))
        return wrong(err, SK_EINVAL, at, "expected `NAME sha256:HEX` with 64 hex digits, or a bare key");
    int rc = take_name(first, "the name", ret->name, at, err);
    if (rc == 0 && begins(first, "user:"))
        rc = wrong(err, SK_EINVAL, at, "names that begin with `user:` stand for users of this system");
    return rc == 0 ? take_options(ret, line, at, err) : rc;
}

static int add_key(struct sk_keyfile *f, const struct sk_key *k)
{
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 8;
        struct sk_key *keys = sk_realloc(f->keys, cap * sizeof *keys);
        if (!keys)
            return -SK_ENOMEM;
        f->keys = keys;
        f->cap = cap;
    }
    f->keys[f->n++] = *k;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct sk_key *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->line - y->line;
}

static int by_digest(const void *a, const void *b)
{
    const struct sk_key *x = a, *y = b;
    int order = memcmp(x->digest, y->digest, sizeof x->digest);
    return order ? order : x->line - y->line;
}

static bool same_tenant(const struct sk_key *a, const struct sk_key *b)
{
    return a->limits.weight == b->limits.weight && a->limits.rpm == b->limits.rpm && a->limits.tpm == b->limits.tpm &&
           a->limits.concurrent == b->limits.concurrent && strcmp(a->group, b->group) == 0;
}

/* What is equal is side by side once sorted. Leaves the keys in the order of their digests. */
static int check_together(struct sk_keyfile *f, const char *path, struct sk_err *err)
{
    if (f->n == 0)
        return sk_err_set(err, SK_EINVAL, "api-key-file", "%s: there is no key in it, so nobody could call", path);
    qsort(f->keys, f->n, sizeof *f->keys, by_name);
    for (size_t i = 1; i < f->n; i++) {
        const struct sk_key *a = &f->keys[i - 1], *b = &f->keys[i];
        const struct place at = {path, b->line};
        if (strcmp(a->name, b->name) == 0 && !same_tenant(a, b))
            return wrong(err, SK_EINVAL, &at, "`%s` has other limits or another cache group on line %d", b->name,
                         a->line);
    }
    qsort(f->keys, f->n, sizeof *f->keys, by_digest);
    for (size_t i = 1; i < f->n; i++) {
        const struct sk_key *a = &f->keys[i - 1], *b = &f->keys[i];
        const struct place at = {path, b->line};
        if (memcmp(a->digest, b->digest, sizeof a->digest) == 0)
            return wrong(err, SK_EINVAL, &at, "the same key is on line %d", a->line);
    }
    return 0;
}

int sk_keyfile_parse(const char *path, const char *text, size_t n, struct sk_keyfile *ret, struct sk_err *err)
{
    struct sk_keyfile f = {0};
    struct place at = {.path = path};
    int rc = 0;
    if (memchr(text, '\0', n))
        rc = sk_err_set(err, SK_EINVAL, "api-key-file", "%s: there is a NUL byte in it", path);
    for (const char *s = text, *end = text + n; rc == 0 && s < end;) {
        const char *to = memchr(s, '\n', (size_t)(end - s));
        struct span line = {.p = s, .n = (size_t)((to ? to : end) - s)}, rest = line;
        struct span first = next_word(&rest);
        struct sk_key k;
        at.line++;
        if (first.n > 0 && *first.p != '#') {
            if (f.n == SK_KEYFILE_MAX_KEYS)
                rc = wrong(err, SK_EINVAL, &at, "more than %d keys", SK_KEYFILE_MAX_KEYS);
            else
                rc = take_line(line, &k, &at, err);
            if (rc == 0 && add_key(&f, &k) != 0)
                rc = sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
        }
        s = to ? to + 1 : end;
    }
    if (rc == 0)
        rc = check_together(&f, path, err);
    if (rc == 0)
        *ret = f;
    else
        sk_keyfile_done(&f);
    return rc;
}

void sk_keyfile_done(struct sk_keyfile *f)
{
    sk_free(f->keys);
    *f = (struct sk_keyfile){0};
}
