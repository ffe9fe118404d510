#include "server/text/normalize.h"

#include <string.h>
#include <utf8proc.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"
#include "server/text/chars.h"
#include "server/text/regex.h"

#define MAX_OUT       ((size_t)1 << 30) /* bytes of normalized text */
#define KEEP_BYTES    ((size_t)1 << 18) /* scratch that stays between calls */
#define MAX_EXPANSION 18                /* characters that one decomposes to (U+FDFA under NFKD) */

struct sk_normalize {
    const struct sk_vocab *v;
    struct sk_regex *regex[SK_VOCAB_MAX_OPS]; /* of REPLACE */
    struct sk_buf buf[2];                     /* the steps' outputs, in turn */
    utf8proc_int32_t *chars;                  /* of a normal form; the second half is for sorting */
    size_t max_chars;
};

int sk_normalize_new(const struct sk_vocab *v, struct sk_normalize **ret, struct sk_err *err)
{
    struct sk_normalize *z = sk_calloc(1, sizeof *z);
    if (!z)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory for a normalizer");
    z->v = v;
    sk_buf_init(&z->buf[0], MAX_OUT);
    sk_buf_init(&z->buf[1], MAX_OUT);
    for (uint32_t i = 0; i < v->n_norm; i++) {
        const struct sk_vocab_op *op = &v->norm[i];
        if (op->kind != SK_VOCAB_REPLACE)
            continue;
        int rc = sk_regex_new(sk_vocab_at(v, op->a), op->a.n, op->arg & SK_VOCAB_LITERAL, &z->regex[i], err);
        if (rc) {
            sk_normalize_free(z);
            return rc;
        }
    }
    *ret = z;
    return 0;
}

void sk_normalize_free(struct sk_normalize *z)
{
    if (!z)
        return;
    for (int i = 0; i < SK_VOCAB_MAX_OPS; i++)
        sk_regex_free(z->regex[i]);
    sk_buf_done(&z->buf[0]);
    sk_buf_done(&z->buf[1]);
    sk_free(z->chars);
    sk_free(z);
}

void sk_normalize_trim(struct sk_normalize *z)
{
    for (int i = 0; i < 2; i++)
        if (z->buf[i].cap > KEEP_BYTES)
            sk_buf_done(&z->buf[i]);
    if (z->max_chars * sizeof *z->chars > KEEP_BYTES) {
        sk_free(z->chars);
        z->chars = NULL;
        z->max_chars = 0;
    }
}

static int reserve_chars(struct sk_normalize *z, size_t n)
{
    if (n <= z->max_chars)
        return 0;
    size_t max = n < z->max_chars * 2 ? z->max_chars * 2 : n;
    utf8proc_int32_t *p = sk_realloc(z->chars, max * sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    z->chars = p;
    z->max_chars = max;
    return 0;
}

/* Canonical ordering (Unicode 15, section 3.11, D109) of one run of characters with a combining class other than 0.
 * Counting sort, because utf8proc's own takes O(n^2) on a long run. Needs n more characters of scratch behind `run`'s
 * array at `tmp`. */
static void order_marks(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *tmp)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(run[i])->combining_class + 1]++;
    for (int c = 1; c < 257; c++)
        start[c] += start[c - 1];
    for (size_t i = 0; i < n; i++)
        tmp[start[utf8proc_get_property(run[i])->combining_class]++] = run[i];
    memcpy(run, tmp, n * sizeof *run);
}

static void order(utf8proc_int32_t *chars, size_t n, utf8proc_int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && utf8proc_get_property(chars[k])->combining_class)
            k++;
        if (k - i > 1)
            order_marks(chars + i, k - i, tmp);
        i = k + (k == i);
    }
}

static int put_chars(struct sk_buf *out, const utf8proc_int32_t *chars, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c[4];
        sk_buf_add(out, c, (size_t)sk_utf8_put((uint32_t)chars[i], c));
    }
    return out->failed;
}

/* One segment that no character outside it composes with. */
static int normal_segment(struct sk_normalize *z, enum sk_vocab_op_kind kind, const char *s, size_t n,
                          struct sk_buf *out)
{
    bool compat = kind == SK_VOCAB_NFKC || kind == SK_VOCAB_NFKD,
         compose = kind == SK_VOCAB_NFC || kind == SK_VOCAB_NFKC;
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    size_t n_chars = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += (size_t)sk_utf8_next(s + i, n - i, &cp);
        if (reserve_chars(z, n_chars + MAX_EXPANSION))
            return -SK_ENOMEM;
        utf8proc_ssize_t k =
            utf8proc_decompose_char((utf8proc_int32_t)cp, z->chars + n_chars, MAX_EXPANSION, options, NULL);
        if (k < 0 || k > MAX_EXPANSION)
            return -SK_EINTERNAL;
        n_chars += (size_t)k;
    }
    if (reserve_chars(z, 2 * n_chars))
        return -SK_ENOMEM;
    order(z->chars, n_chars, z->chars + n_chars);
    if (compose) {
        utf8proc_ssize_t k =
            utf8proc_normalize_utf32(z->chars, (utf8proc_ssize_t)n_chars, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (k < 0)
            return -SK_EINTERNAL;
        n_chars = (size_t)k;
    }
    return put_chars(out, z->chars, n_chars);
}

/* ASCII is in every normal form and nothing before an ASCII character composes with it: segments run from the last
 * ASCII character before some that are not, to the next ASCII character behind them. */
static int normal_form(struct sk_normalize *z, enum sk_vocab_op_kind kind, const char *s, size_t n, struct sk_buf *out)
{
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && (signed char)s[k] >= 0)
            k++;
        size_t from = k < n && k > i ? k - 1 : k;
        sk_buf_add(out, s + i, from - i);
        while (k < n && (signed char)s[k] < 0)
            k++;
        int rc = from < k ? normal_segment(z, kind, s + from, k - from, out) : 0;
        if (rc)
            return rc;
        i = k;
    }
    return out->failed;
}

static int map_chars(enum sk_vocab_op_kind kind, const char *s, size_t n, struct sk_buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        char c[4];
        i += (size_t)sk_utf8_next(s + i, n - i, &cp);
        if (kind == SK_VOCAB_STRIP_ACCENTS && sk_chars_is_mark(cp))
            continue;
        if (kind == SK_VOCAB_LOWERCASE && cp == 0x130) { /* the one character whose lower case is two */
            sk_buf_str(out, "i\xCC\x87");
            continue;
        }
        if (kind == SK_VOCAB_LOWERCASE)
            cp = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
        sk_buf_add(out, c, (size_t)sk_utf8_put(cp, c));
    }
    return out->failed;
}

static int strip(unsigned sides, const char *s, size_t n, struct sk_buf *out)
{
    size_t first = n, last = 0; /* of what is no white space */
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t k = (size_t)sk_utf8_next(s + i, n - i, &cp);
        if (!sk_chars_is_space(cp)) {
            if (first == n)
                first = i;
            last = i + k;
        }
        i += k;
    }
    size_t from = sides & 1 ? first : 0, to = sides & 2 ? last : n;
    return from < to ? sk_buf_add(out, s + from, to - from) : 0;
}

static int replace(struct sk_normalize *z, uint32_t i, const char *s, size_t n, struct sk_buf *out)
{
    const struct sk_vocab_op *op = &z->v->norm[i];
    size_t done = 0, from = 0, start, end;
    while (from <= n) {
        int rc = sk_regex_next(z->regex[i], s, n, from, &start, &end);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        sk_buf_add(out, s + done, start - done);
        sk_buf_add(out, sk_vocab_at(z->v, op->b), op->b.n);
        done = from = end;
        if (start == end) { /* an empty match: go on behind the next character */
            uint32_t cp;
            from += from < n ? (size_t)sk_utf8_next(s + from, n - from, &cp) : 1;
        }
    }
    return sk_buf_add(out, s + done, n - done);
}

static int step(struct sk_normalize *z, uint32_t i, const char *s, size_t n, struct sk_buf *out)
{
    const struct sk_vocab_op *op = &z->v->norm[i];
    switch (op->kind) {
    case SK_VOCAB_LOWERCASE:
    case SK_VOCAB_STRIP_ACCENTS:
        return map_chars(op->kind, s, n, out);
    case SK_VOCAB_STRIP:
        return strip(op->arg & SK_VOCAB_ARG_MASK, s, n, out);
    case SK_VOCAB_REPLACE:
        return replace(z, i, s, n, out);
    case SK_VOCAB_PREPEND:
        if (n)
            sk_buf_add(out, sk_vocab_at(z->v, op->a), op->a.n);
        return sk_buf_add(out, s, n);
    default:
        return normal_form(z, op->kind, s, n, out);
    }
}

static bool is_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((signed char)s[i] < 0)
            return false;
    return true;
}

int sk_normalize_run(struct sk_normalize *z, const char *s, size_t n, const char **ret_s, size_t *ret_n)
{
    for (uint32_t i = 0; i < z->v->n_norm; i++) {
        if (z->v->norm[i].kind <= SK_VOCAB_NFKD && is_ascii(s, n))
            continue;
        struct sk_buf *out = &z->buf[s == z->buf[0].p];
        sk_buf_clear(out);
        int rc = sk_buf_reserve(out, n); /* so that an empty result has an address, too */
        if (rc == 0)
            rc = step(z, i, s, n, out);
        if (rc)
            return rc;
        s = out->p;
        n = out->n;
    }
    *ret_s = s;
    *ret_n = n;
    return 0;
}
