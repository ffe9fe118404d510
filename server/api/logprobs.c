#include "server/api/logprobs.h"

#include <math.h>
#include <string.h>
#include "comm/base/json.h"

enum { MAX_ITEMS_BYTES = 512 << 20, MAX_SHOWN = 32 };
enum { ITEM_HIDDEN = 1 << 15 }; /* our own flag besides the wire's: the token has no part in the text */

void sk_logprobs_init(struct sk_logprobs *l)
{
    sk_buf_init(&l->items, MAX_ITEMS_BYTES);
    l->n = 0;
}

void sk_logprobs_done(struct sk_logprobs *l)
{
    sk_buf_done(&l->items);
    l->n = 0;
}

void sk_logprobs_clear(struct sk_logprobs *l)
{
    sk_buf_clear(&l->items);
    l->n = 0;
}

int sk_logprobs_add(struct sk_logprobs *l, const struct sk_wire_item *it)
{
    int rc = sk_buf_add(&l->items, it, sizeof *it + it->n_top * sizeof(struct sk_wire_top));
    l->n += rc == 0;
    return rc;
}

int sk_logprobs_add_bare(struct sk_logprobs *l, int32_t id, bool hidden)
{
    const struct sk_wire_item it = {
        .id = id, .logprob = NAN, .flags = (uint16_t)(SK_ITEM_PROMPT | (hidden ? ITEM_HIDDEN : 0))};
    return sk_logprobs_add(l, &it);
}

static const struct sk_wire_item *first(const struct sk_logprobs *l)
{
    return (const struct sk_wire_item *)l->items.p;
}

static uint32_t n_shown(const struct sk_wire_item *it, const struct sk_logprobs_style *st)
{
    uint32_t n = st->n_top < 0 ? 0 : (uint32_t)st->n_top;
    return it->n_top < n ? it->n_top : n;
}

/* Ids beyond the vocabulary are rows that pad the embedding: they have no text. */
static const char *text_of(const struct sk_logprobs_style *st, int32_t id, size_t *ret_n)
{
    *ret_n = 0;
    return id >= 0 && (uint32_t)id < sk_vocab_size(st->vocab) ? sk_vocab_bytes(st->vocab, (uint32_t)id, ret_n) : "";
}

static void put_token(struct sk_buf *b, const struct sk_logprobs_style *st, int32_t id)
{
    size_t n;
    const char *s = text_of(st, id, &n);
    if (st->as_ids)
        sk_buf_fmt(b, "\"token_id:%d\"", id);
    else
        sk_json_quote(b, s, n);
}

static void put_logprob(struct sk_buf *b, float x)
{
    if (isnan(x))
        sk_buf_str(b, "null");
    else
        sk_json_put_float(b, x);
}

/* "token": .., "logprob": .., "bytes": [..] */
static void put_chat_token(struct sk_buf *b, const struct sk_logprobs_style *st, int32_t id, float logprob)
{
    size_t n;
    const char *s = text_of(st, id, &n);
    sk_buf_str(b, "\"token\":");
    put_token(b, st, id);
    sk_buf_str(b, ",\"logprob\":");
    put_logprob(b, logprob);
    sk_buf_str(b, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        sk_buf_fmt(b, "%s%u", i ? "," : "", (unsigned char)s[i]);
    sk_buf_char(b, ']');
}

void sk_logprobs_put_chat(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st)
{
    const struct sk_wire_item *it = first(l);
    sk_buf_str(b, "{\"content\":[");
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        const struct sk_wire_top *top = sk_wire_item_top(it);
        sk_buf_str(b, i ? ",{" : "{");
        put_chat_token(b, st, it->id, it->logprob);
        sk_buf_str(b, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < n_shown(it, st); k++) {
            sk_buf_str(b, k ? ",{" : "{");
            put_chat_token(b, st, top[k].id, top[k].logprob);
            sk_buf_char(b, '}');
        }
        sk_buf_str(b, "]}");
    }
    sk_buf_str(b, "],\"refusal\":null}");
}

/* One member of a position's object. Two ids may have the same text (parts of characters do): the more probable one
 * stands for both, because a key that occurs twice is read differently by different clients. */
static void put_member(struct sk_buf *b, const struct sk_logprobs_style *st, int32_t id, float logprob,
                       size_t keys_at[], uint32_t *n_key)
{
    size_t at = b->n;
    sk_buf_str(b, *n_key ? "," : "");
    size_t key_at = b->n;
    put_token(b, st, id);
    sk_buf_char(b, ':');
    if (b->failed)
        return;
    size_t n = b->n - key_at;
    for (uint32_t i = 0; i < *n_key; i++) {
        if (keys_at[i] + n <= key_at && memcmp(b->p + keys_at[i], b->p + key_at, n) == 0) {
            b->n = at;
            b->p[at] = '\0';
            return;
        }
    }
    keys_at[(*n_key)++] = key_at;
    put_logprob(b, logprob);
}

/* {"token": logprob}: the token itself, then the most probable ones. */
static void put_position(struct sk_buf *b, const struct sk_logprobs_style *st, const struct sk_wire_item *it)
{
    const struct sk_wire_top *top = sk_wire_item_top(it);
    size_t keys_at[MAX_SHOWN + 1];
    uint32_t n_key = 0, n = n_shown(it, st);
    if (isnan(it->logprob)) {
        sk_buf_str(b, "null");
        return;
    }
    sk_buf_char(b, '{');
    put_member(b, st, it->id, it->logprob, keys_at, &n_key);
    for (uint32_t k = 0; k < n && k < MAX_SHOWN; k++)
        put_member(b, st, top[k].id, top[k].logprob, keys_at, &n_key);
    sk_buf_char(b, '}');
}

/* Characters that begin in s. */
static uint32_t n_char(const char *s, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

void sk_logprobs_put_legacy(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st,
                            uint32_t *offset)
{
    const struct sk_wire_item *it = first(l);
    sk_buf_str(b, "{\"tokens\":[");
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        sk_buf_str(b, i ? "," : "");
        put_token(b, st, it->id);
    }
    it = first(l);
    sk_buf_str(b, "],\"token_logprobs\":[");
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        sk_buf_str(b, i ? "," : "");
        put_logprob(b, it->logprob);
    }
    it = first(l);
    sk_buf_str(b, "],\"top_logprobs\":[");
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        sk_buf_str(b, i ? "," : "");
        put_position(b, st, it);
    }
    it = first(l);
    sk_buf_str(b, "],\"text_offset\":[");
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        size_t n;
        const char *s = text_of(st, it->id, &n);
        sk_buf_fmt(b, "%s%u", i ? "," : "", *offset);
        *offset += it->flags & ITEM_HIDDEN ? 0 : n_char(s, n);
    }
    sk_buf_str(b, "]}");
}

static void put_ranked(struct sk_buf *b, const struct sk_logprobs_style *st, int32_t id, float logprob, int32_t rank)
{
    size_t n;
    const char *s = text_of(st, id, &n);
    sk_buf_fmt(b, "\"%d\":{\"logprob\":", id);
    put_logprob(b, logprob);
    sk_buf_fmt(b, ",\"rank\":%d,\"decoded_token\":", rank);
    sk_json_quote(b, s, n);
    sk_buf_char(b, '}');
}

void sk_logprobs_put_prompt(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st)
{
    const struct sk_wire_item *it = first(l);
    sk_buf_char(b, '[');
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        const struct sk_wire_top *top = sk_wire_item_top(it);
        sk_buf_str(b, i ? "," : "");
        if (isnan(it->logprob)) {
            sk_buf_str(b, "null");
            continue;
        }
        sk_buf_char(b, '{');
        put_ranked(b, st, it->id, it->logprob, it->rank);
        for (uint32_t k = 0; k < n_shown(it, st); k++) {
            if (top[k].id == it->id)
                continue;
            sk_buf_char(b, ',');
            put_ranked(b, st, top[k].id, top[k].logprob, (int32_t)k + 1);
        }
        sk_buf_char(b, '}');
    }
    sk_buf_char(b, ']');
}

void sk_logprobs_put_ids(struct sk_buf *b, const struct sk_logprobs *l)
{
    const struct sk_wire_item *it = first(l);
    bool any = false;
    sk_buf_char(b, '[');
    for (uint32_t i = 0; i < l->n; i++, it = sk_wire_item_next(it)) {
        if (it->flags & SK_ITEM_PROMPT)
            continue;
        sk_buf_str(b, any ? "," : "");
        sk_buf_int(b, it->id);
        any = true;
    }
    sk_buf_char(b, ']');
}
