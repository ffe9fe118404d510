#define _GNU_SOURCE 1 /* memmem */
#include "server/text/token.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "comm/dir/vocab_format.h"
#include "server/text/added.h"
#include "server/text/bpe.h"
#include "server/text/decode.h"
#include "server/text/normalize.h"
#include "server/text/pretok.h"

/* Positions inside a word are 32 bits, also after normalization has made the text longer. */
#define MAX_TEXT    ((size_t)64 << 20)
#define GUARD_BYTES (sizeof SK_TOKEN_GUARD - 1)
#define KEEP_BYTES  ((size_t)1 << 18)

/* The order is that of tokenizers' TokenizerImpl::encode: added tokens that are not normalized are cut out first, the
 * text between them is normalized, then the normalized ones are cut out, what remains is pre-tokenized and merged. */
struct sk_token {
    const struct sk_vocab *v;
    struct sk_normalize *normalize;
    struct sk_added *raw, *normalized; /* added tokens by where they are sought */
    struct sk_pretok *pretok;
    struct sk_bpe *bpe;
    struct sk_buf text;  /* the input with U+FFFD for what is ill-formed */
    struct sk_buf plain; /* a piece without its guards */
    struct sk_bpe_ids ids;
};

static int emit(void *arg, const char *s, size_t n)
{
    struct sk_token *t = arg;
    return sk_bpe_word(t->bpe, s, n, &t->ids);
}

int sk_token_new(const struct sk_vocab *v, struct sk_token **ret, struct sk_err *err)
{
    struct sk_token *t = sk_calloc(1, sizeof *t);
    if (!t)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory for a tokenizer");
    t->v = v;
    sk_buf_init(&t->text, 3 * MAX_TEXT);
    sk_buf_init(&t->plain, UINT32_MAX);
    int rc = sk_normalize_new(v, &t->normalize, err);
    if (rc == 0)
        rc = sk_added_new(v, t->normalize, false, &t->raw, err);
    if (rc == 0)
        rc = sk_added_new(v, t->normalize, true, &t->normalized, err);
    if (rc == 0)
        rc = sk_pretok_new(v, emit, t, &t->pretok, err);
    if (rc == 0)
        rc = sk_bpe_new(v, &t->bpe, err);
    if (rc) {
        sk_token_free(t);
        return rc;
    }
    *ret = t;
    return 0;
}

void sk_token_free(struct sk_token *t)
{
    if (!t)
        return;
    sk_normalize_free(t->normalize);
    sk_added_free(t->raw);
    sk_added_free(t->normalized);
    sk_pretok_free(t->pretok);
    sk_bpe_free(t->bpe);
    sk_buf_done(&t->text);
    sk_buf_done(&t->plain);
    sk_free(t->ids.p);
    sk_free(t);
}

/* A daemon that idles after one long prompt should not hold on to its scratch. */
static void trim(struct sk_token *t)
{
    sk_normalize_trim(t->normalize);
    sk_pretok_trim(t->pretok);
    sk_bpe_trim(t->bpe);
    if (t->text.cap > KEEP_BYTES)
        sk_buf_done(&t->text);
    if (t->plain.cap > KEEP_BYTES)
        sk_buf_done(&t->plain);
}

static const char *find_guard(const char *s, size_t n)
{
    return memmem(s, n, SK_TOKEN_GUARD, GUARD_BYTES);
}

/* Text without added tokens. */
static int encode_plain(struct sk_token *t, const char *s, size_t n, bool first, bool guarded)
{
    if (!guarded)
        return sk_pretok_run(t->pretok, s, n, first);
    sk_buf_clear(&t->plain);
    for (const char *g; (g = find_guard(s, n)); n -= (size_t)(g - s) + GUARD_BYTES, s = g + GUARD_BYTES)
        sk_buf_add(&t->plain, s, (size_t)(g - s));
    sk_buf_add(&t->plain, s, n);
    return t->plain.failed ? t->plain.failed : sk_pretok_run(t->pretok, t->plain.p, t->plain.n, first);
}

/* Text between added tokens that are not normalized. */
static int encode_piece(struct sk_token *t, const struct sk_added_text *piece, bool first)
{
    struct sk_added_text text = *piece;
    struct sk_added_match m;
    size_t done = 0;
    int rc = sk_normalize_run(t->normalize, piece->s, piece->n, &text.s, &text.n);
    if (rc)
        return rc;
    text.done = text.from = 0;
    while (rc == 0 && sk_added_next(t->normalized, &text, &m)) {
        rc = encode_plain(t, text.s + done, m.start - done, first && done == 0, text.guarded);
        if (rc == 0)
            rc = sk_bpe_ids_add(&t->ids, m.id);
        done = m.end;
    }
    return rc ? rc : encode_plain(t, text.s + done, text.n - done, first && done == 0, text.guarded);
}

static int encode_text(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode)
{
    struct sk_added_text text = {
        .s = s, .n = n, .guarded = find_guard(s, n) != NULL, .specials = mode == SK_TOKEN_SPECIALS};
    struct sk_added_match m;
    bool more = true;
    size_t done = 0;
    while (more) {
        more = sk_added_next(t->raw, &text, &m);
        struct sk_added_text piece = text;
        piece.s = s + done;
        piece.n = (more ? m.start : n) - done;
        int rc = piece.n ? encode_piece(t, &piece, done == 0) : 0;
        if (rc == 0 && more)
            rc = sk_bpe_ids_add(&t->ids, m.id);
        if (rc)
            return rc;
        done = more ? m.end : n;
    }
    return 0;
}

static int add_ids(struct sk_token *t, const uint32_t *ids, uint32_t n)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = sk_bpe_ids_add(&t->ids, ids[i]);
    return rc;
}

static int encode(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode, bool add_bos)
{
    sk_buf_clear(&t->text);
    int rc = sk_decode_lossy(&t->text, &s, &n);
    if (rc == 0 && add_bos)
        rc = add_ids(t, t->v->prefix, t->v->n_prefix);
    if (rc == 0)
        rc = encode_text(t, s, n, mode);
    if (rc == 0 && add_bos)
        rc = add_ids(t, t->v->suffix, t->v->n_suffix);
    return rc;
}

int sk_token_encode(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode, bool add_bos, size_t max_tok,
                    int32_t **ret_ids, size_t *ret_n, struct sk_err *err)
{
    t->ids = (struct sk_bpe_ids){.max = max_tok};
    int rc = n > MAX_TEXT ? -SK_ETOOBIG : encode(t, s, n, mode, add_bos);
    if (rc == 0 && !t->ids.p && !(t->ids.p = sk_malloc(sizeof *t->ids.p)))
        rc = -SK_ENOMEM;
    if (rc == 0) {
        *ret_ids = t->ids.p;
        *ret_n = t->ids.n;
    } else {
        if (rc == -SK_ETOOBIG && n > MAX_TEXT)
            sk_err_set(err, SK_ETOOBIG, NULL, "a text of %zu bytes; at most %zu can be encoded at once", n, MAX_TEXT);
        else if (rc == -SK_ETOOBIG && t->ids.n == max_tok)
            sk_err_set(err, SK_ETOOBIG, NULL, "the text makes more than %zu tokens", max_tok);
        else
            sk_err_set(err, -rc, NULL, "encoding a text of %zu bytes: %s", n, sk_err_text(rc));
        sk_free(t->ids.p);
    }
    t->ids = (struct sk_bpe_ids){0};
    trim(t);
    return rc;
}
