#include "engine/build/build.h"
#include <math.h>
#include "engine/model/step.h"
#include "kernels/kernels.h"

int sk_build_selftest(const char *dir, struct sk_dir *d, struct sk_err *err)
{
    struct sk_weights w = {0};
    struct sk_backend *be = NULL;
    struct sk_rank *rank = NULL;
    struct sk_rank_conf conf = {.max_slot = 1,
                                .max_len = SK_SELFTEST_TOKENS,
                                .max_row = SK_SELFTEST_TOKENS,
                                .max_result = SK_SELFTEST_TOKENS,
                                .kv_dtype = SK_F32};
    int rc;

    if ((rc = sk_weights_open(dir, SK_WEIGHTS_LAZY, &w, err)) ||
        (rc = sk_ref_open(&(struct sk_backend_conf){0}, &be, err)))
        goto out;
    /* One block in every layer holds the few tokens. */
    conf.kv_bytes = d->desc.n_layer * be->kv_block_bytes(be, SK_F32, d->desc.n_kv_head, sk_desc_head_stride(&d->desc));
    if ((rc = sk_rank_open(d, &w, be, NULL, &conf, &rank, err)))
        goto out;
    rc = sk_rank_selftest(rank, d->selftest_logprobs, err);
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1 && !rc; i++)
        if (!isfinite(d->selftest_logprobs[i]))
            rc = sk_err_set(err, SK_EFORMAT, NULL,
                            "self-test: the model's log-probs are not finite numbers: its weights or its configuration "
                            "are damaged");
out:
    sk_rank_close(rank);
    if (be)
        be->close(be);
    sk_weights_close(&w);
    return rc;
}
