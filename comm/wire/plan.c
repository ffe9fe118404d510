#include "comm/wire/plan.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

_Static_assert(sizeof(struct sk_plan_head) == 32 && sizeof(struct sk_plan_open) == 136 &&
                   sizeof(struct sk_plan_run) == 32 && sizeof(struct sk_plan_append) == 24 &&
                   sizeof(struct sk_plan_tok) == 24 && sizeof(struct sk_plan_drop) == 24 &&
                   sizeof(struct sk_plan_trim) == 16 && sizeof(struct sk_plan_close) == 16,
               "no padding: these are bytes on a wire, and every record is a multiple of 8");

enum { RUN_FLAGS = SK_RUN_SAMPLE | SK_RUN_PROMPT_LOGPROBS | SK_RUN_MIN_TOKENS };

static size_t padded(size_t n_word)
{
    return (n_word * sizeof(int32_t) + 7) & ~(size_t)7;
}

/* ---- writing ---- */

void sk_plan_begin(struct sk_buf *b, uint64_t step)
{
    struct sk_plan_head head = {.magic = SK_PLAN_MAGIC, .version = SK_PLAN_VERSION, .step = step};
    sk_buf_clear(b);
    sk_buf_add(b, &head, sizeof head);
}

/* Adds a record of `size` bytes and its words; its kind and length are filled in here, zeros pad it. */
static void put(struct sk_buf *b, enum sk_plan_kind kind, void *rec, size_t size, const int32_t *word, size_t n_word)
{
    static const char zeros[8];
    size_t bytes = n_word * sizeof(int32_t), pad = padded(n_word) - bytes;
    if (sk_buf_reserve(b, size + bytes + pad))
        return;
    struct sk_plan_rec head = {.kind = (uint16_t)kind, .bytes = (uint32_t)(size + bytes + pad)};
    memcpy(rec, &head, sizeof head);
    sk_buf_add(b, rec, size);
    if (bytes)
        sk_buf_add(b, word, bytes);
    sk_buf_add(b, zeros, pad);
    struct sk_plan_head *plan = (struct sk_plan_head *)b->p;
    plan->n_rec++;
}

void sk_plan_put_open(struct sk_buf *b, const struct sk_plan_open *o, const int32_t *list)
{
    struct sk_plan_open rec = *o;
    put(b, SK_PLAN_OPEN, &rec, sizeof rec, list, o->n_list);
}

void sk_plan_put_append(struct sk_buf *b, uint32_t slot, uint32_t group, const int32_t *blk, uint32_t n)
{
    struct sk_plan_append rec = {.slot = slot, .group = group, .n = n};
    put(b, SK_PLAN_APPEND, &rec, sizeof rec, blk, n);
}

void sk_plan_put_drop(struct sk_buf *b, uint32_t slot, uint32_t group, uint32_t n)
{
    struct sk_plan_drop rec = {.slot = slot, .group = group, .n = n};
    put(b, SK_PLAN_DROP, &rec, sizeof rec, NULL, 0);
}

void sk_plan_put_tok(struct sk_buf *b, uint32_t slot, uint32_t pos, const int32_t *ids, uint32_t n)
{
    struct sk_plan_tok rec = {.slot = slot, .pos = pos, .n = n};
    put(b, SK_PLAN_TOK, &rec, sizeof rec, ids, n);
}

void sk_plan_put_run(struct sk_buf *b, uint32_t slot, uint32_t pos, uint32_t n, uint32_t want, uint32_t n_draft)
{
    struct sk_plan_run rec = {.slot = slot, .pos = pos, .n = n, .want = want, .n_draft = n_draft};
    put(b, SK_PLAN_RUN, &rec, sizeof rec, NULL, 0);
}

void sk_plan_put_trim(struct sk_buf *b, uint32_t slot, uint32_t pos)
{
    struct sk_plan_trim rec = {.slot = slot, .pos = pos};
    put(b, SK_PLAN_TRIM, &rec, sizeof rec, NULL, 0);
}

void sk_plan_put_close(struct sk_buf *b, uint32_t slot)
{
    struct sk_plan_close rec = {.slot = slot};
    put(b, SK_PLAN_CLOSE, &rec, sizeof rec, NULL, 0);
}

int sk_plan_end(struct sk_buf *b, uint32_t n_row, uint32_t n_result)
{
    if (b->failed)
        return b->failed;
    if (b->n > UINT32_MAX)
        return -SK_ETOOBIG;
    struct sk_plan_head *head = (struct sk_plan_head *)b->p;
    head->bytes = (uint32_t)b->n;
    head->n_row = n_row;
    head->n_result = n_result;
    return 0;
}

/* ---- reading ---- */

/* Bytes of a record before its words; 0 = no such kind. */
static size_t fixed_bytes(uint16_t kind)
{
    static const uint8_t size[SK_PLAN_KIND_COUNT] = {
        [SK_PLAN_OPEN] = sizeof(struct sk_plan_open),   [SK_PLAN_APPEND] = sizeof(struct sk_plan_append),
        [SK_PLAN_DROP] = sizeof(struct sk_plan_drop),   [SK_PLAN_TOK] = sizeof(struct sk_plan_tok),
        [SK_PLAN_RUN] = sizeof(struct sk_plan_run),     [SK_PLAN_TRIM] = sizeof(struct sk_plan_trim),
        [SK_PLAN_CLOSE] = sizeof(struct sk_plan_close),
    };
    return kind < SK_PLAN_KIND_COUNT ? size[kind] : 0;
}

static bool words_fit(const struct sk_plan_rec *r, uint32_t n_word)
{
    return r->bytes == fixed_bytes(r->kind) + padded(n_word);
}

static bool words_in(const int32_t *word, uint32_t n, uint32_t end)
{
    for (uint32_t i = 0; i < n; i++)
        if (word[i] < 0 || (uint32_t)word[i] >= end)
            return false;
    return true;
}

/* Each says what is wrong, or NULL. The slot's number and the record's fixed part are checked before. */

static const char *check_open(const struct sk_plan_open *o, const struct sk_plan_limits *lim)
{
    if (o->n_list > SK_MAX_LIST || !words_fit(&o->rec, o->n_list))
        return "list does not fit the record";
    if (o->n_prompt < 1 || o->n_prompt > lim->max_len)
        return "prompt length out of range";
    return sk_params_check(&o->params, (const int32_t *)(o + 1), o->n_list, lim->n_vocab) ? "parameters out of range"
                                                                                          : NULL;
}

static const char *check_append(const struct sk_plan_append *a, const struct sk_plan_limits *lim)
{
    if (a->group >= lim->n_group || a->zero)
        return "no such group";
    if (a->n < 1 || a->n > lim->max_len || !words_fit(&a->rec, a->n))
        return "blocks do not fit the record";
    return words_in((const int32_t *)(a + 1), a->n, lim->n_blk[a->group]) ? NULL : "block number out of range";
}

static const char *check_drop(const struct sk_plan_drop *d, const struct sk_plan_limits *lim)
{
    if (d->group >= lim->n_group || d->zero)
        return "no such group";
    return d->n < 1 || d->n > lim->max_len ? "block count out of range" : NULL;
}

static const char *check_tok(const struct sk_plan_tok *t, const struct sk_plan_limits *lim)
{
    if (t->zero || t->n < 1 || t->n > lim->max_len || !words_fit(&t->rec, t->n))
        return "tokens do not fit the record";
    if (t->pos > lim->max_len - t->n)
        return "position past the longest sequence";
    return words_in((const int32_t *)(t + 1), t->n, lim->n_vocab) ? NULL : "token id out of range";
}

static const char *check_run(const struct sk_plan_run *r, const struct sk_plan_limits *lim)
{
    if (r->want & ~(uint32_t)RUN_FLAGS)
        return "unknown want flag";
    if (r->zero || (r->n_draft > 0 && (r->n_draft >= r->n || !(r->want & SK_RUN_SAMPLE))))
        return "drafts that no row draws after";
    uint32_t room = r->want & SK_RUN_SAMPLE ? 1 : 0; /* for the token that is drawn */
    if (r->n < 1 || r->n > lim->max_len || r->pos > lim->max_len - r->n || room > lim->max_len - r->n - r->pos)
        return "position past the longest sequence";
    return NULL;
}

static const char *check_trim(const struct sk_plan_trim *t, const struct sk_plan_limits *lim)
{
    return t->pos > lim->max_len ? "position past the longest sequence" : NULL;
}

static const char *check_rec(const struct sk_plan_rec *r, const struct sk_plan_limits *lim)
{
    uint32_t slot;
    memcpy(&slot, r + 1, sizeof slot); /* the first member of every record's body */
    if (slot >= lim->max_slot)
        return "no such slot";
    switch (r->kind) {
    case SK_PLAN_OPEN:
        return check_open((const struct sk_plan_open *)r, lim);
    case SK_PLAN_APPEND:
        return check_append((const struct sk_plan_append *)r, lim);
    case SK_PLAN_DROP:
        return check_drop((const struct sk_plan_drop *)r, lim);
    case SK_PLAN_TOK:
        return check_tok((const struct sk_plan_tok *)r, lim);
    case SK_PLAN_RUN:
        return check_run((const struct sk_plan_run *)r, lim);
    case SK_PLAN_TRIM:
        return check_trim((const struct sk_plan_trim *)r, lim);
    default: /* SK_PLAN_CLOSE: kinds are checked */
        return ((const struct sk_plan_close *)r)->zero ? "unknown close flag" : NULL;
    }
}

static const char *check_head(const struct sk_plan_head *h, size_t n, const struct sk_plan_limits *lim)
{
    if (h->magic != SK_PLAN_MAGIC || h->version != SK_PLAN_VERSION)
        return "not a plan of this version";
    if (h->bytes != n)
        return "length differs from what its head says";
    if (h->n_row > lim->max_row || h->n_result > lim->max_result)
        return "more rows than a step may have";
    return NULL;
}

/* What frees comes before what takes, runs come last: a slot or block given back by one record may be given out by a
 * later one. */
static bool in_order(uint16_t kind, bool seen_open, bool seen_run)
{
    bool frees = kind == SK_PLAN_CLOSE || kind == SK_PLAN_TRIM || kind == SK_PLAN_DROP;
    return kind == SK_PLAN_RUN || (!seen_run && !(frees && seen_open));
}

int sk_plan_check(const void *p, size_t n, const struct sk_plan_limits *lim, struct sk_err *err)
{
    const struct sk_plan_head *head = p;
    if (n < sizeof *head || (uintptr_t)p % 8)
        return sk_err_set(err, SK_EPROTO, NULL, "plan of %zu bytes is too short or not aligned", n);
    const char *wrong = check_head(head, n, lim);
    if (wrong)
        return sk_err_set(err, SK_EPROTO, NULL, "plan: %s", wrong);

    uint64_t n_row = 0;
    size_t at = sizeof *head;
    bool seen_open = false, seen_run = false;
    for (uint32_t i = 0; i < head->n_rec; i++) {
        const struct sk_plan_rec *r = (const struct sk_plan_rec *)((const char *)p + at);
        if (n - at < sizeof *r || fixed_bytes(r->kind) == 0 || r->zero || r->bytes < fixed_bytes(r->kind) ||
            r->bytes > n - at || r->bytes % 8)
            return sk_err_set(err, SK_EPROTO, NULL, "plan %" PRIu64 ": record %u is malformed", head->step, i);
        wrong = in_order(r->kind, seen_open, seen_run) ? check_rec(r, lim) : "out of order";
        if (wrong)
            return sk_err_set(err, SK_EPROTO, NULL, "plan %" PRIu64 ": record %u (kind %u): %s", head->step, i, r->kind,
                              wrong);
        seen_open |= r->kind == SK_PLAN_OPEN;
        if (r->kind == SK_PLAN_RUN) {
            seen_run = true;
            n_row += ((const struct sk_plan_run *)r)->n;
        }
        at += r->bytes;
    }
    if (at != n)
        return sk_err_set(err, SK_EPROTO, NULL, "plan %" PRIu64 ": %zu bytes after the last record", head->step,
                          n - at);
    if (n_row != head->n_row)
        return sk_err_set(err, SK_EPROTO, NULL, "plan %" PRIu64 ": %" PRIu64 " rows run, its head says %u", head->step,
                          n_row, head->n_row);
    return 0;
}

const struct sk_plan_rec *sk_plan_first(const void *p)
{
    const struct sk_plan_head *head = p;
    return head->n_rec ? (const struct sk_plan_rec *)(head + 1) : NULL;
}

const struct sk_plan_rec *sk_plan_next(const void *p, const struct sk_plan_rec *r)
{
    const char *end = (const char *)p + ((const struct sk_plan_head *)p)->bytes, *next = (const char *)r + r->bytes;
    return next < end ? (const struct sk_plan_rec *)next : NULL;
}

/* ---- dumping ---- */

static void dump_words(struct sk_buf *b, const char *what, const void *word, uint32_t n)
{
    const int32_t *w = word;
    sk_buf_fmt(b, " %s", what);
    for (uint32_t i = 0; i < n; i++)
        sk_buf_fmt(b, "%c%d", i ? ',' : '=', w[i]);
}

static void dump_open(struct sk_buf *b, const struct sk_plan_open *o)
{
    const struct sk_params *p = &o->params;
    sk_buf_fmt(b,
               "open slot=%u seq=%" PRIu64 " n_prompt=%u choice=%u seed=%" PRIu64 " salt=%" PRIu64
               " flags=%u max_tokens=%u"
               " min_tokens=%u logprobs=%d prompt_logprobs=%d",
               o->slot, o->seq, o->n_prompt, o->choice, p->seed, p->salt, p->flags, p->max_tokens, p->min_tokens,
               p->n_logprobs, p->n_prompt_logprobs);
    sk_buf_fmt(b,
               " temperature=%g top_k=%d top_p=%g min_p=%g typical_p=%g eta=%g epsilon=%g repetition=%g presence=%g "
               "frequency=%g"
               " ngram=%d stop=%u bias=%u allowed=%u bad=%u",
               (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p, (double)p->typical_p,
               (double)p->eta_cutoff, (double)p->epsilon_cutoff, (double)p->repetition_penalty,
               (double)p->presence_penalty, (double)p->frequency_penalty, p->no_repeat_ngram, p->n_stop_ids, p->n_bias,
               p->n_allowed, p->n_bad_word);
    if (o->n_list)
        dump_words(b, "list", o + 1, o->n_list);
}

static void dump_rec(struct sk_buf *b, const struct sk_plan_rec *r)
{
    const struct sk_plan_append *append = (const void *)r;
    const struct sk_plan_drop *drop = (const void *)r;
    const struct sk_plan_tok *tok = (const void *)r;
    const struct sk_plan_run *run = (const void *)r;
    const struct sk_plan_trim *trim = (const void *)r;
    const struct sk_plan_close *close = (const void *)r;

    switch (r->kind) {
    case SK_PLAN_OPEN:
        dump_open(b, (const void *)r);
        break;
    case SK_PLAN_APPEND:
        sk_buf_fmt(b, "append slot=%u group=%u", append->slot, append->group);
        dump_words(b, "blk", append + 1, append->n);
        break;
    case SK_PLAN_DROP:
        sk_buf_fmt(b, "drop slot=%u group=%u n=%u", drop->slot, drop->group, drop->n);
        break;
    case SK_PLAN_TOK:
        sk_buf_fmt(b, "tok slot=%u pos=%u", tok->slot, tok->pos);
        dump_words(b, "id", tok + 1, tok->n);
        break;
    case SK_PLAN_RUN:
        sk_buf_fmt(b, "run slot=%u pos=%u n=%u%s%s%s", run->slot, run->pos, run->n,
                   run->want & SK_RUN_SAMPLE ? " sample" : "",
                   run->want & SK_RUN_PROMPT_LOGPROBS ? " prompt-logprobs" : "",
                   run->want & SK_RUN_MIN_TOKENS ? " min-tokens" : "");
        if (run->n_draft > 0)
            sk_buf_fmt(b, " drafts=%u", run->n_draft);
        break;
    case SK_PLAN_TRIM:
        sk_buf_fmt(b, "trim slot=%u pos=%u", trim->slot, trim->pos);
        break;
    default: /* SK_PLAN_CLOSE */
        sk_buf_fmt(b, "close slot=%u", close->slot);
        break;
    }
    sk_buf_char(b, '\n');
}

int sk_plan_dump(const void *p, struct sk_buf *b)
{
    const struct sk_plan_head *head = p;
    sk_buf_fmt(b, "plan step=%" PRIu64 " rows=%u results=%u\n", head->step, head->n_row, head->n_result);
    for (const struct sk_plan_rec *r = sk_plan_first(p); r; r = sk_plan_next(p, r))
        dump_rec(b, r);
    return b->failed;
}
