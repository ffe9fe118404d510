/* linear_reduce of every level, ranks being threads: bit for bit linear, the sum of the ranks' parts in their order,
 * and add, however rows are cut into chunks. */
#include "tests/unit/kernels/kern.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/mem.h"
#include "comm/group/group.h"

enum { MAX_RANK = 4, MAX_ROW = 300, MAX_LD = 592 };

static const struct shape {
    enum sk_dtype dtype;
    uint32_t n_out, ld_out, slab_k, n_slab[MAX_RANK]; /* ranks have shards of different width */
    bool bias;
    enum sk_op_pre_kind pre;
} shapes[] = {
    {SK_F32, 33, 64, 20, {2, 1, 3, 2}, true, SK_PRE_NONE},
    {SK_BF16, 48, 48, 64, {1, 2, 2, 1}, false, SK_PRE_NONE},
    {SK_Q8, 100, 112, 64, {3, 2, 1, 1}, true, SK_PRE_GATED_ACT},
    {SK_Q4, 576, 592, 64, {5, 4, 1, 3}, false, SK_PRE_NONE},
    {SK_Q4S, 16, 16, 32, {1, 1, 4, 1}, true, SK_PRE_ACT},
};
static const struct rows {
    uint32_t n, n_prompt;
} rows[] = {{1, 0}, {2, 1}, {7, 7}, {16, 0}, {33, 20}, {64, 64}, {MAX_ROW, 170}, {MAX_ROW, MAX_ROW}};
static const size_t windows[] = {1, 5, 40, 1000}; /* rows that have room */

/* What all ranks share, and what each has. */
struct rank {
    struct sk_backend *be;
    struct sk_group *group;
    struct sk_mat mat;
    struct sk_op_linear op;
    int rc;
    pthread_t thread;
};
struct party {
    const struct shape *shape;
    int n_rank;
    struct rank rank[MAX_RANK];
    float *x[MAX_RANK], *bias, *old, *want; /* host; want of all rows */
};

static uint32_t width_of(const struct party *p, int r)
{
    return p->shape->slab_k * p->shape->n_slab[r] * (p->shape->pre == SK_PRE_GATED_ACT ? 2 : 1);
}

/* Rows of which n_prompt are prompt class, in the memory of rank r. */
static void bind(struct party *p, int r, struct rows n)
{
    struct rank *k = &p->rank[r];
    const struct shape *s = p->shape;
    const uint32_t ld_x = (uint32_t)SK_ALIGN16(width_of(p, r));

    k->op = (struct sk_op_linear){.x = kern_put(k->be, p->x[r], (size_t)n.n * ld_x * 4),
                                  .out = kern_put(k->be, p->old, (size_t)n.n * s->ld_out * 4),
                                  .ld_out = s->ld_out,
                                  .ld_x = ld_x,
                                  .pre = {.kind = s->pre, .act = SK_OP_SILU},
                                  .mat = &k->mat,
                                  .n_row = n.n,
                                  .n_prompt_row = n.n_prompt,
                                  .add = true};
    if (s->bias && r == 1)
        k->op.bias = kern_put(k->be, p->bias, MAX_LD * 4);
}

static void unbind(struct rank *k)
{
    kern_free(k->be, k->op.x);
    kern_free(k->be, k->op.out);
    if (k->op.bias.a != 0)
        kern_free(k->be, k->op.bias);
}

/* old + ((part of rank 0 + part of rank 1) + ...), by linear alone. */
static void make_want(struct party *p, struct rows n)
{
    const size_t n_float = (size_t)n.n * p->shape->ld_out;
    float *part = kern_zeros(n_float * 4), *sum = kern_zeros(n_float * 4);

    for (int r = 0; r < p->n_rank; r++) {
        struct rank *k = &p->rank[r];
        bind(p, r, n);
        k->op.add = false;
        k->be->linear(k->be, &k->op);
        kern_get(k->be, k->op.out, part, n_float * 4);
        unbind(k);
        for (size_t i = 0; i < n_float; i++)
            sum[i] = r == 0 ? part[i] : sum[i] + part[i];
    }
    memcpy(p->want, p->old, n_float * 4);
    for (uint32_t r = 0; r < n.n; r++)
        for (uint32_t i = 0; i < p->shape->n_out; i++)
            p->want[r * p->shape->ld_out + i] += sum[r * p->shape->ld_out + i];
    sk_free(part), sk_free(sum);
}

static void *rank_main(void *arg)
{
    struct rank *k = arg;
    k->rc = k->be->linear_reduce(k->be, &k->op, k->group);
    return NULL;
}

static void check_rows(struct party *p, struct rows n, float *got)
{
    const size_t bytes = (size_t)n.n * p->shape->ld_out * 4;
    char what[96];

    make_want(p, n);
    for (int r = 0; r < p->n_rank; r++) {
        bind(p, r, n);
        assert_int_equal(pthread_create(&p->rank[r].thread, NULL, rank_main, &p->rank[r]), 0);
    }
    for (int r = 0; r < p->n_rank; r++)
        assert_int_equal(pthread_join(p->rank[r].thread, NULL), 0);
    for (int r = 0; r < p->n_rank; r++) {
        struct rank *k = &p->rank[r];
        assert_int_equal(k->rc, 0);
        kern_get(k->be, k->op.out, got, bytes);
        unbind(k);
        snprintf(what, sizeof what, "%s, %u rows, %u of prompts, window of %zu, rank %d of %d",
                 sk_dtype_name(p->shape->dtype), n.n, n.n_prompt, k->group->window->max, r, p->n_rank);
        kern_assert_same_bits(got, p->want, bytes, what);
    }
}

/* The same group for all numbers of rows: rounds go on. */
static void check_window(struct party *p, size_t n_fit, float *got)
{
    struct sk_group_shm_conf conf = {.size = p->n_rank, .window_words = n_fit * SK_ALIGN16(p->shape->n_out)};
    const size_t bytes = sk_group_shm_bytes(&conf);
    struct sk_backend *be = p->rank[0].be;
    void *mem = (void *)(uintptr_t)kern_new(be, bytes).a; // NOLINT(performance-no-int-to-ptr): the host's memory

    for (int r = 0; r < p->n_rank; r++) {
        conf.rank = r;
        assert_int_equal(sk_group_shm(&conf, mem, &p->rank[r].group), 0);
        assert_non_null(p->rank[r].group->window);
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!KERN_SANITIZED || rows[i].n < 100)
            check_rows(p, rows[i], got);
    for (int r = 0; r < p->n_rank; r++)
        p->rank[r].group->close(p->rank[r].group);
}

static void check_shape(struct sk_backend *const *be, int n_rank, const struct shape *shape)
{
    struct party p = {.shape = shape, .n_rank = n_rank};
    float *got = kern_zeros((size_t)MAX_ROW * MAX_LD * 4);

    p.want = kern_zeros((size_t)MAX_ROW * MAX_LD * 4);
    p.bias = kern_rows(70, 1, shape->n_out, MAX_LD);
    p.old = kern_rows(71, MAX_ROW, shape->n_out, shape->ld_out);
    for (int r = 0; r < n_rank; r++) {
        const uint32_t n_in = shape->slab_k * shape->n_slab[r];
        p.rank[r].be = be[r];
        p.rank[r].mat = kern_mat(be[r], 72 + (uint32_t)r, shape->dtype, shape->n_out, n_in, shape->slab_k);
        p.x[r] = kern_rows(80 + (uint32_t)r, MAX_ROW, width_of(&p, r), (uint32_t)SK_ALIGN16(width_of(&p, r)));
    }
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
        check_window(&p, windows[i], got);
    for (int r = 0; r < n_rank; r++) {
        kern_free_all(be[r]);
        sk_free(p.x[r]);
    }
    sk_free(got), sk_free(p.want), sk_free(p.bias), sk_free(p.old);
}

/* The ranks have different numbers of threads. */
static void check_level(const struct kern *k)
{
    struct sk_backend *const be[2] = {k->one, k->two};

    if (k->one->linear_reduce == NULL)
        return; /* ref: engine/model does the three in turn */
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_shape(be, 2, &shapes[i]);
}

static void two_ranks(void **state)
{
    kern_each(check_level);
}

static void more_ranks(void **state)
{
    struct sk_backend *be[MAX_RANK];
    struct sk_err err;

    for (int r = 0; r < MAX_RANK; r++)
        if (sk_cpu_open(&(struct sk_backend_conf){.n_thread = 1}, &be[r], &err) < 0) {
            printf("more ranks: not tested: %s\n", err.msg);
            assert_int_equal(r, 0);
            return;
        }
    for (int n = 3; n <= MAX_RANK; n++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            check_shape(be, n, &shapes[i]);
    for (int r = 0; r < MAX_RANK; r++)
        be[r]->close(be[r]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(two_ranks), cmocka_unit_test(more_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
