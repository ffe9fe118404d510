#include "server/text/pretok.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"
#include "server/text/chars.h"
#include "server/text/regex.h"

#define MAX_OUT    ((size_t)1 << 30)
#define KEEP_BYTES ((size_t)1 << 18)

/* A step hands each of its pieces to the next step at once, the last one to emit: the program is a chain of calls, at
 * most SK_VOCAB_MAX_OPS deep. What a step needs is its own, as only one call of it is active. */
struct sk_pretok {
    const struct sk_vocab *v;
    sk_pretok_fn *emit;
    void *arg;
    struct sk_regex *regex[SK_VOCAB_MAX_OPS]; /* of SPLIT */
    struct sk_buf text[SK_VOCAB_MAX_OPS];     /* of PREFIX_SPACE and METASPACE: the rewritten piece */
};

static int step(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first);

int sk_pretok_new(const struct sk_vocab *v, sk_pretok_fn *emit, void *arg, struct sk_pretok **ret, struct sk_err *err)
{
    struct sk_pretok *p = sk_calloc(1, sizeof *p);
    if (!p)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory for a pre-tokenizer");
    *p = (struct sk_pretok){.v = v, .emit = emit, .arg = arg};
    for (uint32_t i = 0; i < SK_VOCAB_MAX_OPS; i++)
        sk_buf_init(&p->text[i], MAX_OUT);
    for (uint32_t i = 0; i < v->n_pretok; i++) {
        const struct sk_vocab_op *op = &v->pretok[i];
        if (op->kind != SK_VOCAB_SPLIT)
            continue;
        int rc = sk_regex_new(sk_vocab_at(v, op->a), op->a.n, op->arg & SK_VOCAB_LITERAL, &p->regex[i], err);
        if (rc) {
            sk_pretok_free(p);
            return rc;
        }
    }
    *ret = p;
    return 0;
}

void sk_pretok_free(struct sk_pretok *p)
{
    if (!p)
        return;
    for (int i = 0; i < SK_VOCAB_MAX_OPS; i++) {
        sk_regex_free(p->regex[i]);
        sk_buf_done(&p->text[i]);
    }
    sk_free(p);
}

void sk_pretok_trim(struct sk_pretok *p)
{
    for (int i = 0; i < SK_VOCAB_MAX_OPS; i++)
        if (p->text[i].cap > KEEP_BYTES)
            sk_buf_done(&p->text[i]);
}

/* Joins a text's segments, which alternate between matches and the rest, into pieces. The last piece is held until it
 * is known whether the next segment belongs to it. */
struct joiner {
    struct sk_pretok *p;
    uint32_t i; /* the step */
    enum sk_vocab_behaviour behaviour;
    bool invert, first;
    const char *s;
    size_t from, to; /* the piece held; from == to: none */
    bool match;      /* was the last segment one? */
};

static int joiner_flush(struct joiner *j)
{
    size_t from = j->from;
    j->from = j->to;
    if (from == j->to)
        return 0;
    return step(j->p, j->i + 1, j->s + from, j->to - from, j->first && from == 0);
}

/* The behaviours are those of tokenizers' NormalizedString::split, which folds MergedWithNext from the end: so of two
 * matches in turn only the last joins what follows. */
static int joiner_add(struct joiner *j, size_t from, size_t to, bool match)
{
    if (from == to)
        return 0;
    match = match != j->invert;
    bool join = false;
    if (j->behaviour == SK_VOCAB_CONTIGUOUS)
        join = match == j->match;
    else if (j->behaviour == SK_VOCAB_MERGED_WITH_PREVIOUS)
        join = match && !j->match;
    else if (j->behaviour == SK_VOCAB_MERGED_WITH_NEXT)
        join = !match && j->match;
    bool held = j->from < j->to;
    j->match = match;
    if (join && held) {
        j->to = to;
        return 0;
    }
    int rc = joiner_flush(j);
    j->from = j->to = to;
    if (!(match && j->behaviour == SK_VOCAB_REMOVED))
        j->from = from;
    return rc;
}

static struct joiner joiner_of(struct sk_pretok *p, uint32_t i, const char *s, bool first)
{
    uint32_t arg = p->v->pretok[i].arg;
    return (struct joiner){
        .p = p, .i = i, .s = s, .first = first, .behaviour = arg & SK_VOCAB_ARG_MASK, .invert = arg & SK_VOCAB_INVERT};
}

static int split(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first)
{
    struct joiner j = joiner_of(p, i, s, first);
    size_t done = 0, from = 0, start, end;
    int rc = 0;
    while (rc == 0 && from < n) {
        rc = sk_regex_next(p->regex[i], s, n, from, &start, &end);
        if (rc <= 0)
            break;
        rc = joiner_add(&j, done, start, false);
        if (rc == 0)
            rc = joiner_add(&j, start, end, true);
        done = from = end;
        if (start == end && from < n) { /* an empty match: go on behind the next character */
            uint32_t cp;
            from += (size_t)sk_utf8_next(s + from, n - from, &cp);
        }
    }
    if (rc == 0)
        rc = joiner_add(&j, done, n, false);
    return rc ? rc : joiner_flush(&j);
}

static int digits(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first)
{
    struct joiner j = joiner_of(p, i, s, first);
    size_t done = 0;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < n;) {
        uint32_t cp;
        size_t k = (size_t)sk_utf8_next(s + at, n - at, &cp);
        if (sk_chars_is_numeric(cp)) {
            rc = joiner_add(&j, done, at, false);
            if (rc == 0)
                rc = joiner_add(&j, at, at + k, true);
            done = at + k;
        }
        at += k;
    }
    if (rc == 0)
        rc = joiner_add(&j, done, n, false);
    return rc ? rc : joiner_flush(&j);
}

static int prefix_space(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first)
{
    if (s[0] == ' ')
        return step(p, i + 1, s, n, first);
    struct sk_buf *b = &p->text[i];
    sk_buf_clear(b);
    sk_buf_char(b, ' ');
    sk_buf_add(b, s, n);
    return b->failed ? b->failed : step(p, i + 1, b->p, b->n, first);
}

static int metaspace(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first)
{
    const struct sk_vocab_op *op = &p->v->pretok[i];
    const char *mark = sk_vocab_at(p->v, op->a);
    size_t n_mark = op->a.n;
    enum sk_vocab_scheme scheme = op->arg & SK_VOCAB_ARG_MASK;
    bool marked = s[0] == ' ' || (n >= n_mark && memcmp(s, mark, n_mark) == 0);

    struct sk_buf *b = &p->text[i];
    sk_buf_clear(b);
    if (!marked && (scheme == SK_VOCAB_PREPEND_ALWAYS || (scheme == SK_VOCAB_PREPEND_FIRST && first)))
        sk_buf_add(b, mark, n_mark);
    for (size_t at = 0; at < n;) {
        const char *space = memchr(s + at, ' ', n - at);
        size_t k = space ? (size_t)(space - (s + at)) : n - at;
        sk_buf_add(b, s + at, k);
        at += k;
        if (at < n) {
            sk_buf_add(b, mark, n_mark);
            at++;
        }
    }
    if (b->failed || !(op->arg & SK_VOCAB_METASPACE_SPLIT))
        return b->failed ? b->failed : step(p, i + 1, b->p, b->n, first);

    size_t from = 0;
    for (size_t at = 1; at < b->n; at++) {
        if (b->n - at < n_mark || memcmp(b->p + at, mark, n_mark) != 0)
            continue;
        int rc = step(p, i + 1, b->p + from, at - from, first && from == 0);
        if (rc)
            return rc;
        from = at;
    }
    return step(p, i + 1, b->p + from, b->n - from, first && from == 0);
}

static int step(struct sk_pretok *p, uint32_t i, const char *s, size_t n, bool first)
{
    if (i == p->v->n_pretok)
        return p->emit(p->arg, s, n);
    switch (p->v->pretok[i].kind) {
    case SK_VOCAB_SPLIT:
        return split(p, i, s, n, first);
    case SK_VOCAB_DIGITS:
        return digits(p, i, s, n, first);
    case SK_VOCAB_PREFIX_SPACE:
        return prefix_space(p, i, s, n, first);
    default:
        return metaspace(p, i, s, n, first);
    }
}

int sk_pretok_run(struct sk_pretok *p, const char *s, size_t n, bool first)
{
    return n ? step(p, 0, s, n, first) : 0;
}
