#include "tests/unit/engine/driver.h"

#include <stdio.h>
#include <string.h>

enum { PLAN_BYTES = 1 << 20 };

void driver_init(struct driver *d, struct sk_rank *rank)
{
    *d = (struct driver){.rank = rank};
    sk_rank_limits(rank, &d->lim);
    sk_assert(d->lim.max_slot <= DRIVER_MAX_SLOTS);
    sk_buf_init(&d->plan, PLAN_BYTES);
}

void driver_done(struct driver *d)
{
    sk_buf_done(&d->plan);
}

void driver_begin(struct driver *d)
{
    d->n_row = d->n_result = 0;
    sk_plan_begin(&d->plan, ++d->step);
}

void driver_open(struct driver *d, uint32_t slot, const int32_t *prompt, uint32_t n_prompt, uint32_t n_tok,
                 const struct sk_params *params, const int32_t *list)
{
    struct sk_plan_open open = {.slot = slot, .n_prompt = n_prompt, .seq = slot + 1};
    sk_params_default(&open.params);
    open.params.temperature = 0;
    if (params)
        open.params = *params;
    open.n_list = (uint32_t)sk_params_list_len(&open.params);
    sk_plan_put_open(&d->plan, &open, list);

    uint32_t n = (n_tok + SK_KV_BLOCK - 1) / SK_KV_BLOCK;
    for (uint32_t g = 0; g < d->lim.n_group; g++) {
        int32_t blk[1024];
        uint32_t per = d->lim.n_blk[g] / d->lim.max_slot;
        sk_assert(n <= per && n <= 1024);
        for (uint32_t i = 0; i < n; i++)
            blk[i] = (int32_t)(slot * per + i);
        sk_plan_put_append(&d->plan, slot, g, blk, n);
    }
    sk_plan_put_tok(&d->plan, slot, 0, prompt, n_prompt);
    d->n_prompt[slot] = n_prompt;
}

void driver_run(struct driver *d, uint32_t slot, uint32_t pos, uint32_t n, uint32_t want)
{
    uint32_t last = d->n_prompt[slot] - 1;
    d->n_row += n;
    if ((want & SK_RUN_PROMPT_LOGPROBS) && pos < last)
        d->n_result += pos + n < last ? n : last - pos;
    if (want & SK_RUN_SAMPLE)
        d->n_result++;
    sk_plan_put_run(&d->plan, slot, pos, n, want, 0);
}

void driver_draft(struct driver *d, uint32_t slot, uint32_t pos, uint32_t n_draft)
{
    d->n_row += 1 + n_draft;
    d->n_result += 1 + n_draft;
    sk_plan_put_run(&d->plan, slot, pos, 1 + n_draft, SK_RUN_SAMPLE, n_draft);
}

int driver_try(struct driver *d, struct sk_err *err)
{
    sk_assert(sk_plan_end(&d->plan, d->n_row, d->n_result) == 0);
    return sk_rank_step(d->rank, d->plan.p, d->plan.n, err);
}

const struct sk_result_row *driver_go(struct driver *d, uint32_t *ret_n)
{
    struct sk_err err;
    const struct sk_result_row *rows = NULL;
    uint32_t n = 0;
    int rc = driver_try(d, &err);
    if (!rc)
        rc = sk_rank_wait(d->rank, &rows, &n, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.msg);
    sk_assert(rc == 0 && n == d->n_result);
    if (ret_n)
        *ret_n = n;
    return rows;
}

void driver_close(struct driver *d, uint32_t slot)
{
    driver_begin(d);
    sk_plan_put_close(&d->plan, slot);
    driver_go(d, NULL);
}

void driver_generate(struct driver *d, const int32_t *prompt, uint32_t n_prompt, const struct sk_params *params,
                     uint32_t chunk, uint32_t n, struct sk_result_row *prompt_rows, struct sk_result_row *rows)
{
    for (uint32_t pos = 0; pos < n_prompt; pos += chunk) {
        uint32_t len = n_prompt - pos < chunk ? n_prompt - pos : chunk;
        bool last = pos + len == n_prompt;
        driver_begin(d);
        if (pos == 0)
            driver_open(d, 0, prompt, n_prompt, n_prompt + n, params, NULL);
        driver_run(d, 0, pos, len, (prompt_rows ? SK_RUN_PROMPT_LOGPROBS : 0) | (last && n ? SK_RUN_SAMPLE : 0));
        uint32_t got;
        const struct sk_result_row *r = driver_go(d, &got);
        uint32_t n_target = got - (last && n ? 1 : 0);
        if (n_target) {
            memcpy(prompt_rows, r, n_target * sizeof *r);
            prompt_rows += n_target;
        }
        if (last && n && rows)
            rows[0] = r[n_target];
    }
    for (uint32_t i = 1; i < n; i++) {
        driver_begin(d);
        driver_run(d, 0, n_prompt + i - 1, 1, SK_RUN_SAMPLE);
        const struct sk_result_row *r = driver_go(d, NULL);
        if (rows)
            rows[i] = r[0];
    }
    driver_close(d, 0);
}
