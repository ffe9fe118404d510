#include <string.h>

#include "comm/base/buf.h"
#include "engine/model/rank.h"

enum { SELFTEST_PLAN_BYTES = 4096 };

/* One sequence in slot 0, first block of every group: log-probs of tokens 1..7 as prompt tokens. */
static int put_selftest(struct sk_buf *b, const struct sk_dir *dir)
{
    const int32_t blk = 0;
    struct sk_plan_open open = {.n_prompt = SK_SELFTEST_TOKENS};
    sk_params_default(&open.params);
    open.params.max_tokens = 0;
    open.params.n_prompt_logprobs = 0;
    sk_plan_begin(b, 0);
    sk_plan_put_open(b, &open, NULL);
    for (uint32_t g = 0; g < dir->desc.n_group; g++)
        sk_plan_put_append(b, 0, g, &blk, 1);
    sk_plan_put_tok(b, 0, 0, dir->selftest_ids, SK_SELFTEST_TOKENS);
    sk_plan_put_run(b, 0, 0, SK_SELFTEST_TOKENS, SK_RUN_PROMPT_LOGPROBS, 0);
    return sk_plan_end(b, SK_SELFTEST_TOKENS, SK_SELFTEST_TOKENS - 1);
}

static int put_close(struct sk_buf *b)
{
    sk_plan_begin(b, 0);
    sk_plan_put_close(b, 0);
    return sk_plan_end(b, 0, 0);
}

int sk_rank_selftest(struct sk_rank *r, float ret[SK_SELFTEST_TOKENS - 1], struct sk_err *err)
{
    const struct sk_result_row *rows = NULL;
    uint32_t n = 0;
    struct sk_buf b;
    memset(ret, 0, (SK_SELFTEST_TOKENS - 1) * sizeof *ret);
    sk_buf_init(&b, SELFTEST_PLAN_BYTES);
    int rc = put_selftest(&b, r->dir);
    if (rc) {
        sk_err_set(err, -rc, NULL, "no memory for the self-test");
        goto out;
    }
    rc = sk_rank_step(r, b.p, b.n, err);
    if (!rc)
        rc = sk_rank_wait(r, &rows, &n, err);
    for (uint32_t i = 0; !rc && i < n; i++)
        ret[i] = rows[i].logprob;
    if (!rc)
        rc = put_close(&b);
    if (!rc)
        rc = sk_rank_step(r, b.p, b.n, err);
out:
    sk_buf_done(&b);
    return rc;
}

/* Largest difference of one log-prob that arithmetic explains. Activations in int8 blocks move single log-probs of
 * SmolLM2 by up to 0.6 (mean 0.05) against the build's f32, those in bf16, which meet bf16 weights, by up to 0.1; a
 * broken kernel or a wrong tensor is off by several. */
static float selftest_tolerance(const struct sk_rank *r)
{
    static const float by_dtype[SK_DTYPE_COUNT] = {
        [SK_F32] = 0.005f, [SK_F16] = 0.02f, [SK_BF16] = 0.2f, [SK_Q8] = 0.75f, [SK_Q4] = 0.75f, [SK_Q4S] = 0.75f};
    float most = by_dtype[SK_F32];
    for (uint32_t i = 0; i < r->w->n_tensor; i++)
        if (by_dtype[r->w->tensors[i].dtype] > most)
            most = by_dtype[r->w->tensors[i].dtype];
    return r->conf.kv_dtype == SK_F32 ? most : most + (r->conf.kv_dtype == SK_BF16 ? 0.05f : 0.1f);
}

int sk_rank_selfcheck(struct sk_rank *r, struct sk_err *err)
{
    float got[SK_SELFTEST_TOKENS - 1];
    int rc = sk_rank_selftest(r, got, err);
    if (rc || !r->model.shard.last)
        return rc;
    float limit = selftest_tolerance(r);
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1; i++) {
        float want = r->dir->selftest_logprobs[i];
        if (!(got[i] - want <= limit && want - got[i] <= limit)) /* NaN is a mismatch too */
            return sk_err_set(
                err, SK_EFORMAT, NULL,
                "self-test: log-prob of token %d is %.4f on backend %s (%s), the build had %.4f, tolerance %.3f", i + 1,
                (double)got[i], r->be->name, r->be->isa, (double)want, (double)limit);
    }
    return 0;
}
