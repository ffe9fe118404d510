#include "engine/batch/lookup.h"

#include <stdbool.h>
#include <string.h>

uint32_t sk_lookup_entries(uint32_t max_len, uint32_t max_seqs)
{
    uint32_t n = 1;
    while (n < max_len && n < SK_LOOKUP_MAX_ENTRY)
        n *= 2;
    while (n > 1 && sk_lookup_words(n) * sizeof(uint32_t) * max_seqs > SK_LOOKUP_MAX_BYTES)
        n /= 2;
    return n;
}

/* A short text takes a part of the words: fewer to clear, and they stay in the cache. */
void sk_lookup_begin(struct sk_lookup *x, uint32_t *words, uint32_t n_entry, uint32_t max_tok)
{
    uint32_t n = 1;
    while (n < n_entry && n < max_tok)
        n *= 2;
    *x = (struct sk_lookup){.table = words, .n_entry = n};
}

/* Where the n-grams that end before `end` have their entries: from the shortest on, each hash goes on from the one
 * before. */
static void find_entries(const struct sk_lookup *x, const int32_t *end, uint32_t *ret[SK_LOOKUP_N_TABLE])
{
    uint64_t h = 0;
    for (int n = 1; n <= SK_LOOKUP_MAX_NGRAM; n++) {
        h = (h ^ (uint32_t)end[-n]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
        if (n >= SK_LOOKUP_MIN_NGRAM)
            ret[n - SK_LOOKUP_MIN_NGRAM] =
                x->table + (size_t)(n - SK_LOOKUP_MIN_NGRAM) * x->n_entry + (h & (x->n_entry - 1));
    }
}

/* An n-gram is entered when the token after it is there, so that the text's end never finds itself. Those among the
 * first SK_LOOKUP_MAX_NGRAM tokens are left out. */
static void index_text(struct sk_lookup *x, const int32_t *tok, uint32_t n_tok)
{
    if (x->n_tok == 0) {
        memset(x->table, 0, sk_lookup_words(x->n_entry) * sizeof *x->table);
        x->n_tok = SK_LOOKUP_MAX_NGRAM;
    }
    for (; x->n_tok < n_tok; x->n_tok++) {
        uint32_t *entry[SK_LOOKUP_N_TABLE];
        find_entries(x, tok + x->n_tok, entry);
        for (int i = 0; i < SK_LOOKUP_N_TABLE; i++)
            *entry[i] = x->n_tok;
    }
}

static uint32_t find(const struct sk_lookup *x, const int32_t *tok, uint32_t n_tok, uint32_t n_match)
{
    uint32_t *entry[SK_LOOKUP_N_TABLE];
    find_entries(x, tok + n_tok, entry);
    for (uint32_t n = SK_LOOKUP_MAX_NGRAM; n >= n_match; n--) {
        uint32_t at = *entry[n - SK_LOOKUP_MIN_NGRAM];
        if (at && memcmp(tok + at - n, tok + n_tok - n, n * sizeof *tok) == 0)
            return at;
    }
    return 0;
}

/* Has the text gone on as the last draft's place does? Then that match is longer than any that the tables know. */
static bool goes_on(const struct sk_lookup *x, const int32_t *tok, uint32_t n_tok)
{
    return x->from && memcmp(tok + x->from, tok + x->end, (n_tok - x->end) * sizeof *tok) == 0;
}

uint32_t sk_lookup_draft(struct sk_lookup *x, const int32_t *tok, uint32_t n_tok, uint32_t n_match, uint32_t max,
                         int32_t *ret)
{
    if (n_tok < SK_LOOKUP_MAX_NGRAM)
        return 0;
    index_text(x, tok, n_tok);
    x->from = goes_on(x, tok, n_tok) ? x->from + n_tok - x->end : find(x, tok, n_tok, n_match);
    x->end = n_tok;
    if (!x->from)
        return 0;
    /* past the text's end it is the draft that goes on: what repeats itself is drafted at any length */
    for (uint32_t i = 0; i < max; i++)
        ret[i] = x->from + i < n_tok ? tok[x->from + i] : ret[x->from + i - n_tok];
    return max;
}
