#include "server/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"
#include "server/text/chars.h"
#include "server/text/token.h"

#define GUARD_BYTES (sizeof SK_TOKEN_GUARD - 1)

struct entry {
    char *s; /* owned */
    uint32_t n, id, flags;
    bool special;
};

/* Sorted by spelling: the spellings that begin with a given text are a range, narrowed byte by byte. */
struct sk_added {
    struct entry *entries;
    uint32_t n;
    struct range {
        uint32_t lo, hi;
    } first[256]; /* by first byte */
};

static int by_spelling(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    int c = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);
    if (c)
        return c;
    return a->n != b->n ? (a->n > b->n) - (a->n < b->n) : (a->id > b->id) - (a->id < b->id);
}

static int add(struct sk_added *a, const struct sk_vocab *v, struct sk_normalize *z, const struct sk_vocab_added *t,
               struct sk_err *err)
{
    struct sk_vocab_str word = v->words[t->id].word;
    const char *s = sk_vocab_at(v, word);
    size_t n = word.n;
    int rc = t->flags & SK_VOCAB_NORMALIZED ? sk_normalize_run(z, s, n, &s, &n) : 0;
    if (rc)
        return sk_err_set(err, -rc, NULL, "normalizing an added token: %s", sk_err_text(rc));
    if (n == 0 || n > 4 * SK_VOCAB_MAX_ADDED_BYTES) /* normalized away: nothing can match */
        return 0;
    char *copy = sk_malloc(n);
    if (!copy)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory for added tokens");
    memcpy(copy, s, n);
    a->entries[a->n++] = (struct entry){
        .s = copy, .n = (uint32_t)n, .id = t->id, .flags = t->flags, .special = v->words[t->id].flags & SK_TOK_SPECIAL};
    return 0;
}

int sk_added_new(const struct sk_vocab *v, struct sk_normalize *z, bool normalized, struct sk_added **ret,
                 struct sk_err *err)
{
    struct sk_added *a = sk_calloc(1, sizeof *a);
    if (a)
        a->entries = sk_calloc(v->n_added, sizeof *a->entries);
    int rc = a && a->entries ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "out of memory for added tokens");
    for (uint32_t i = 0; rc == 0 && i < v->n_added; i++)
        if (!(v->added[i].flags & SK_VOCAB_NORMALIZED) == !normalized)
            rc = add(a, v, z, &v->added[i], err);
    if (rc) {
        sk_added_free(a);
        return rc;
    }
    if (a->n)
        qsort(a->entries, a->n, sizeof *a->entries, by_spelling);
    for (uint32_t i = a->n; i-- > 0;) {
        struct range *r = &a->first[(uint8_t)a->entries[i].s[0]];
        if (r->hi == 0)
            r->hi = i + 1;
        r->lo = i;
    }
    *ret = a;
    return 0;
}

void sk_added_free(struct sk_added *a)
{
    if (!a)
        return;
    for (uint32_t i = 0; i < a->n; i++)
        sk_free(a->entries[i].s);
    sk_free(a->entries);
    sk_free(a);
}

/* The first entry of [r.lo, r.hi), all longer than `depth`, whose byte there is at least c. */
static uint32_t lower(const struct sk_added *a, struct range r, uint32_t depth, unsigned c)
{
    while (r.lo < r.hi) {
        uint32_t mid = r.lo + (r.hi - r.lo) / 2;
        if ((uint8_t)a->entries[mid].s[depth] < c)
            r.lo = mid + 1;
        else
            r.hi = mid;
    }
    return r.lo;
}

/* The longest spelling at s + at; NULL = none. */
static const struct entry *longest(const struct sk_added *a, const struct sk_added_text *t, size_t at, size_t *ret_end,
                                   bool *ret_guarded)
{
    const struct entry *best = NULL;
    struct range r = a->first[(uint8_t)t->s[at]];
    bool guarded = false;
    at++;
    for (uint32_t depth = 1; r.lo < r.hi; depth++) {
        if (a->entries[r.lo].n == depth) { /* the shortest comes first, and of equal ones the lowest id */
            best = &a->entries[r.lo];
            *ret_end = at;
            *ret_guarded = guarded;
            while (r.lo < r.hi && a->entries[r.lo].n == depth)
                r.lo++;
        }
        while (t->guarded && t->n - at >= GUARD_BYTES && memcmp(t->s + at, SK_TOKEN_GUARD, GUARD_BYTES) == 0) {
            at += GUARD_BYTES;
            guarded = true;
        }
        if (at == t->n)
            break;
        unsigned c = (uint8_t)t->s[at++];
        r = (struct range){lower(a, r, depth, c), lower(a, r, depth, c + 1)};
    }
    return best;
}

/* The character that ends before s + at, 0 = none. */
static uint32_t char_before(const char *s, size_t at, size_t *ret_start)
{
    uint32_t cp = 0;
    if (at) {
        do
            at--;
        while (at && (s[at] & 0xC0) == 0x80);
        sk_utf8_next(s + at, 4, &cp); /* whole: the text is well-formed */
    }
    *ret_start = at;
    return cp;
}

static uint32_t char_at(const char *s, size_t n, size_t at, size_t *ret_end)
{
    uint32_t cp = 0;
    if (at < n)
        at += (size_t)sk_utf8_next(s + at, n - at, &cp);
    *ret_end = at;
    return cp;
}

static bool alone(const struct sk_added_text *t, size_t start, size_t end)
{
    size_t unused;
    uint32_t before = char_before(t->s, start, &unused), after = char_at(t->s, t->n, end, &unused);
    return !(start && sk_chars_is_word(before)) && !(end < t->n && sk_chars_is_word(after));
}

static void take_space(const struct sk_added_text *t, uint32_t flags, size_t *start, size_t *end)
{
    size_t to;
    if (flags & SK_VOCAB_LSTRIP)
        while (*start > t->done && sk_chars_is_space(char_before(t->s, *start, &to)))
            *start = to;
    if (flags & SK_VOCAB_RSTRIP)
        while (*end < t->n && sk_chars_is_space(char_at(t->s, t->n, *end, &to)))
            *end = to;
}

bool sk_added_next(const struct sk_added *a, struct sk_added_text *t, struct sk_added_match *ret)
{
    if (a->n == 0)
        return false;
    for (size_t at = t->from; at < t->n;) {
        struct range r = a->first[(uint8_t)t->s[at]];
        size_t end;
        bool guarded;
        const struct entry *e = r.lo < r.hi ? longest(a, t, at, &end, &guarded) : NULL;
        if (!e) {
            at++;
            continue;
        }
        if (guarded || (e->special && !t->specials) || ((e->flags & SK_VOCAB_SINGLE_WORD) && !alone(t, at, end))) {
            at = end;
            continue;
        }
        ret->id = e->id;
        ret->start = at;
        ret->end = end;
        take_space(t, e->flags, &ret->start, &ret->end);
        t->done = t->from = ret->end;
        return true;
    }
    t->from = t->n;
    return false;
}
