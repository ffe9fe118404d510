#include "tests/unit/engine/requests.h"

#include <string.h>

static uint32_t roll(uint64_t *x, uint32_t n)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*x >> 33) % n;
}

void requests_make(struct request *reqs, uint32_t n_vocab)
{
    uint64_t x = 11;
    for (uint32_t i = 0; i < N_REQ; i++) {
        struct request *q = &reqs[i];
        uint32_t n = 1 + roll(&x, i % 3 ? 40 : MAX_PROMPT), n_stem = roll(&x, 3) * 32;
        for (uint32_t k = 0; k < n; k++)
            q->prompt[k] = (int32_t)(k < n_stem ? 3 + k * 5 % (n_vocab - 3) : 3 + roll(&x, n_vocab - 3));
        q->req = (struct front_req){
            .prompt = q->prompt, .n_prompt = n, .n_choice = i % 8 == 7 ? MAX_CHOICE : 1, .list = q->list};
        struct sk_params *p = &q->req.params;
        sk_params_default(p);
        p->max_tokens = 1 + roll(&x, i % 6 == 1 ? 150 : 50);
        p->seed = 100 + i;
        p->n_logprobs = (int32_t)roll(&x, 7) - 1;
        p->temperature = i % 4 == 0 ? 0 : 0.5f + (float)roll(&x, 10) / 10;
        p->flags = i % 5 ? SK_PARAMS_IGNORE_EOS : 0;
        if (i % 4 == 1) {
            p->top_k = 20;
            p->top_p = 0.9f;
            p->min_p = 0.01f;
        }
        if (i % 4 == 2) {
            p->repetition_penalty = 1.2f;
            p->presence_penalty = 0.3f;
            p->frequency_penalty = -0.2f;
            p->no_repeat_ngram = 3;
        }
        if (i % 6 == 3) {
            p->n_prompt_logprobs = 2;
            p->flags |= SK_PARAMS_NO_CACHE;
        }
        if (i % 7 == 4) { /* a stop id, a bias, a bad word of two */
            const float bias = 2;
            p->min_tokens = p->max_tokens / 2;
            p->n_stop_ids = p->n_bias = 1;
            p->n_bad_word = 3;
            q->list[0] = 9;
            q->list[1] = 12;
            memcpy(&q->list[2], &bias, 4);
            q->list[3] = 2;
            q->list[4] = 17;
            q->list[5] = 30;
        }
    }
}
