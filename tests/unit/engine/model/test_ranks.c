#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <pthread.h>
#include <cmocka.h>

#include "comm/group/group.h"
#include "tests/unit/engine/driver.h"
#include "tests/unit/engine/fixture.h"

/* Two ranks as two threads, their sums exchanged through a barrier: the whole decoder, cut. ref's addresses are the
 * host's. */
enum { N_PROMPT = 40, N_NEW = 8 };

struct pair {
    pthread_barrier_t barrier;
    float *buf[2];
};
struct rank {
    struct sk_group group;
    struct pair *pair;
    const struct fixture *f;
    struct sk_result_row rows[N_PROMPT - 1 + N_NEW];
};

/* Rank 0 sums for both, between two meetings. */
static int all_reduce(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    struct pair *p = ((struct rank *)g->ctx)->pair;
    p->buf[g->rank] = (float *)(uintptr_t)buf;
    pthread_barrier_wait(&p->barrier);
    for (size_t i = 0; g->rank == 0 && i < n; i++)
        p->buf[0][i] = p->buf[1][i] = p->buf[0][i] + p->buf[1][i];
    pthread_barrier_wait(&p->barrier);
    return 0;
}

static void *run_rank(void *arg)
{
    static const struct sk_rank_conf conf = {
        .max_slot = 1, .max_len = 128, .max_row = 64, .max_result = 64, .kv_bytes = 1 << 20, .kv_dtype = SK_F32};
    struct rank *r = arg;
    struct sk_backend *be;
    struct sk_rank *rank;
    struct sk_err err;
    struct driver d;
    struct sk_params p;
    int32_t prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = i * i % 90;
    sk_params_default(&p);
    p.temperature = 0;
    p.n_prompt_logprobs = 0;

    sk_assert(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err) == 0);
    sk_assert(sk_rank_open(&r->f->dir, &r->f->w, be, r->pair ? &r->group : NULL, &conf, &rank, &err) == 0);
    driver_init(&d, rank);
    driver_generate(&d, prompt, N_PROMPT, &p, 32, N_NEW, r->rows, r->rows + N_PROMPT - 1);
    driver_done(&d);
    sk_rank_close(rank);
    be->close(be);
    return NULL;
}

static void compare(const struct sk_desc *desc, enum sk_dtype dtype)
{
    struct fixture f;
    struct pair pair;
    static struct rank one, two[2];
    pthread_t thread;
    fixture_open(&f, desc, dtype, 11);
    one = (struct rank){.f = &f};
    run_rank(&one);

    assert_int_equal(pthread_barrier_init(&pair.barrier, NULL, 2), 0);
    for (int i = 0; i < 2; i++)
        two[i] = (struct rank){
            .pair = &pair, .f = &f, .group = {.rank = i, .size = 2, .ctx = &two[i], .all_reduce = all_reduce}};
    assert_int_equal(pthread_create(&thread, NULL, run_rank, &two[1]), 0);
    run_rank(&two[0]);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&pair.barrier);

    for (int i = 0; i < N_PROMPT - 1 + N_NEW; i++) {
        assert_int_equal(two[0].rows[i].id, two[1].rows[i].id);
        assert_true(two[0].rows[i].logprob == two[1].rows[i].logprob); /* the ranks agree to the bit ... */
        assert_int_equal(two[0].rows[i].id, one.rows[i].id);
        assert_true(fabsf(two[0].rows[i].logprob - one.rows[i].logprob) <
                    1e-4f); /* ... and with one rank up to rounding */
    }
    fixture_close(&f);
}

static void llama_like(void **state)
{
    struct sk_desc desc;
    fixture_desc(&desc);
    compare(&desc, SK_F32);
    compare(&desc, SK_Q8);
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
    compare(&desc, SK_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_like),
        cmocka_unit_test(gpt_like),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
