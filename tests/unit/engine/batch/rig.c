#include "tests/unit/engine/batch/rig.h"

#include <string.h>

#include "tests/unit/engine/batch/invariants.h"

struct sk_loop_conf rig_conf(void)
{
    struct sk_loop_conf c = {.max_seqs = 8,
                             .max_row = 32,
                             .max_len = 128,
                             .max_queue = 64,
                             .n_vocab = PRETEND_VOCAB,
                             .n_eos = 1,
                             .eos = {PRETEND_EOS}};
    c.kv = (struct sk_kvpool_conf){.n_group = 1, .block_tok = 4, .n_blk = {64}, .keep = true, .classes_equal = true};
    return c;
}

void rig_open(struct rig *r, const struct sk_loop_conf *c)
{
    rig_open_stages(r, c, 1, 0);
}

void rig_open_stages(struct rig *r, const struct sk_loop_conf *c, uint32_t n_stage, uint64_t seed)
{
    struct sk_err err = {0};
    r->conf = *c;
    r->conf.crew = r->crew = pretend_new(c);
    if (n_stage > 1)
        pretend_stages(r->crew, n_stage, seed);
    assert_int_equal(sk_loop_open(&r->conf, &r->loop, &err), 0);
    pretend_bind(r->crew, r->loop);
    front_init(&r->front, r->loop);
}

void rig_close(struct rig *r)
{
    front_done(&r->front);
    sk_loop_close(r->loop);
    pretend_free(r->crew);
}

struct front_req rig_greedy(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens)
{
    struct front_req r = {.prompt = prompt, .n_prompt = n_prompt, .n_choice = 1};
    sk_params_default(&r.params);
    r.params.max_tokens = max_tokens;
    r.params.flags = SK_PARAMS_IGNORE_EOS;
    return r;
}

void rig_ramp(int32_t *tok, uint32_t n, int32_t first)
{
    for (uint32_t i = 0; i < n; i++)
        tok[i] = (first + (int32_t)i * 7) % PRETEND_VOCAB;
}

void rig_expect(const struct rig *r, uint32_t seq, const struct front_req *q)
{
    const struct front_seq *s = &r->front.seqs[seq];
    int32_t want[PRETEND_MAX_LEN], text[2 * PRETEND_MAX_LEN];
    uint32_t finish,
        n = pretend_expect(&r->conf, q->prompt, q->n_prompt, &q->params, q->list, s->choice, want, &finish);
    uint32_t n_score = q->params.n_prompt_logprobs >= 0 && q->n_done == 0 ? q->n_prompt - 1 : 0;
    assert_int_equal(s->finish, finish);
    assert_int_equal(s->n_item, n_score + n - q->n_done);
    memcpy(text, q->prompt, q->n_prompt * sizeof *text);
    memcpy(text + q->n_prompt, want, n * sizeof *text);
    for (uint32_t i = 0; i < s->n_item; i++) {
        const struct sk_wire_item *it = &s->items[i].it;
        uint32_t at = i < n_score ? i + 1 : q->n_prompt + q->n_done + i - n_score;
        assert_int_equal(it->flags, i < n_score ? SK_ITEM_PROMPT : 0);
        assert_int_equal(it->id, text[at]);
        assert_true(it->logprob == pretend_logprob(&r->conf, text, at, q->n_prompt, text[at]));
        int32_t n_top = i < n_score ? q->params.n_prompt_logprobs : q->params.n_logprobs;
        assert_int_equal(it->n_top, n_top > 0 ? n_top : 0);
    }
}

void rig_run(struct rig *r)
{
    do
        invariants_check(r->loop);
    while (front_step(&r->front));
    assert_int_equal(r->front.n_open, 0);
    invariants_idle(r->loop);
}
