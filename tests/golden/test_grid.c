#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/golden/golden.h"
#include "tests/unit/engine/crowd.h"

/* Tiny checkpoints cut over grids of ranks, as skein-build makes them: log-probs against one rank, within the reference
 * data's tolerance for float32, and the reference's greedy tokens. Stages alone change no bit. */
enum { MAX_IDS = 64, N_GREEDY = 24, N_TOP = 5, MAX_ROWS = MAX_IDS + N_GREEDY };
static const float f32_tolerance = 2e-4f, int8_tolerance = 0.3f;

struct model {
    const char *src, *golden;
    bool blocks; /* int8 and int4: activations are rounded on the cpu backend */
};
static const struct model models[] = {
    {"tiny/llama", "tiny/llama/golden.json", false},        {"tiny/qwen2", "tiny/qwen2/golden.json", false},
    {"tiny/qwen3", "tiny/qwen3/golden.json", false},        {"tiny/gpt2", "tiny/gpt2/golden.json", false},
    {"gguf/llama-q8_0.gguf", "gguf/llama-q8_0.json", true}, {"gguf/qwen3-q4_0.gguf", "gguf/qwen3-q4_0.json", true},
};
static const struct grid {
    uint32_t n_tp, n_pp;
} grids[] = {{2, 1}, {3, 1}, {4, 1}, {1, 2}, {1, 3}, {2, 2}};
enum { N_GRID = sizeof grids / sizeof *grids };

struct run {
    struct crowd_text text;
    struct sk_result_row rows[CROWD_MAX][MAX_ROWS];
};
static struct run one, cut;

static void one_rank(void *arg, uint32_t id, struct sk_rank *rank)
{
    struct run *r = arg;
    struct sk_err err = {0};
    if (sk_rank_selfcheck(rank, &err))
        fprintf(stderr, "%s\n", err.msg);
    sk_assert(!err.msg[0]);
    crowd_generate(rank, &r->text, r->rows[id]);
}

static void compare(const struct sk_result_row *a, const struct sk_result_row *b, uint32_t n, float tolerance)
{
    for (uint32_t i = 0; i < n; i++) {
        if (tolerance == 0)
            assert_memory_equal(&a[i], &b[i], offsetof(struct sk_result_row, top) + N_TOP * sizeof a[i].top[0]);
        else if (a[i].id == b[i].id && !(fabsf(a[i].logprob - b[i].logprob) <= tolerance))
            fail_msg("row %u: log-prob %.6f instead of %.6f", i, (double)a[i].logprob, (double)b[i].logprob);
    }
}

/* A rank has a slab at least. Small heads share blocks of 32; all of float32 can be cut to single heads. */
static uint32_t most_ranks(const struct golden_dir *g)
{
    const struct sk_dir_entry *o = sk_weights_find(&g->w, "layer.0.o"), *down = sk_weights_find(&g->w, "layer.0.down");
    uint32_t n_o = o->n_in / o->slab_k, n_down = down->n_in / down->slab_k;
    assert_true(o->dtype != SK_F32 || (n_o == g->dir.desc.n_head && n_down >= n_o));
    return n_o < n_down ? n_o : n_down;
}

static void check_case(struct golden_dir *g, const char *backend, const struct cJSON *v, bool blocks)
{
    int32_t ids[MAX_IDS], greedy[N_GREEDY];
    float gap[N_GREEDY];
    uint32_t n = golden_ids(sk_json_get(v, "input_ids"), ids, MAX_IDS), n_row = n - 1 + N_GREEDY;
    bool ref = strcmp(backend, "ref") == 0;
    float tolerance = blocks && !ref ? int8_tolerance : f32_tolerance;
    assert_int_equal(golden_ids(sk_json_get(v, "greedy"), greedy, N_GREEDY), N_GREEDY);
    assert_int_equal(golden_floats(sk_json_get(v, "greedy_gap"), gap, N_GREEDY), N_GREEDY);

    struct crowd c = {
        .dir = &g->dir,
        .w = &g->w,
        .backend = ref ? sk_ref_open : sk_cpu_open,
        .n_tp = 1,
        .n_pp = 1,
        .conf = {
            .max_slot = 1, .max_len = 128, .max_row = 64, .max_result = 64, .kv_bytes = 4 << 20, .kv_dtype = SK_F32}};
    one.text = (struct crowd_text){.prompt = ids, .n_prompt = n, .n_new = N_GREEDY, .chunk = 16};
    sk_params_default(&one.text.params);
    one.text.params.temperature = 0;
    one.text.params.n_prompt_logprobs = one.text.params.n_logprobs = N_TOP;
    crowd_run(&c, one_rank, &one);
    for (uint32_t i = 0; i < N_GREEDY && gap[i] > fmaxf(1e-3f, 2 * tolerance); i++)
        assert_int_equal(one.rows[0][n - 1 + i].id, greedy[i]);

    for (int k = 0; k < N_GRID; k++) {
        if (grids[k].n_tp > most_ranks(g) || grids[k].n_pp > g->dir.desc.n_layer)
            continue;
        c.n_tp = grids[k].n_tp;
        c.n_pp = grids[k].n_pp;
        cut.text = one.text;
        cut.text.told = one.rows[0] + n - 1;
        crowd_run(&c, one_rank, &cut);
        uint32_t last = (c.n_pp - 1) * c.n_tp;
        compare(cut.rows[last], one.rows[0], n_row, c.n_tp == 1 ? 0 : tolerance);
        for (uint32_t t = 1; t < c.n_tp; t++)
            compare(cut.rows[last + t], cut.rows[last], n_row, 0);
        for (uint32_t i = 0; i < N_GREEDY && gap[i] > fmaxf(1e-3f, 2 * tolerance); i++)
            assert_int_equal(cut.rows[last][n - 1 + i].id, greedy[i]);
    }
}

static void model_is_cut(void **state)
{
    const struct model *m = *state;
    struct golden_dir g;
    struct cJSON *golden = golden_json(m->golden);
    struct sk_backend *cpu = golden_backend("cpu", 1);
    golden_build(&g, m->src);
    for (const struct cJSON *v = sk_json_first(sk_json_get(golden, "cases")); v; v = sk_json_next(v)) {
        check_case(&g, "ref", v, m->blocks);
        if (cpu)
            check_case(&g, "cpu", v, m->blocks);
    }
    if (cpu)
        cpu->close(cpu);
    golden_close(&g);
    sk_json_free(golden);
}

int main(void)
{
    enum { N = sizeof models / sizeof models[0] };
    struct CMUnitTest tests[N];
    for (size_t i = 0; i < N; i++)
        tests[i] =
            (struct CMUnitTest){.name = models[i].src, .test_func = model_is_cut, .initial_state = (void *)&models[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
