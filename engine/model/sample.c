#include "engine/model/sample.h"

static uint32_t top_of(int32_t n_logprobs)
{
    return n_logprobs > 0 ? (uint32_t)n_logprobs : 0;
}

/* Does anything change the logits? Rows for which nothing does skip logits_process, and their logits are read once
 * less. */
static bool processes(const struct sk_samp *p)
{
    bool generated = p->pos > p->n_prompt; /* presence and frequency look at these only */
    return p->n_suppress || p->n_bias || p->n_allowed || p->n_bad_word || p->repetition_penalty != 1 ||
           p->no_repeat_ngram || (generated && (p->presence_penalty != 0 || p->frequency_penalty != 0));
}

void sk_sample_fill_draw(const struct sk_slots *s, uint32_t slot, uint32_t pos, uint32_t want, struct sk_samp *ret)
{
    const struct sk_slot *seq = &s->slot[slot];
    const struct sk_params *p = &seq->params;
    bool greedy = p->temperature == 0, suppress = want & SK_RUN_MIN_TOKENS;
    uint32_t n_ends = s->n_eos + p->n_stop_ids, list = slot * SK_SLOT_LIST;

    *ret = (struct sk_samp){
        .flags = (greedy ? SK_SAMP_GREEDY : 0) | (p->n_logprobs >= 0 ? SK_SAMP_LOGPROB : 0),
        .slot = slot,
        .pos = pos,
        .n_prompt = seq->n_prompt,
        .choice = seq->choice,
        .n_top = top_of(p->n_logprobs),
        .seed = p->seed,
        .temperature = greedy ? 1 : p->temperature,
        .top_p = greedy ? 1 : p->top_p,
        .min_p = greedy ? 0 : p->min_p,
        .typical_p = greedy ? 1 : p->typical_p,
        .eta_cutoff = greedy ? 0 : p->eta_cutoff,
        .epsilon_cutoff = greedy ? 0 : p->epsilon_cutoff,
        .repetition_penalty = p->repetition_penalty,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .top_k = greedy ? 0 : p->top_k,
        .no_repeat_ngram = p->no_repeat_ngram,
        .list = suppress ? list : list + n_ends, /* the list begins with what ends the sequence */
        .n_suppress = suppress ? n_ends : 0,
        .n_bias = p->n_bias,
        .n_allowed = p->n_allowed,
        .n_bad_word = seq->n_bad_word,
    };
    if (processes(ret))
        ret->flags |= SK_SAMP_PROCESS;
}

void sk_sample_fill_target(const struct sk_slots *s, uint32_t slot, uint32_t pos, struct sk_samp *ret)
{
    const struct sk_slot *seq = &s->slot[slot];
    *ret = (struct sk_samp){
        .flags = SK_SAMP_TARGET | SK_SAMP_LOGPROB,
        .slot = slot,
        .pos = pos,
        .n_prompt = seq->n_prompt,
        .choice = seq->choice,
        .n_top = top_of(seq->params.n_prompt_logprobs),
        .temperature = 1,
        .top_p = 1,
        .typical_p = 1,
        .repetition_penalty = 1,
    };
}
