#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/group/group.h"
#include "tests/unit/engine/crowd.h"
#include "tests/unit/engine/enginedir.h"
#include "tests/unit/engine/fixture.h"

/* The whole decoder, cut over the ranks of a grid, against one rank. */
enum { N_PROMPT = 40, N_NEW = 8, N_ROWS = N_PROMPT - 1 + N_NEW };
static const struct sk_rank_conf conf = {
    .max_slot = 1, .max_len = 128, .max_row = 64, .max_result = 64, .kv_bytes = 1 << 20, .kv_dtype = SK_F32};
/* Of a log-prob: sums are made in another order; int8 blocks and bf16 round what is a little different to something
 * that is more so. */
static const float f32_tolerance = 1e-4f, coarse_tolerance = 0.3f;

struct run {
    struct crowd_text text;
    struct sk_result_row rows[CROWD_MAX][N_ROWS];
    struct sk_rank_times times[CROWD_MAX];
};

static void one_rank(void *arg, uint32_t id, struct sk_rank *rank)
{
    struct run *r = arg;
    crowd_generate(rank, &r->text, r->rows[id]);
    sk_rank_times(rank, &r->times[id]);
}

static int32_t prompt[N_PROMPT];
static struct crowd_text text_of(uint32_t chunk, const struct sk_result_row *told)
{
    struct crowd_text t = {.prompt = prompt, .n_prompt = N_PROMPT, .n_new = N_NEW, .chunk = chunk, .told = told};
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = i * i % 90;
    sk_params_default(&t.params);
    t.params.temperature = 0;
    t.params.n_prompt_logprobs = t.params.n_logprobs = 5;
    return t;
}

static void assert_same_bits(const struct sk_result_row *a, const struct sk_result_row *b)
{
    for (int i = 0; i < N_ROWS; i++) {
        assert_int_equal(a[i].n_top, b[i].n_top);
        assert_memory_equal(&a[i], &b[i], offsetof(struct sk_result_row, top) + a[i].n_top * sizeof a[i].top[0]);
    }
}

static void assert_close(const struct sk_result_row *a, const struct sk_result_row *b, float tolerance)
{
    for (int i = 0; i < N_ROWS; i++) {
        if (i < N_PROMPT - 1 || tolerance == f32_tolerance)
            assert_int_equal(a[i].id, b[i].id);
        if (a[i].id == b[i].id && !(fabsf(a[i].logprob - b[i].logprob) <= tolerance))
            fail_msg("row %d: log-prob %.6f instead of %.6f", i, (double)a[i].logprob, (double)b[i].logprob);
    }
}

/* Every rank of the last stage has the same rows; `tolerance` 0: the bits of `one`. */
static void check_grid(struct crowd *c, uint32_t n_tp, uint32_t n_pp, const struct run *one, float tolerance)
{
    static struct run grid, again;
    static const uint32_t chunk[] = {32, 7, N_PROMPT};
    c->n_tp = n_tp;
    c->n_pp = n_pp;
    uint32_t last = (n_pp - 1) * n_tp;
    for (size_t i = 0; i < (tolerance == 0 ? 3 : 1); i++) {
        grid = again = (struct run){.text = text_of(chunk[i], one->rows[0] + N_PROMPT - 1)};
        crowd_run(c, one_rank, &grid);
        for (uint32_t t = 1; t < n_tp; t++)
            assert_same_bits(grid.rows[last], grid.rows[last + t]);
        if (tolerance == 0)
            assert_same_bits(grid.rows[last], one->rows[0]);
        else
            assert_close(grid.rows[last], one->rows[0], tolerance);
        for (uint32_t s = 0; s < n_pp; s++)
            for (uint32_t t = 1; t < n_tp; t++)
                assert_true(grid.times[s * n_tp].sum == grid.times[s * n_tp + t].sum &&
                            grid.times[s * n_tp].sum_step == grid.times[s * n_tp + t].sum_step);
        assert_true(n_tp == 1 || grid.times[0].sum != 0);
    }
    crowd_run(c, one_rank, &again);
    assert_same_bits(again.rows[last], grid.rows[last]);
}

static void check_model(const struct sk_desc *desc, enum sk_dtype dtype, crowd_backend *backend)
{
    static struct run one;
    struct fixture f;
    bool exact = dtype == SK_F32;
    float tolerance = exact ? f32_tolerance : coarse_tolerance;
    fixture_open(&f, desc, dtype, 11);
    struct crowd c = {.dir = &f.dir, .w = &f.w, .backend = backend, .n_tp = 1, .n_pp = 1, .conf = conf};
    one = (struct run){.text = text_of(32, NULL)};
    crowd_run(&c, one_rank, &one);
    for (uint32_t n_tp = 2; n_tp <= 4; n_tp++)
        check_grid(&c, n_tp, 1, &one, tolerance);
    check_grid(&c, 1, 2, &one, 0);
    check_grid(&c, 1, 4, &one, 0);
    check_grid(&c, 2, 2, &one, tolerance);
    c.narrow = true;
    check_grid(&c, 1, 2, &one, coarse_tolerance);
    check_grid(&c, 2, 2, &one, coarse_tolerance);
    fixture_close(&f);
}

/* 9 query heads over 3 KV heads, as SmolLM2: 5 + 4 over two ranks, 3 + 2 + 2 + 2 over four. */
static struct sk_desc llama_desc(void)
{
    struct sk_desc d;
    fixture_desc(&d);
    d.n_layer = 5;
    d.n_head = 9;
    d.n_kv_head = 3;
    d.head_dim = 32;
    d.ropes[0].dim = 32;
    d.n_ffn = 160;
    return d;
}

static int open_cpu(const struct sk_backend_conf *bc, struct sk_backend **ret, struct sk_err *err)
{
    int rc = sk_cpu_open(bc, ret, err);
    return rc == -SK_EUNSUP ? sk_ref_open(bc, ret, err) : rc; /* a CPU without: the other test again */
}

static void llama_like(void **state)
{
    struct sk_desc desc = llama_desc();
    check_model(&desc, SK_F32, sk_ref_open);
    check_model(&desc, SK_Q8, sk_ref_open);
}

static void llama_like_on_cpu(void **state)
{
    struct sk_desc desc = llama_desc();
    check_model(&desc, SK_F32, open_cpu);
    check_model(&desc, SK_BF16, open_cpu);
    check_model(&desc, SK_Q4, open_cpu);
}

static void gpt_like(void **state)
{
    struct sk_desc desc;
    fixture_desc(&desc);
    desc.norm = SK_NORM_LAYER;
    desc.gated = false;
    desc.act = SK_ACT_GELU_TANH;
    desc.pos_embed = true;
    desc.n_rope = 0;
    desc.tied = true;
    desc.n_kv_head = 4;
    desc.n_layer = 4;
    desc.n_ffn = 128;
    check_model(&desc, SK_F32, sk_ref_open);
    check_model(&desc, SK_F32, open_cpu);
}

/* A window on some layers: a stage that has none of a group's layers keeps its numbers. */
static void windows_and_stages(void **state)
{
    struct sk_desc desc = llama_desc();
    desc.qk_norm = true;
    desc.layers[4].window = 20;
    check_model(&desc, SK_F32, sk_ref_open);
}

/* Copied spans that lie one after the other become one matrix again: the bits stay. */
static void copies_are_the_same_model(void **state)
{
    static struct run mapped, copied;
    static struct sk_result_row told[N_NEW]; /* whatever: nobody compares with one rank */
    struct sk_desc desc = llama_desc();
    struct fixture f;
    struct sk_err err;
    char path[] = "/tmp/skein-ranks-XXXXXX";
    assert_non_null(mkdtemp(path));
    enginedir_write(&desc, SK_Q8, path);
    fixture_open(&f, &desc, SK_Q8, 1);
    assert_int_equal(sk_weights_open(path, SK_WEIGHTS_LAZY, &f.w, &err), 0);
    struct crowd c = {.dir = &f.dir, .w = &f.w, .backend = open_cpu, .n_tp = 2, .n_pp = 2, .conf = conf};
    mapped = copied = (struct run){.text = text_of(32, told)};
    crowd_run(&c, one_rank, &mapped);
    c.path = path;
    crowd_run(&c, one_rank, &copied);
    for (int i = 2; i < 4; i++)
        assert_same_bits(mapped.rows[i], copied.rows[i]);
    sk_weights_close(&f.w);
    fixture_close(&f);
    enginedir_remove(path);
}

/* A rank brings what it computes with and nothing else, whichever way: a copy has as many bytes as the plan says, and
 * over the ranks every matrix is there once. */
static void a_rank_holds_its_shard(void **state)
{
    struct sk_desc desc = llama_desc();
    struct sk_dir dir;
    struct sk_weights w;
    struct sk_backend *be;
    struct sk_err err;
    char path[] = "/tmp/skein-ranks-XXXXXX";
    uint64_t sum = 0, matrices = 0, vectors = 0;
    assert_non_null(mkdtemp(path));
    enginedir_write(&desc, SK_F32, path);
    assert_int_equal(sk_dir_open(path, &dir, &err), 0);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);

    for (int id = 0; id < 6; id++) { /* two stages of three */
        struct sk_group tp = {.rank = id % 3, .size = 3}, pp = {.rank = id / 3, .size = 2};
        const struct sk_grid grid = {.tp = &tp, .pp = &pp};
        struct sk_rank_need need;
        struct sk_rank *rank;
        assert_int_equal(sk_weights_open(path, SK_WEIGHTS_HUGE, &w, &err), 0);
        assert_int_equal(sk_rank_plan(&dir, &w, be, &grid, &conf, &need, &err), 0);
        assert_true(need.n_layer > 0 && need.n_head == 3 && need.n_vocab == 32 && w.copy == NULL);
        assert_int_equal(sk_rank_open(&dir, &w, be, &grid, &conf, &rank, &err), 0);
        assert_int_equal(w.copy_used + conf.max_len * 32 * sizeof(float), need.weights); /* and a rope table */
        sum += w.copy_used;
        for (uint32_t i = 0; id == 0 && i < w.n_tensor; i++)
            *(w.tensors[i].pack == SK_PACK_PLAIN ? &vectors : &matrices) += w.tensors[i].bytes;
        sk_rank_close(rank);
        assert_null(w.copy);
        sk_weights_close(&w);
    }
    assert_true(sum > matrices && sum <= matrices + 3 * vectors); /* norms are everybody's; no KV head was straddled */
    be->close(be);
    sk_dir_close(&dir);
    enginedir_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_like),
        cmocka_unit_test(llama_like_on_cpu),
        cmocka_unit_test(gpt_like),
        cmocka_unit_test(windows_and_stages),
        cmocka_unit_test(copies_are_the_same_model),
        cmocka_unit_test(a_rank_holds_its_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
