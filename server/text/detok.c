#include "server/text/detok.h"

#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"
#include "server/text/decode.h"

/* Two things hold text back, one after the other:
 *
 *   token --bytes--> pend --characters--> stops --> out
 *
 * pend: bytes since the last time that the text ended in a whole character. While it ends in an ill-formed one nothing
 * comes out, as in tokenizers' DecodeStream, so that a token goes out as one piece with the rest of its character. A
 * model that babbles bytes would fill it: beyond HOLD_BYTES only an incomplete character at the end is kept.
 *
 * stops: one automaton a stop string (Knuth, Morris, Pratt 1977). The text held is the longest suffix that begins a
 * stop string, so it is a copy of that stop string's first bytes and needs no memory of its own. The stop that is
 * complete first, byte by byte, ends the answer, whatever the tokens' bounds; of two complete at once the longer. */
#define HOLD_BYTES 64

struct automaton {
    uint32_t state; /* bytes matched */
    uint32_t *fall; /* fall[i]: the longest proper border of the first i bytes, i = 1 .. len */
};

struct sk_detok {
    const struct sk_vocab *v;
    struct sk_stop stop;
    bool skip_special;
    bool first;                 /* no token yet */
    bool in_run;                /* pend holds byte-fallback tokens */
    uint32_t n_strip;           /* spaces still to drop at the start of the text */
    int matched;                /* index of the stop string, -1 = none */
    uint32_t held, held_by;     /* bytes held by the stops; whose first bytes they are */
    struct automaton *automata; /* one a stop string */
    uint32_t n_pend;
    char pend[]; /* HOLD_BYTES + the longest token */
};

static void fill_falls(const char *s, uint32_t len, uint32_t *fall)
{
    fall[0] = fall[1] = 0;
    for (uint32_t i = 1, k = 0; i < len; i++) {
        while (k && s[i] != s[k])
            k = fall[k];
        k += s[i] == s[k];
        fall[i + 1] = k;
    }
}

int sk_detok_new(const struct sk_vocab *v, const struct sk_stop *stop, bool skip_special, struct sk_detok **ret)
{
    struct sk_detok *d = sk_calloc(1, sizeof *d + HOLD_BYTES + v->max_token_bytes);
    if (!d)
        return -SK_ENOMEM;
    d->v = v;
    d->skip_special = skip_special;
    d->first = true;
    d->n_strip = v->head->strip_start;
    d->matched = -1;
    if (stop && stop->n) {
        d->stop = *stop;
        size_t n_fall = 0;
        for (uint32_t i = 0; i < stop->n; i++)
            n_fall += (size_t)stop->len[i] + 1;
        d->automata = sk_malloc(stop->n * sizeof *d->automata + n_fall * sizeof(uint32_t));
        if (!d->automata) {
            sk_free(d);
            return -SK_ENOMEM;
        }
        uint32_t *fall = (uint32_t *)(d->automata + stop->n);
        for (uint32_t i = 0; i < stop->n; i++) {
            d->automata[i] = (struct automaton){.fall = fall};
            fill_falls(stop->str[i], stop->len[i], fall);
            fall += stop->len[i] + 1;
        }
    }
    *ret = d;
    return 0;
}

void sk_detok_free(struct sk_detok *d)
{
    if (!d)
        return;
    sk_free(d->automata);
    sk_free(d);
}

int sk_detok_stop(const struct sk_detok *d)
{
    return d->matched;
}

/* Does the token have a text? A row of the embedding that pads it has none. */
static bool is_text(const struct sk_detok *d, int32_t id)
{
    return id >= 0 && (uint32_t)id < d->v->n_word && !(d->skip_special && (d->v->words[id].flags & SK_TOK_SPECIAL));
}

void sk_detok_follow(struct sk_detok *d, int32_t id)
{
    if (is_text(d, id)) {
        d->first = false;
        d->n_strip = 0;
    }
}

/* The first n bytes of the text held and the byte after it. */
static int emit_held(const struct sk_detok *d, uint32_t n, char c, struct sk_buf *out)
{
    uint32_t from_held = n < d->held ? n : d->held;
    int rc = from_held ? sk_buf_add(out, d->stop.str[d->held_by], from_held) : 0;
    return rc == 0 && n > d->held ? sk_buf_char(out, c) : rc;
}

/* One byte past the stops. 1 = a stop string is complete. */
static int feed_byte(struct sk_detok *d, char c, bool check, struct sk_buf *out)
{
    uint32_t held = 0, held_by = 0, n_text = d->held + 1;
    int complete = -1;
    for (uint32_t i = 0; i < d->stop.n; i++) {
        struct automaton *a = &d->automata[i];
        const char *s = d->stop.str[i];
        while (a->state && s[a->state] != c)
            a->state = a->fall[a->state];
        a->state += s[a->state] == c;
        if (a->state == d->stop.len[i]) {
            if (check && (complete < 0 || d->stop.len[i] > d->stop.len[complete]))
                complete = (int)i;
            a->state = a->fall[a->state];
        }
        if (a->state > held) {
            held = a->state;
            held_by = i;
        }
    }
    if (complete >= 0) {
        int rc = emit_held(d, n_text - d->stop.len[complete], c, out);
        if (rc == 0 && d->stop.include)
            rc = sk_buf_add(out, d->stop.str[complete], d->stop.len[complete]);
        d->matched = complete;
        return rc ? rc : 1;
    }
    int rc = emit_held(d, n_text - held, c, out);
    d->held = held;
    d->held_by = held_by;
    return rc;
}

/* Whole characters of the text. */
static int feed(struct sk_detok *d, const char *s, size_t n, bool check, struct sk_buf *out)
{
    for (; d->n_strip && n && *s == ' '; d->n_strip--, s++)
        n--;
    if (n)
        d->n_strip = 0;
    if (d->stop.n == 0)
        return sk_buf_add(out, s, n);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = feed_byte(d, s[i], check, out);
    return rc;
}

/* The first n bytes of pend become text. A run of byte tokens is one string, or each byte is a U+FFFD (see
 * sk_token_decode). */
static int settle(struct sk_detok *d, uint32_t n, bool check, struct sk_buf *out)
{
    bool spoilt = d->in_run && !sk_utf8_valid(d->pend, n);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n;) {
        uint32_t cp;
        int k = spoilt ? -1 : sk_utf8_next(d->pend + i, n - i, &cp);
        if (k > 0)
            rc = feed(d, d->pend + i, (size_t)k, check, out);
        else
            rc = feed(d, SK_DECODE_REPLACEMENT, sizeof SK_DECODE_REPLACEMENT - 1, check, out);
        i += (uint32_t)(k > 0 ? k : -k);
    }
    d->n_pend -= n;
    memmove(d->pend, d->pend + n, d->n_pend);
    return rc;
}

/* Does pend end in a whole character (a run of byte tokens: is it whole)? */
static bool is_whole(const struct sk_detok *d)
{
    if (d->in_run)
        return sk_utf8_valid(d->pend, d->n_pend);
    int k = 1;
    for (uint32_t i = 0; i < d->n_pend; i += (uint32_t)(k > 0 ? k : -k)) {
        uint32_t cp;
        k = sk_utf8_next(d->pend + i, d->n_pend - i, &cp);
    }
    return k > 0;
}

int sk_detok_push(struct sk_detok *d, int32_t id, bool check_stop, struct sk_buf *out)
{
    if (d->matched >= 0)
        return 1;
    if (!is_text(d, id))
        return 0;
    const struct sk_vocab_word *w = &d->v->words[id];
    bool is_byte = w->flags & SK_TOK_BYTE;
    if (d->in_run != is_byte && d->n_pend) {
        int rc = settle(d, d->n_pend, check_stop, out);
        if (rc)
            return rc;
    }
    d->in_run = is_byte;
    uint32_t from = d->first ? (uint32_t)sk_decode_leading(d->v, w) : 0;
    memcpy(d->pend + d->n_pend, sk_vocab_at(d->v, w->bytes) + from, w->bytes.n - from);
    d->n_pend += w->bytes.n - from;
    d->first = false;

    uint32_t n = d->n_pend;
    if (!is_whole(d))
        n = n > HOLD_BYTES ? n - (uint32_t)sk_utf8_partial(d->pend, n) : 0;
    return n ? settle(d, n, check_stop, out) : 0;
}

int sk_detok_flush(struct sk_detok *d, struct sk_buf *out)
{
    if (d->matched >= 0)
        return 0;
    int rc = settle(d, d->n_pend, false, out);
    if (rc == 0)
        rc = emit_held(d, d->held, 0, out);
    d->held = 0;
    for (uint32_t i = 0; i < d->stop.n; i++)
        d->automata[i].state = 0;
    return rc;
}
