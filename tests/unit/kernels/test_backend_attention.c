/* rope_kv and attention of every backend and level: against kernels/ref, and bit for bit against itself however prompts
 * are cut into chunks, whichever sequences share a step, in runs of one or of many generated tokens, with one thread or
 * two. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

enum { N_SLOT = 3, MAX_LEN = 640, MAX_ROW = 640, LD_TABLE = MAX_LEN / SK_KV_BLOCK, N_BLK = N_SLOT * LD_TABLE };

static const struct shape {
    uint32_t n_head, n_kv, dim, stride, rope_dim, window;
    enum sk_dtype dtype;
    bool interleaved, head_norm, is_long;
    float scale;
    double tol;
} shapes[] = {
    {1, 1, 8, 16, 8, 0, SK_F32, false, false, false, 0.35f, 1e-5},
    {4, 2, 12, 16, 0, 0, SK_F32, false, false, false, 0.3f, 1e-5},
    {3, 1, 32, 32, 32, 0, SK_F16, true, false, false, 0.18f, 1e-3},
    {8, 2, 64, 64, 64, 0, SK_F32, false, true, false, 0.125f, 1e-5},
    {7, 1, 80, 80, 20, 40, SK_F16, false, false, false, 0.11f, 1e-3},
    {2, 2, 128, 128, 128, 0, SK_F32, true, true, false, 0.09f, 1e-5},
    {9, 3, 64, 64, 64, 0, SK_F16, false, false, false, 0.125f, 1e-3},
    {4, 4, 20, 32, 20, 1, SK_F32, false, false, false, 0.22f, 1e-5},
    {2, 1, 64, 64, 64, 0, SK_F32, false, false, true, 0.125f, 1e-5},
    {3, 1, 32, 32, 32, 0, SK_F16, true, false, true, 0.18f, 1e-3},
    {2, 2, 12, 16, 12, 300, SK_F32, false, false, true, 0.3f, 1e-5},
    {7, 1, 8, 16, 8, 33, SK_F16, false, false, true, 0.35f, 1e-3},
    {4, 1, 16, 16, 16, 0, SK_F32, false, false, true, 4, 1e-3}, /* scores of 50 and more */
};

/* Positions below n_prompt are prompt class. */
static const struct {
    uint32_t n_prompt, n_pos;
} seqs[2][N_SLOT] = {{{70, 75}, {3, 9}, {33, 34}}, {{600, 603}, {255, 262}, {1, 5}}};

/* How the tokens come: chunk sizes of a step, one sequence after the other or all in the same steps. */
static const struct schedule {
    uint32_t prompt_chunk, decode_chunk;
    bool together;
} schedules[] = {{1000, 1, false}, {1000, 1, true},  {1, 1, true},      {7, 1, true},
                 {16, 3, true},    {33, 1000, true}, {64, 1000, false}, {257, 2, true}};
enum { N_SCHEDULE = sizeof schedules / sizeof schedules[0] };

/* One backend with one layer's cache, and what came out: row slot * MAX_LEN + pos. */
struct player {
    struct sk_backend *be;
    const struct shape *shape;
    const float *qkv;
    struct sk_kv_layer kv;
    struct sk_dev cos_sin, q_norm, k_norm;
    uint32_t ld_qkv, ld_out;
    float *out, *q;
};

/* The rows of one step; a copy of struct sk_rows on the host. */
struct step {
    int32_t slot[MAX_ROW], pos[MAX_ROW];
    int32_t table[N_SLOT * LD_TABLE];
    uint32_t n_row, n_prompt_row, max_run_row, max_pos;
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Blocks are scattered over the cache. Entries of blocks behind the window of the run's first row, and of blocks beyond
 * its last row, are such as must not be used. */
static void add_run(struct step *s, const struct shape *shape, uint32_t slot, uint32_t pos, uint32_t n)
{
    s->max_run_row = n > s->max_run_row ? n : s->max_run_row;
    s->max_pos = pos + n - 1 > s->max_pos ? pos + n - 1 : s->max_pos;
    for (uint32_t i = 0; i < n; i++, s->n_row++) {
        s->slot[s->n_row] = (int32_t)slot;
        s->pos[s->n_row] = (int32_t)(pos + i);
    }
    for (uint32_t b = 0; b < LD_TABLE; b++) {
        bool behind = shape->window > 0 && (b + 1) * SK_KV_BLOCK + shape->window <= pos + 1,
             beyond = b * SK_KV_BLOCK >= pos + n;
        s->table[slot * LD_TABLE + b] = behind || beyond ? 0x7fffffff : (int32_t)((slot * LD_TABLE + b) * 7 % N_BLK);
    }
}

static void run_step(struct player *p, const struct step *s)
{
    const struct shape *shape = p->shape;
    struct sk_backend *be = p->be;
    const size_t ld_qkv = p->ld_qkv, ld_out = p->ld_out;
    float *rows_in = kern_zeros(s->n_row * ld_qkv * 4), *rows_out = kern_zeros(s->n_row * ld_out * 4);

    for (uint32_t r = 0; r < s->n_row; r++)
        memcpy(rows_in + r * ld_qkv, p->qkv + (size_t)(s->slot[r] * MAX_LEN + s->pos[r]) * ld_qkv, ld_qkv * 4);
    struct sk_dev slot = kern_put(be, s->slot, sizeof s->slot), pos = kern_put(be, s->pos, sizeof s->pos);
    struct sk_rows rows = {.n_row = s->n_row,
                           .n_prompt_row = s->n_prompt_row,
                           .max_run_row = s->max_run_row,
                           .max_pos = s->max_pos,
                           .slot = slot,
                           .pos = pos,
                           .max_len = MAX_LEN};
    struct sk_op_rope_kv store = {.qkv = kern_put(be, rows_in, s->n_row * ld_qkv * 4),
                                  .ld = p->ld_qkv,
                                  .n_head = shape->n_head,
                                  .q_norm = p->q_norm,
                                  .k_norm = p->k_norm,
                                  .eps = 1e-6f,
                                  .cos_sin = p->cos_sin,
                                  .rope_dim = shape->rope_dim,
                                  .interleaved = shape->interleaved,
                                  .rows = &rows,
                                  .table = kern_put(be, s->table, sizeof s->table),
                                  .ld_table = LD_TABLE,
                                  .kv = &p->kv};
    struct sk_op_attention attention = {.out = kern_new(be, s->n_row * ld_out * 4),
                                        .q = store.qkv,
                                        .ld_out = p->ld_out,
                                        .ld_q = p->ld_qkv,
                                        .n_head = shape->n_head,
                                        .window = shape->window,
                                        .scale = shape->scale,
                                        .rows = &rows,
                                        .table = store.table,
                                        .ld_table = LD_TABLE,
                                        .kv = &p->kv};
    be->rope_kv(be, &store);
    be->attention(be, &attention);
    kern_get(be, store.qkv, rows_in, s->n_row * ld_qkv * 4);
    kern_get(be, attention.out, rows_out, s->n_row * ld_out * 4);
    for (uint32_t r = 0; r < s->n_row; r++) {
        size_t at = (size_t)(s->slot[r] * MAX_LEN + s->pos[r]) * ld_out;
        memcpy(p->out + at, rows_out + r * ld_out, ld_out * 4);
        memcpy(p->q + at, rows_in + r * ld_qkv, ld_out * 4);
    }
    const struct sk_dev mine[] = {slot, pos, store.qkv, store.table, attention.out};
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++)
        kern_free(be, mine[i]);
    sk_free(rows_in);
    sk_free(rows_out);
}

/* Slots first..last-1 in common steps, until all is done. */
static void play_slots(struct player *p, const struct schedule *how, uint32_t first, uint32_t last)
{
    uint32_t done[N_SLOT] = {0};
    for (;;) {
        static struct step step;
        uint32_t from[N_SLOT];
        memset(&step, 0, sizeof step);
        memcpy(from, done, sizeof from);
        for (int decode = 0; decode < 2; decode++) {
            for (uint32_t s = first; s < last; s++) {
                const uint32_t n_prompt = seqs[p->shape->is_long][s].n_prompt, n_pos = seqs[p->shape->is_long][s].n_pos;
                if (from[s] == n_pos || (from[s] >= n_prompt) != decode)
                    continue;
                uint32_t n =
                    decode ? least(how->decode_chunk, n_pos - from[s]) : least(how->prompt_chunk, n_prompt - from[s]);
                n = least(n, MAX_ROW - step.n_row);
                if (n == 0)
                    continue;
                add_run(&step, p->shape, s, from[s], n);
                done[s] += n;
            }
            if (!decode)
                step.n_prompt_row = step.n_row;
        }
        if (step.n_row == 0)
            return;
        run_step(p, &step);
    }
}

/* A fresh cache full of NaN: what was not stored must not be seen. */
static void play(struct sk_backend *be, const struct shape *shape, const float *qkv, const struct schedule *how,
                 float *out, float *q)
{
    const uint32_t n_head = shape->n_head + 2 * shape->n_kv;
    const uint64_t block_bytes = be->kv_block_bytes(be, shape->dtype, shape->n_kv, shape->stride);
    struct player p = {.be = be,
                       .shape = shape,
                       .qkv = qkv,
                       .ld_qkv = n_head * shape->stride,
                       .ld_out = shape->n_head * shape->stride,
                       .out = out,
                       .q = q};
    float *angles = kern_zeros(((size_t)MAX_LEN * shape->rope_dim + 1) * 4);
    void *nan = kern_zeros(block_bytes * N_BLK);

    assert_int_equal(block_bytes % 64, 0);
    memset(nan, 0xff, block_bytes * N_BLK);
    p.kv = (struct sk_kv_layer){.data = kern_put(be, nan, block_bytes * N_BLK),
                                .block_bytes = block_bytes,
                                .dtype = shape->dtype,
                                .n_blk = N_BLK,
                                .n_kv_head = shape->n_kv,
                                .head_dim = shape->dim,
                                .head_stride = shape->stride};
    for (uint32_t i = 0; i < MAX_LEN * shape->rope_dim / 2; i++) {
        uint32_t half = shape->rope_dim / 2;
        double angle = i / half * pow(10000, -(double)(i % half) / half);
        angles[2 * i] = (float)cos(angle);
        angles[2 * i + 1] = (float)sin(angle);
    }
    if (shape->rope_dim > 0)
        p.cos_sin = kern_put(be, angles, (size_t)MAX_LEN * shape->rope_dim * 4);
    if (shape->head_norm) {
        float *weight = kern_rows(51, 2, shape->dim, shape->stride);
        p.q_norm = kern_put(be, weight, shape->stride * 4);
        p.k_norm = kern_put(be, weight + shape->stride, shape->stride * 4);
        sk_free(weight);
    }
    for (uint32_t s = 0; s < (how->together ? 1 : N_SLOT); s++)
        play_slots(&p, how, how->together ? 0 : s, how->together ? N_SLOT : s + 1);
    kern_free_all(be);
    sk_free(angles);
    sk_free(nan);
}

static void check_shape(const struct kern *k, const struct shape *shape)
{
    const uint32_t n_head = shape->n_head + 2 * shape->n_kv, n_row = N_SLOT * MAX_LEN;
    const size_t n_out = (size_t)n_row * shape->n_head * shape->stride;
    float *qkv = kern_rows(50, n_row * n_head, shape->dim, shape->stride), *want[2], *all[2], *got[2];
    char what[96];

    for (int i = 0; i < 2; i++) {
        want[i] = kern_zeros(n_out * 4);
        all[i] = kern_zeros(n_out * 4);
        got[i] = kern_zeros(n_out * 4);
    }
    snprintf(what, sizeof what, "%s, %u/%u heads of %u, window %u, %s", k->one->isa, shape->n_head, shape->n_kv,
             shape->dim, shape->window, sk_dtype_name(shape->dtype));
    play(k->ref, shape, qkv, &schedules[0], want[0], want[1]);
    play(k->one, shape, qkv, &schedules[0], all[0], all[1]);
    kern_assert_near(all[1], want[1], n_out, 1e-5, "q");
    kern_assert_near(all[0], want[0], n_out, shape->tol, what);
    for (int i = 1; i <= N_SCHEDULE; i++) { /* the last one: as the first, but with two threads */
        play(i % 2 ? k->one : k->two, shape, qkv, &schedules[i % N_SCHEDULE], got[0], got[1]);
        kern_assert_same_bits(got[1], all[1], n_out * 4, "q");
        kern_assert_same_bits(got[0], all[0], n_out * 4, what);
    }
    for (int i = 0; i < 2; i++)
        sk_free(want[i]), sk_free(all[i]), sk_free(got[i]);
    sk_free(qkv);
}

static void check_backend(const struct kern *k)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_shape(k, &shapes[i]);
}

static void attention(void **state)
{
    kern_each(check_backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
