#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "engine/model/scratch.h"
#include "tests/unit/engine/driver.h"
#include "tests/unit/engine/fixture.h"

enum { N_PROMPT = 70, N_NEW = 20 };

struct env {
    struct fixture f;
    struct sk_backend *be;
    struct sk_rank *rank;
    struct driver d;
};

static const struct sk_rank_conf conf = {
    .max_slot = 4, .max_len = 256, .max_row = 96, .max_result = 80, .kv_bytes = 4 << 20, .kv_dtype = SK_F32};

static void env_open(struct env *e, const struct sk_desc *desc, enum sk_dtype dtype)
{
    struct sk_err err;
    fixture_open(&e->f, desc, dtype, 7);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &e->be, &err), 0);
    assert_int_equal(sk_rank_open(&e->f.dir, &e->f.w, e->be, NULL, &conf, &e->rank, &err), 0);
    driver_init(&e->d, e->rank);
}

static void env_close(struct env *e)
{
    driver_done(&e->d);
    sk_rank_close(e->rank);
    e->be->close(e->be);
    fixture_close(&e->f);
}

static void make_prompt(int32_t *ids, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i * 7 + i * 13 + 5) % n_vocab);
}

static struct sk_params with_logprobs(void)
{
    struct sk_params p;
    sk_params_default(&p);
    p.temperature = 0;
    p.n_logprobs = 5;
    p.n_prompt_logprobs = 5;
    return p;
}

/* Rows have room for 20 alternatives; only n_top of them are set. */
static void assert_rows_equal(const struct sk_result_row *a, const struct sk_result_row *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].n_top, b[i].n_top);
        assert_memory_equal(&a[i], &b[i], offsetof(struct sk_result_row, top) + a[i].n_top * sizeof a[i].top[0]);
    }
}

static void chunks_give_the_same_bits(void **state)
{
    static const uint32_t chunk[] = {1, 16, 33, 64};
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row whole[N_PROMPT - 1 + N_NEW], cut[N_PROMPT - 1 + N_NEW];
    int32_t prompt[N_PROMPT];
    fixture_desc(&desc);
    desc.qk_norm = true;
    make_prompt(prompt, N_PROMPT, desc.n_vocab);
    env_open(&e, &desc, SK_F32);

    driver_generate(&e.d, prompt, N_PROMPT, &p, N_PROMPT, N_NEW, whole, whole + N_PROMPT - 1);
    for (size_t i = 0; i < sizeof chunk / sizeof chunk[0]; i++) {
        driver_generate(&e.d, prompt, N_PROMPT, &p, chunk[i], N_NEW, cut, cut + N_PROMPT - 1);
        assert_rows_equal(whole, cut, N_PROMPT - 1 + N_NEW);
    }
    for (uint32_t i = 0; i < N_PROMPT - 1; i++)
        assert_int_equal(whole[i].id, prompt[i + 1]);
    assert_int_equal(whole[0].n_top, 5);
    assert_true(whole[0].top[0].logprob >= whole[0].logprob && whole[0].logprob < 0);
    env_close(&e);
}

/* Greedy tokens, fed back as a prompt, are each the most probable there: draws and prompt log-probs look at the same
 * logits. */
static void drawn_tokens_come_back_as_targets(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row drawn[N_NEW], back[N_PROMPT + N_NEW - 1];
    int32_t ids[N_PROMPT + N_NEW];
    fixture_desc(&desc);
    make_prompt(ids, N_PROMPT, desc.n_vocab);
    env_open(&e, &desc, SK_F32);

    driver_generate(&e.d, ids, N_PROMPT, &p, 64, N_NEW, NULL, drawn);
    for (uint32_t i = 0; i < N_NEW; i++)
        ids[N_PROMPT + i] = drawn[i].id;
    driver_generate(&e.d, ids, N_PROMPT + N_NEW, &p, 64, 0, back, NULL);
    for (uint32_t i = 0; i < N_NEW; i++) {
        const struct sk_result_row *b = &back[N_PROMPT - 1 + i];
        assert_int_equal(b->rank, 1);
        assert_memory_equal(&b->logprob, &drawn[i].logprob, sizeof b->logprob); /* ref's classes are equal */
    }
    env_close(&e);
}

/* Four sequences whose steps mix prompt chunks and draws get what each gets alone. */
static void batch_gives_the_same_bits(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row alone[4][N_NEW];
    int32_t prompt[4][N_PROMPT];
    uint32_t n_prompt[4] = {40, 7, 33, 64}, pos[4] = {0}, done[4] = {0};
    fixture_desc(&desc);
    env_open(&e, &desc, SK_F32);
    for (uint32_t s = 0; s < 4; s++) {
        make_prompt(prompt[s], N_PROMPT, desc.n_vocab - s);
        driver_generate(&e.d, prompt[s], n_prompt[s], &p, 64, N_NEW, NULL, alone[s]);
    }

    for (uint32_t step = 0; step < 100; step++) {
        uint32_t want[4], len[4], at = 0;
        driver_begin(&e.d);
        for (uint32_t s = 0; step == 0 && s < 4; s++)
            driver_open(&e.d, s, prompt[s], n_prompt[s], n_prompt[s] + N_NEW, &p, NULL);
        for (int prompts = 1; prompts >= 0; prompts--) {
            for (uint32_t s = 0; s < 4; s++) {
                bool in_prompt = pos[s] < n_prompt[s];
                if (in_prompt != (prompts == 1) || done[s] == N_NEW)
                    continue;
                len[s] = !in_prompt ? 1 : n_prompt[s] - pos[s] < 9 ? n_prompt[s] - pos[s] : 9;
                want[s] = pos[s] + len[s] >= n_prompt[s] ? SK_RUN_SAMPLE : 0;
                driver_run(&e.d, s, pos[s], len[s], want[s]);
            }
        }
        if (e.d.n_row == 0)
            break;
        const struct sk_result_row *rows = driver_go(&e.d, NULL);
        bool was_prompt[4];
        for (uint32_t s = 0; s < 4; s++)
            was_prompt[s] = pos[s] < n_prompt[s];
        for (int prompts = 1; prompts >= 0; prompts--) {
            for (uint32_t s = 0; s < 4; s++) {
                if (was_prompt[s] != (prompts == 1) || done[s] == N_NEW)
                    continue;
                pos[s] += len[s];
                if (want[s])
                    assert_rows_equal(&rows[at++], &alone[s][done[s]++], 1);
            }
        }
    }
    for (uint32_t s = 0; s < 4; s++)
        assert_int_equal(done[s], N_NEW);
    env_close(&e);
}

/* Blocks behind the window may be given up and taken by another: the rest goes on as if they were there. */
static void dropped_blocks_are_not_missed(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row kept[N_NEW];
    int32_t prompt[N_PROMPT], other[N_PROMPT];
    fixture_desc(&desc);
    desc.layers[1].window = 20; /* two groups: all, and 20 */
    make_prompt(prompt, N_PROMPT, desc.n_vocab);
    make_prompt(other, N_PROMPT, 31);
    env_open(&e, &desc, SK_F32);
    assert_int_equal(e.d.lim.n_group, 2);
    driver_generate(&e.d, prompt, N_PROMPT, &p, 64, N_NEW, NULL, kept);

    uint32_t windowed = e.f.dir.desc.layer_group[1];
    driver_begin(&e.d);
    driver_open(&e.d, 1, prompt, N_PROMPT, N_PROMPT + N_NEW, &p, NULL);
    driver_run(&e.d, 1, 0, 64, 0);
    driver_go(&e.d, NULL);
    for (uint32_t i = 0; i < N_NEW; i++) {
        driver_begin(&e.d);
        if (i == 0)
            sk_plan_put_drop(&e.d.plan, 1, windowed, 1); /* positions 0..31; the next row looks back to 64 - 19 */
        if (i == 1) {                                    /* somebody else writes all over the dropped block */
            int32_t mine = (int32_t)(2 * (e.d.lim.n_blk[windowed] / 4)),
                    dropped = (int32_t)(e.d.lim.n_blk[windowed] / 4);
            int32_t first[2] = {mine, mine + 1}, stolen[2] = {dropped, mine + 1};
            struct sk_plan_open open = {.slot = 2, .n_prompt = 40, .params = p};
            sk_plan_put_open(&e.d.plan, &open, NULL);
            sk_plan_put_append(&e.d.plan, 2, 1 - windowed, first, 2);
            sk_plan_put_append(&e.d.plan, 2, windowed, stolen, 2);
            sk_plan_put_tok(&e.d.plan, 2, 0, other, 40);
            driver_run(&e.d, 2, 0, 40, 0);
        }
        driver_run(&e.d, 1, i == 0 ? 64 : N_PROMPT + i - 1, i == 0 ? N_PROMPT - 64 : 1, SK_RUN_SAMPLE);
        const struct sk_result_row *r = driver_go(&e.d, NULL);
        assert_rows_equal(r, &kept[i], 1);
    }
    env_close(&e);
}

static void the_step_path_allocates_nothing(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row rows[N_NEW], prompt_rows[N_PROMPT];
    int32_t prompt[N_PROMPT];
    fixture_desc(&desc);
    make_prompt(prompt, N_PROMPT, desc.n_vocab);
    p.repetition_penalty = 1.1f;
    env_open(&e, &desc, SK_F32);
    driver_generate(&e.d, prompt, N_PROMPT, &p, N_PROMPT, N_NEW, prompt_rows,
                    rows); /* warm-up: the driver's own buffer grows too */
    uint64_t before = sk_mem_count();
    driver_generate(&e.d, prompt, N_PROMPT, &p, 32, N_NEW, prompt_rows, rows);
    assert_int_equal(sk_mem_count(), before);
    env_close(&e);
}

/* min_tokens: below it, neither the EOS set nor a stop id is drawn, though bias makes them certain. */
static void ends_are_suppressed_below_min_tokens(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    float huge = 100, large = 90;
    int32_t list[5] = {9, 2, 9}, prompt[8]; /* stop 9; bias 2 (EOS): 100, 9: 90 */
    memcpy(&list[3], &huge, 4);
    memcpy(&list[4], &large, 4);
    p.n_stop_ids = 1;
    p.n_bias = 2;
    fixture_desc(&desc);
    make_prompt(prompt, 8, desc.n_vocab);
    env_open(&e, &desc, SK_F32);

    driver_begin(&e.d);
    driver_open(&e.d, 0, prompt, 8, 32, &p, list);
    driver_run(&e.d, 0, 0, 8, SK_RUN_SAMPLE | SK_RUN_MIN_TOKENS);
    int32_t first = driver_go(&e.d, NULL)->id;
    assert_true(first != 2 && first != 9);
    driver_begin(&e.d);
    driver_run(&e.d, 0, 8, 1, SK_RUN_SAMPLE);
    assert_int_equal(driver_go(&e.d, NULL)->id, 2);
    env_close(&e);
}

/* Drafts of which the first n_right are right: rows up to the one after them are what is drawn without drafts, log-
 * probs and penalties included, wherever the head's slices end; and so is all that follows the trim. */
static void drafts_change_nothing(void **state)
{
    enum { FILLER = 27, SEQ = 1, OTHER = 2 };
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    struct sk_result_row alone[N_NEW];
    int32_t prompt[N_PROMPT], draft[N_NEW];
    p.temperature = 0.8f;
    p.seed = 5;
    p.repetition_penalty = 1.2f;
    p.frequency_penalty = 0.5f;
    p.no_repeat_ngram = 2;
    fixture_desc(&desc);
    desc.layers[1].window = 20;
    make_prompt(prompt, N_PROMPT, desc.n_vocab);
    env_open(&e, &desc, SK_F32);
    driver_generate(&e.d, prompt, N_PROMPT, &p, 64, N_NEW, NULL, alone);
    for (uint32_t n_right = 0; n_right <= N_NEW - 3; n_right++) {
        driver_begin(&e.d);
        driver_open(&e.d, SEQ, prompt, N_PROMPT, N_PROMPT + N_NEW, &p, NULL);
        driver_run(&e.d, SEQ, 0, N_PROMPT, SK_RUN_SAMPLE);
        assert_rows_equal(driver_go(&e.d, NULL), alone, 1);

        uint32_t n_draft = N_NEW - 3, used = n_right + 1;
        for (uint32_t i = 0; i < n_draft; i++)
            draft[i] = (alone[1 + i].id + (i == n_right)) % (int32_t)desc.n_vocab;
        driver_begin(&e.d);
        driver_open(&e.d, OTHER, prompt, FILLER + 1, FILLER + 1, &p, NULL);
        sk_plan_put_tok(&e.d.plan, SEQ, N_PROMPT + 1, draft, n_draft);
        driver_run(&e.d, OTHER, 0, FILLER + 1, SK_RUN_PROMPT_LOGPROBS);
        driver_draft(&e.d, SEQ, N_PROMPT, n_draft);
        assert_true(FILLER < (int)SK_HEAD_SLICE && FILLER + 1 + n_draft > SK_HEAD_SLICE); /* rows of two slices */
        assert_rows_equal(driver_go(&e.d, NULL) + FILLER, alone + 1, used);

        for (uint32_t i = 1 + used; i < N_NEW; i++) {
            driver_begin(&e.d);
            if (i == 1 + used)
                sk_plan_put_trim(&e.d.plan, SEQ, N_PROMPT + i);
            for (uint32_t g = 0; i == 1 + used && g < e.d.lim.n_group; g++) { /* the trimmed ones again */
                uint32_t from = sk_kv_blocks(N_PROMPT + i), end = sk_kv_blocks(N_PROMPT + N_NEW);
                int32_t blk = (int32_t)(SEQ * (e.d.lim.n_blk[g] / e.d.lim.max_slot) + from);
                assert_true(end - from <= 1);
                if (from < end)
                    sk_plan_put_append(&e.d.plan, SEQ, g, &blk, 1);
            }
            driver_run(&e.d, SEQ, N_PROMPT + i - 1, 1, SK_RUN_SAMPLE);
            assert_rows_equal(driver_go(&e.d, NULL), &alone[i], 1);
        }
        driver_close(&e.d, SEQ);
        driver_close(&e.d, OTHER);
    }
    env_close(&e);
}

static void selftest_matches_itself(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_err err;
    float got[SK_SELFTEST_TOKENS - 1];
    fixture_desc(&desc);
    env_open(&e, &desc, SK_F32);
    assert_int_equal(sk_rank_selftest(e.rank, got, &err), 0);
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1; i++)
        assert_true(got[i] < 0 && isfinite(got[i]));
    assert_int_equal(sk_rank_selfcheck(e.rank, &err), -SK_EFORMAT); /* the fixture's values are zeros */
    memcpy(e.f.dir.selftest_logprobs, got, sizeof got);
    assert_int_equal(sk_rank_selfcheck(e.rank, &err), 0);
    e.f.dir.selftest_logprobs[3] += 0.01f;
    assert_int_equal(sk_rank_selfcheck(e.rank, &err), -SK_EFORMAT);
    e.f.dir.selftest_logprobs[3] = NAN;
    assert_int_equal(sk_rank_selfcheck(e.rank, &err), -SK_EFORMAT);
    env_close(&e);
}

/* Whoever watches sees a step go on, half a layer and a slice of the head at a time, and only while it does. */
static void a_step_shows_progress(void **state)
{
    struct env e;
    struct sk_desc desc;
    struct sk_params p = with_logprobs();
    int32_t prompt[N_PROMPT];
    struct sk_result_row rows[N_PROMPT - 1], drawn[1];
    _Atomic uint64_t progress = 0;
    fixture_desc(&desc);
    make_prompt(prompt, N_PROMPT, desc.n_vocab);
    env_open(&e, &desc, SK_F32);
    sk_rank_watch(e.rank, &progress);
    driver_begin(&e.d);
    driver_go(&e.d, NULL);
    assert_int_equal(progress, 0); /* no rows */
    driver_generate(&e.d, prompt, N_PROMPT, &p, N_PROMPT, 1, rows, drawn);
    uint32_t n_slice = (N_PROMPT - 1 + 1 + SK_HEAD_SLICE - 1) / SK_HEAD_SLICE;
    assert_int_equal(progress, 2 * desc.n_layer + n_slice);
    sk_rank_watch(e.rank, NULL);
    driver_generate(&e.d, prompt, N_PROMPT, &p, N_PROMPT, 1, rows, drawn);
    assert_int_equal(progress, 2 * desc.n_layer + n_slice);
    env_close(&e);
}

static void a_plan_without_rows_runs(void **state)
{
    struct env e;
    struct sk_desc desc;
    fixture_desc(&desc);
    env_open(&e, &desc, SK_F32);
    uint32_t n = 1;
    driver_begin(&e.d);
    driver_go(&e.d, &n);
    assert_int_equal(n, 0);
    env_close(&e);
}

static void refuse_open(struct fixture *f, struct sk_backend *be, const struct sk_rank_conf *c, int rc,
                        const char *param)
{
    struct sk_err err = {0};
    struct sk_rank *rank = NULL;
    assert_int_equal(sk_rank_open(&f->dir, &f->w, be, NULL, c, &rank, &err), rc);
    assert_null(rank);
    assert_string_equal(err.param, param);
    assert_true(err.msg[0]);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct fixture f;
    struct sk_backend *be;
    struct sk_err err;
    struct sk_desc desc;
    struct sk_rank_conf c = conf;
    fixture_desc(&desc);
    fixture_open(&f, &desc, SK_F32, 1);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);

    c.max_len = 257;
    refuse_open(&f, be, &c, -SK_EINVAL, "max-model-len");
    c = conf;
    c.kv_dtype = SK_Q4;
    refuse_open(&f, be, &c, -SK_EINVAL, "kv-dtype");
    c = conf;
    c.kv_bytes = 1000;
    refuse_open(&f, be, &c, -SK_EINVAL, "kv-memory");

    for (uint32_t i = 0; i < f.w.n_tensor; i++) { /* every tensor, missing or of another shape, is named */
        struct sk_dir_entry *t = &f.entry[i], saved = *t;
        t->n_out++;
        refuse_open(&f, be, &conf, -SK_EFORMAT, saved.name);
        *t = saved;
        t->name[strlen(t->name) - 1] = '!'; /* sorts where it was, or elsewhere: not found either way */
        refuse_open(&f, be, &conf, -SK_EFORMAT, saved.name);
        *t = saved;
    }
    f.dir.eos[0] = 96;
    refuse_open(&f, be, &conf, -SK_EFORMAT, "");
    be->close(be);
    fixture_close(&f);
}

/* The n-th allocation fails: an error, and nothing is left behind (the leak checker looks). */
static void open_survives_lack_of_memory(void **state)
{
    struct fixture f;
    struct sk_backend *be;
    struct sk_err err;
    struct sk_desc desc;
    struct sk_rank *rank;
    fixture_desc(&desc);
    fixture_open(&f, &desc, SK_F32, 1);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);
    int rc = -SK_ENOMEM;
    for (uint64_t n = 1; rc; n++) {
        sk_mem_fail_at(n, 0);
        rc = sk_rank_open(&f.dir, &f.w, be, NULL, &conf, &rank, &err);
        sk_mem_fail_at(0, 0);
        assert_true(rc == 0 || rc == -SK_ENOMEM);
        assert_true(n < 100);
    }
    sk_rank_close(rank);
    be->close(be);
    fixture_close(&f);
}

static void plan_says_what_open_takes(void **state)
{
    struct fixture f;
    struct sk_backend *be;
    struct sk_err err;
    struct sk_desc desc;
    struct sk_rank_need need;
    struct sk_rank *rank;
    struct sk_plan_limits lim;
    fixture_desc(&desc);
    desc.layers[0].window = 32;
    fixture_open(&f, &desc, SK_F32, 1);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);
    assert_int_equal(sk_rank_plan(&f.dir, &f.w, be, NULL, &conf, &need, &err), 0);
    assert_int_equal(sk_rank_open(&f.dir, &f.w, be, NULL, &conf, &rank, &err), 0);
    sk_rank_limits(rank, &lim);
    uint32_t win = f.dir.desc.layer_group[0], all = f.dir.desc.layer_group[1];
    assert_int_equal(need.n_blk[win], lim.n_blk[win]);
    assert_int_equal(need.n_blk[all], lim.n_blk[all]);
    assert_true(need.kv <= conf.kv_bytes && need.kv > conf.kv_bytes * 9 / 10);
    assert_int_equal(need.kv_block, 2 * be->kv_block_bytes(be, SK_F32, 2, 16));
    assert_true(lim.n_blk[all] > lim.n_blk[win]);
    sk_rank_close(rank);
    be->close(be);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_give_the_same_bits),       cmocka_unit_test(drawn_tokens_come_back_as_targets),
        cmocka_unit_test(batch_gives_the_same_bits),       cmocka_unit_test(dropped_blocks_are_not_missed),
        cmocka_unit_test(the_step_path_allocates_nothing), cmocka_unit_test(ends_are_suppressed_below_min_tokens),
        cmocka_unit_test(drafts_change_nothing),           cmocka_unit_test(selftest_matches_itself),
        cmocka_unit_test(a_plan_without_rows_runs),        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(open_survives_lack_of_memory),    cmocka_unit_test(plan_says_what_open_takes),
        cmocka_unit_test(a_step_shows_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
