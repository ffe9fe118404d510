#include "server/api/answer.h"

#include <math.h>
#include "server/api/gen.h"

enum { MAX_TEXT_BYTES = 256 << 20 /* of one answer, echo included */ };

/* --- life --- */

static int put_echo(struct sk_answer *a, const struct sk_gen_prompt *p, const struct sk_vocab *v, struct sk_err *err)
{
    int rc =
        p->text ? sk_buf_add(&a->text, p->text, p->n_text) : sk_token_decode(v, p->ids, p->n_id, false, &a->text, err);
    return rc == 0 ? 0 : sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
}

int sk_answer_init(struct sk_answer *a, const struct sk_api_params *p, const struct sk_vocab *v,
                   const struct sk_gen_prompt *prompt, struct sk_err *err)
{
    int rc = sk_detok_new(v, &p->stop, p->skip_special, &a->detok);
    for (size_t i = 0; rc == 0 && i < prompt->n_id; i++)
        sk_detok_follow(a->detok, prompt->ids[i]);
    a->stop_id = -1;
    sk_buf_init(&a->text, MAX_TEXT_BYTES);
    sk_buf_init(&a->log, SK_GEN_MAX_LOG_BYTES);
    sk_logprobs_init(&a->tokens);
    sk_logprobs_init(&a->prompt_tokens);
    if (rc == 0 && p->echo && p->n_top >= 0)
        rc = sk_logprobs_add_bare(&a->tokens, prompt->ids[0], prompt->echo_hides_first);
    if (rc == 0 && p->n_prompt_top >= 0)
        rc = sk_logprobs_add_bare(&a->prompt_tokens, prompt->ids[0], true);
    if (rc != 0)
        return sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
    a->n_prompt = (uint32_t)prompt->n_id;
    a->n_prompt_token = 1;
    return p->echo ? put_echo(a, prompt, v, err) : 0;
}

void sk_answer_done(struct sk_answer *a)
{
    sk_detok_free(a->detok);
    sk_buf_done(&a->text);
    sk_buf_done(&a->log);
    sk_logprobs_done(&a->tokens);
    sk_logprobs_done(&a->prompt_tokens);
}

/* --- growth --- */

static int take_prompt_token(struct sk_answer *a, const struct sk_api_params *p, const struct sk_wire_item *it)
{
    int rc = 0;
    if (a->n_prompt_token >= a->n_prompt)
        return 0;
    a->n_prompt_token++;
    if (p->echo && p->n_top >= 0)
        rc = sk_logprobs_add(&a->tokens, it);
    if (rc == 0 && p->n_prompt_top >= 0)
        rc = sk_logprobs_add(&a->prompt_tokens, it);
    return rc;
}

/* A stop string is found here and not in the engine: what it makes until the cancel arrives is thrown away and not
 * counted. */
static int take_token(struct sk_answer *a, const struct sk_api_params *p, const struct sk_wire_item *it)
{
    int rc = 0;
    a->n_token++;
    a->sum_logprob += (double)it->logprob;
    if (p->n_top >= 0 || p->token_ids)
        rc = sk_logprobs_add(&a->tokens, it);
    if (rc == 0)
        rc = sk_detok_push(a->detok, it->id, a->n_token >= p->wire.min_tokens, &a->text);
    if (rc != 1)
        return rc;
    a->stop_str = p->stop.str[sk_detok_stop(a->detok)];
    a->finish = "stop";
    return 0;
}

/* The token that ended the answer (EOS or a stop token) is no text, but it was computed and took a place of max_tokens:
 * usage counts it, as vLLM's does, just as it counts the tokens of a stop string that is cut off. */
static int take_finish(struct sk_answer *a, const struct sk_api_params *p, const struct sk_wire_entry *e,
                       uint32_t *ret_n)
{
    bool stopped = e->finish != SK_FINISH_LENGTH;
    int rc = 0;
    *ret_n += stopped;
    if (stopped && p->stop.include && e->reason >= 0)
        rc = sk_detok_push(a->detok, e->reason, false, &a->text);
    if (rc >= 0)
        rc = sk_detok_flush(a->detok, &a->text);
    a->stop_id = e->finish == SK_FINISH_STOP_ID ? e->reason : -1;
    a->finish = stopped ? "stop" : "length";
    return rc;
}

int sk_answer_take(struct sk_answer *a, const struct sk_api_params *p, const struct sk_wire_entry *e, uint32_t *ret_n)
{
    const struct sk_wire_item *it = sk_wire_item_first(e);
    uint32_t before = a->n_token;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && !a->finish && i < e->n_item; i++, it = sk_wire_item_next(it))
        rc = it->flags & SK_ITEM_PROMPT ? take_prompt_token(a, p, it) : take_token(a, p, it);
    *ret_n = a->n_token - before;
    return rc == 0 && !a->finish && e->finish ? take_finish(a, p, e, ret_n) : rc;
}

void sk_answer_shown(struct sk_answer *a)
{
    a->began = true;
    a->n_shown = a->n_token;
    sk_buf_clear(&a->text);
    sk_logprobs_clear(&a->tokens);
}

/* --- best_of --- */

static double score(const struct sk_answer *a)
{
    return a->n_token ? a->sum_logprob / a->n_token : -INFINITY;
}

uint32_t sk_answer_best(struct sk_answer *all, uint32_t n)
{
    struct sk_answer *best = NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (!all[i].chosen && (!best || score(&all[i]) > score(best)))
            best = &all[i];
    }
    sk_assert(best);
    best->chosen = true;
    return (uint32_t)(best - all);
}
