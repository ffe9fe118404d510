#include "kernels/ref/sample.h"

#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

static float float_of(int32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The place of an id in the row; row->n or more if it has none. */
static uint32_t place(const struct sk_logits_span *row, int32_t id)
{
    return (uint32_t)id - row->first;
}

static void bar(const struct sk_logits_span *row, int32_t id)
{
    const uint32_t at = place(row, id);
    if (at < row->n)
        row->x[at] = -INFINITY;
}

static void add_bias(const struct sk_logits_span *row, int32_t id, float value)
{
    const uint32_t at = place(row, id);
    if (at < row->n)
        row->x[at] += value;
}

/* All but the allowed ids become -Inf. */
static void allow_only(const struct sk_logits_span *row, const int32_t *allowed, uint32_t n, uint32_t *count)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = place(row, allowed[i]);
        if (at < row->n)
            count[at] = 1;
    }
    for (uint32_t i = 0; i < row->n; i++) {
        row->x[i] = count[i] != 0 ? row->x[i] : -INFINITY;
        count[i] = 0;
    }
}

/* Bars the last id of each word whose other ids end the history. */
static void bar_words(const struct sk_logits_span *row, const int32_t *word, uint32_t n_word, const int32_t *token,
                      uint32_t n_token)
{
    for (; n_word > 0; n_word--) {
        uint32_t n = (uint32_t)*word++, n_before = n - 1;
        if (n_before <= n_token && memcmp(word, token + n_token - n_before, n_before * sizeof *word) == 0)
            bar(row, word[n_before]);
        word += n;
    }
}

/* count[place] is 0 for a token that is not in the history (or done with), else 1 + how often it was generated. */
static void penalise(const struct sk_samp *s, const int32_t *token, const struct sk_logits_span *row, uint32_t *count)
{
    for (uint32_t i = 0; i < s->pos; i++) {
        const uint32_t at = place(row, token[i]);
        if (at < row->n)
            count[at] = (count[at] != 0 ? count[at] : 1) + (i >= s->n_prompt);
    }
    for (uint32_t i = 0; i < s->pos; i++) {
        const uint32_t at = place(row, token[i]);
        if (at >= row->n)
            continue;
        uint32_t c = count[at];
        float *l = &row->x[at];
        count[at] = 0;
        if (c > 0)
            *l = *l < 0 ? *l * s->repetition_penalty : *l / s->repetition_penalty;
        if (c > 1)
            *l -= s->presence_penalty + s->frequency_penalty * (float)(c - 1);
    }
}

/* Bars what would repeat an n-gram of the history (Paulus et al., 2017). */
static void bar_ngrams(const struct sk_logits_span *row, const int32_t *token, uint32_t n_token, uint32_t n)
{
    if (n_token + 1 < n)
        return;
    const uint32_t n_before = n - 1;
    for (uint32_t i = 0; i + n <= n_token; i++) {
        if (memcmp(token + i, token + n_token - n_before, n_before * sizeof *token) == 0)
            bar(row, token[i + n_before]);
    }
}

void sk_logits_row(const struct sk_samp *s, const int32_t *list, const int32_t *token, const struct sk_logits_span *row,
                   uint32_t *count)
{
    const int32_t *suppress = list + s->list, *bias = suppress + s->n_suppress, *bias_value = bias + s->n_bias;
    const int32_t *allowed = bias_value + s->n_bias, *word = allowed + s->n_allowed;

    for (uint32_t i = 0; i < s->n_suppress; i++)
        bar(row, suppress[i]);
    if (s->n_allowed > 0)
        allow_only(row, allowed, s->n_allowed, count);
    bar_words(row, word, s->n_bad_word, token, s->pos);
    for (uint32_t i = 0; i < s->n_bias; i++)
        add_bias(row, bias[i], float_of(bias_value[i]));
    if (s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0)
        penalise(s, token, row, count);
    if (s->no_repeat_ngram > 0)
        bar_ngrams(row, token, s->pos, (uint32_t)s->no_repeat_ngram);
}

void sk_ref_logits_process(struct sk_backend *be, const struct sk_op_logits *op)
{
    const struct sk_samp *samp = sk_ref_ptr(op->samp);
    uint32_t *count = sk_ref_scratch(be, op->n_vocab * sizeof *count);
    if (count == NULL)
        return;
    memset(count, 0, op->n_vocab * sizeof *count);
    for (uint32_t r = 0; r < op->n_row; r++) {
        if (!(samp[r].flags & SK_SAMP_PROCESS))
            continue;
        float *row = (float *)sk_ref_ptr(op->work) + (size_t)r * op->ld;
        memcpy(row, (const float *)sk_ref_ptr(op->logits) + (size_t)r * op->ld, op->ld * sizeof *row);
        sk_logits_row(&samp[r], sk_ref_ptr(op->list),
                      (const int32_t *)sk_ref_ptr(op->token) + (size_t)samp[r].slot * op->max_len,
                      &(struct sk_logits_span){row, op->first, op->n_vocab}, count);
    }
}
