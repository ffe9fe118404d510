/* Prompt lookup: where did the last tokens of a text stand in it before, and what followed them there? That is a draft
 * of what comes next: right where an answer repeats its prompt (code that is edited, a text that is summarised, a list
 * that is copied) or itself. Needs tokens only, of this sequence only.
 *
 * The index maps each n-gram to the position after its latest occurrence, one table for each n. A table is direct-
 * mapped: of two n-grams in one place the later stays, and what is found is compared with the text, so that a
 * collision costs a draft and never gives a wrong one. O(1) for each token of the text, whatever the text.
 *
 * The idea is Saxena's prompt lookup decoding (2023); drafts that are verified without changing what is drawn are from
 * Leviathan et al., ICML 2023. */
#ifndef SK_LOOKUP_H
#define SK_LOOKUP_H
#include <stddef.h>
#include <stdint.h>

enum {
    SK_LOOKUP_MIN_NGRAM = 2,
    SK_LOOKUP_MAX_NGRAM = 4,
    SK_LOOKUP_N_TABLE = SK_LOOKUP_MAX_NGRAM - SK_LOOKUP_MIN_NGRAM + 1,
    SK_LOOKUP_MAX_ENTRY = 1 << 14, /* of one table */
    SK_LOOKUP_MAX_BYTES = 64 << 20 /* of all sequences: many have smaller tables, which forget sooner */
};

struct sk_lookup {
    uint32_t *table;    /* borrowed, [SK_LOOKUP_N_TABLE][n_entry]; 0 = nothing */
    uint32_t n_entry;   /* a power of two */
    uint32_t n_tok;     /* tokens of the text that are in the index */
    uint32_t from, end; /* the last draft was what stands at `from`, for a text of `end` tokens; from 0: none */
};

/* Entries of a table where max_seqs texts of up to max_len tokens are indexed at once. */
uint32_t sk_lookup_entries(uint32_t max_len, uint32_t max_seqs);
static inline size_t sk_lookup_words(uint32_t n_entry)
{
    return (size_t)SK_LOOKUP_N_TABLE * n_entry;
}

/* Begins a text of at most max_tok tokens, in sk_lookup_words(n_entry) words that may hold anything. */
void sk_lookup_begin(struct sk_lookup *x, uint32_t *words, uint32_t n_entry, uint32_t max_tok);
/* The text is tok[0 .. n_tok), which has only grown since the last call: up to `max` tokens that may follow it, in
 * ret[0..). Returns their number: 0 where the last n_match tokens (SK_LOOKUP_MIN_NGRAM .. SK_LOOKUP_MAX_NGRAM) are new.
 * A longer match is preferred to a shorter one, then a later one to an earlier. */
uint32_t sk_lookup_draft(struct sk_lookup *x, const int32_t *tok, uint32_t n_tok, uint32_t n_match, uint32_t max,
                         int32_t *ret);

#endif
