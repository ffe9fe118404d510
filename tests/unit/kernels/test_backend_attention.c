/* attention of every backend and level: against kernels/ref, and bit for bit against itself however prompts
 * are cut into chunks, whichever sequences share a step, in runs of one or of many generated tokens, with one thread or
 * two. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

enum {
    N_SLOT = 3,
    MAX_LEN = 640,
    MAX_ROW = 640,
    MAX_DIM = 256,
    LD_TABLE = MAX_LEN / SK_KV_BLOCK,
    N_BLK = N_SLOT * LD_TABLE
};

static const struct shape {
    uint32_t n_head, n_kv, dim, stride, rope_dim, window;
    bool interleaved, head_norm, is_long;
    float scale;
} shapes[] = {
    {1, 1, 8, 16, 8, 0, false, false, false, 0.35f},
    {4, 2, 12, 16, 0, 0, false, false, false, 0.3f},
    {3, 1, 32, 32, 32, 0, true, false, false, 0.18f},
    {8, 2, 64, 64, 64, 0, false, true, false, 0.125f},
    {7, 1, 80, 80, 20, 40, false, false, false, 0.11f},
    {4, 2, 128, 128, 128, 0, true, true, false, 0.09f},
    {9, 3, 64, 64, 64, 0, false, false, false, 0.125f},
    {4, 4, 20, 32, 20, 1, false, false, false, 0.22f},
    {10, 2, 96, 96, 96, 0, false, false, false, 0.1f},
    {6, 1, 256, 256, 256, 65, true, false, false, 0.06f},
    {13, 1, 48, 48, 0, 0, false, false, false, 0.14f},
    {16, 1, 64, 64, 64, 0, false, false, false, 0.125f},
    {50, 1, 16, 16, 0, 0, false, false, false, 0.25f},
    {2, 1, 64, 64, 64, 0, false, false, true, 0.125f},
    {8, 1, 32, 32, 32, 0, true, false, true, 0.18f},
    {2, 2, 12, 16, 12, 300, false, false, true, 0.3f},
    {11, 1, 8, 16, 8, 33, false, false, true, 0.35f},
    {4, 1, 16, 16, 16, 0, false, false, true, 4}, /* scores of 50 and more */
};

/* Positions below n_prompt are prompt class. */
static const struct {
    uint32_t n_prompt, n_pos;
} seqs[2][N_SLOT] = {{{70, 75}, {3, 9}, {33, 34}}, {{600, 603}, {255, 262}, {1, 5}}};

/* How the tokens come: chunk sizes of a step, one sequence after the other or all in the same steps; the rows of a
 * chunk of generated tokens as one run or as runs of one row each. */
static const struct schedule {
    uint32_t prompt_chunk, decode_chunk;
    bool together, single;
} schedules[] = {{1000, 1, false, false}, {1000, 1, true, false},  {1, 1, true, false},     {7, 1, true, false},
                 {16, 3, true, true},     {33, 1000, true, false}, {64, 1000, false, true}, {257, 2, true, false}};
enum { N_SCHEDULE = sizeof schedules / sizeof schedules[0] };

/* One backend with one layer's cache, and what came out: row slot * MAX_LEN + pos. */
struct player {
    struct sk_backend *be;
    const struct shape *shape;
    const float *qkv;
    struct sk_kv_layer kv;
    struct sk_dev cos_sin, q_norm, k_norm;
    uint32_t ld_qkv, ld_out;
    float *out;
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

/* Blocks are scattered over the cache. Entries of blocks behind the window of the first row, and of blocks beyond
 * its last row, are such as must not be used. */
static void add_rows(struct step *s, const struct shape *shape, uint32_t slot, uint32_t pos, uint32_t n)
{
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
    float *rows_in = kern_zeros(s->n_row * ld_qkv * 4), *rows_out = kern_zeros(s->n_row * ld_out * 4),
          *rows_back = kern_zeros(s->n_row * ld_qkv * 4);

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
    struct sk_op_attention op = {.out = kern_new(be, s->n_row * ld_out * 4),
                                 .qkv = kern_put(be, rows_in, s->n_row * ld_qkv * 4),
                                 .ld_out = p->ld_out,
                                 .ld_qkv = p->ld_qkv,
                                 .n_head = shape->n_head,
                                 .head_ratio = shape->n_head / shape->n_kv,
                                 .window = shape->window,
                                 .scale = shape->scale,
                                 .eps = 1e-6f,
                                 .q_norm = p->q_norm,
                                 .k_norm = p->k_norm,
                                 .cos_sin = p->cos_sin,
                                 .rope_dim = shape->rope_dim,
                                 .interleaved = shape->interleaved,
                                 .rows = &rows,
                                 .table = kern_put(be, s->table, sizeof s->table),
                                 .ld_table = LD_TABLE,
                                 .kv = &p->kv};
    be->attention(be, &op);
    kern_get(be, op.out, rows_out, s->n_row * ld_out * 4);
    kern_get(be, op.qkv, rows_back, s->n_row * ld_qkv * 4);
    kern_assert_same_bits(rows_back, rows_in, s->n_row * ld_qkv * 4, "qkv");
    for (uint32_t r = 0; r < s->n_row; r++) {
        size_t at = (size_t)(s->slot[r] * MAX_LEN + s->pos[r]) * ld_out;
        memcpy(p->out + at, rows_out + r * ld_out, ld_out * 4);
    }
    const struct sk_dev mine[] = {slot, pos, op.qkv, op.table, op.out};
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++)
        kern_free(be, mine[i]);
    sk_free(rows_in);
    sk_free(rows_out);
    sk_free(rows_back);
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
                add_rows(&step, p->shape, s, from[s], n);
                const uint32_t run = decode && how->single ? 1 : n;
                step.max_run_row = run > step.max_run_row ? run : step.max_run_row;
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

/* cos and sin of all positions; good until the next shape's. */
static const float *angles_of(const struct shape *shape)
{
    static float angles[MAX_LEN * MAX_DIM];
    static const struct shape *of;
    const uint32_t half = shape->rope_dim / 2;

    for (uint32_t i = 0; of != shape && i < MAX_LEN * half; i++) {
        const double angle = i / half * pow(10000, -(double)(i % half) / half);
        angles[2 * i] = (float)cos(angle);
        angles[2 * i + 1] = (float)sin(angle);
    }
    of = shape;
    return angles;
}

/* A fresh cache full of NaN: what was not stored must not be seen. */
static void play(struct sk_backend *be, const struct shape *shape, enum sk_dtype dtype, const float *qkv,
                 const struct schedule *how, float *out)
{
    const uint32_t n_head = shape->n_head + 2 * shape->n_kv;
    const uint64_t block_bytes = be->kv_block_bytes(be, dtype, shape->n_kv, shape->stride);
    struct player p = {.be = be,
                       .shape = shape,
                       .qkv = qkv,
                       .ld_qkv = n_head * shape->stride,
                       .ld_out = shape->n_head * shape->stride,
                       .out = out};
    void *nan = kern_zeros(block_bytes * N_BLK);

    assert_int_equal(block_bytes % 64, 0);
    memset(nan, 0xff, block_bytes * N_BLK);
    p.kv = (struct sk_kv_layer){.data = kern_put(be, nan, block_bytes * N_BLK),
                                .block_bytes = block_bytes,
                                .dtype = dtype,
                                .n_blk = N_BLK,
                                .n_kv_head = shape->n_kv,
                                .head_dim = shape->dim,
                                .head_stride = shape->stride};
    if (shape->rope_dim > 0)
        p.cos_sin = kern_put(be, angles_of(shape), (size_t)MAX_LEN * shape->rope_dim * 4);
    if (shape->head_norm) {
        float *weight = kern_rows(51, 2, shape->dim, shape->stride);
        p.q_norm = kern_put(be, weight, shape->stride * 4);
        p.k_norm = kern_put(be, weight + shape->stride, shape->stride * 4);
        sk_free(weight);
    }
    for (uint32_t s = 0; s < (how->together ? 1 : N_SLOT); s++)
        play_slots(&p, how, how->together ? 0 : s, how->together ? N_SLOT : s + 1);
    kern_free_all(be);
    sk_free(nan);
}

/* What a row is allowed to be off. Level avx512-bf16 and above round queries, weights and q8's values to bf16, whose
 * half unit is 2^-9 of the value; f32 sums and exponentials are off by less than the rest. q8: one int8 step of a value
 * near the middle of two, which rounds one way in ref and the other way here (1/127 of about 3, on few positions). */
static double tolerance(const struct kern *k, const struct shape *shape, enum sk_dtype dtype)
{
    const bool f32 = strcmp(k->one->isa, "avx512") == 0 || strcmp(k->one->isa, "avx512-vnni") == 0 ||
                     strncmp(k->one->isa, "avx2", 4) == 0;
    const double steep = shape->scale > 1 ? 10 : 1; /* an error of a score of 50 is one of the weight */
    if (strcmp(k->one->name, "ref") == 0)
        return 0;
    return steep * (dtype == SK_F32 ? 1e-5 : f32 ? (dtype == SK_BF16 ? 1e-3 : 5e-3) : 0.02);
}

static const enum sk_dtype dtypes[] = {SK_F32, SK_BF16, SK_Q8};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0], N_DTYPE = sizeof dtypes / sizeof dtypes[0] };

/* Inputs and what ref makes of them: the same for all levels, so made once. */
static struct memo {
    float *qkv, *want[N_DTYPE];
} memos[N_SHAPE];

static size_t out_floats(const struct shape *shape)
{
    return (size_t)N_SLOT * MAX_LEN * shape->n_head * shape->stride;
}

static void make_memo(const struct kern *k, const struct shape *shape, struct memo *m)
{
    const uint32_t width = (shape->n_head + 2 * shape->n_kv) * shape->stride;

    m->qkv = kern_zeros((size_t)N_SLOT * MAX_LEN * width * 4);
    for (uint32_t s = 0; s < N_SLOT; s++) {
        const uint32_t n_pos = seqs[shape->is_long][s].n_pos;
        float *rows = kern_rows(50 + s, n_pos * (width / shape->stride), shape->dim, shape->stride);
        memcpy(m->qkv + (size_t)s * MAX_LEN * width, rows, (size_t)n_pos * width * 4);
        sk_free(rows);
    }
    for (size_t j = 0; j < N_DTYPE; j++) {
        m->want[j] = kern_zeros(out_floats(shape) * 4);
        play(k->ref, shape, dtypes[j], m->qkv, &schedules[0], m->want[j]);
    }
}

static void check_shape(const struct kern *k, const struct shape *shape, enum sk_dtype dtype, const float *qkv,
                        const float *want)
{
    const size_t n_out = out_floats(shape);
    float *all = kern_zeros(n_out * 4), *got = kern_zeros(n_out * 4);
    char what[96];

    snprintf(what, sizeof what, "%s, %u/%u heads of %u, window %u, %s", k->one->isa, shape->n_head, shape->n_kv,
             shape->dim, shape->window, sk_dtype_name(dtype));
    play(k->one, shape, dtype, qkv, &schedules[0], all);
    kern_assert_near(all, want, n_out, tolerance(k, shape, dtype), what);
    for (int i = 1; i <= N_SCHEDULE; i++) { /* the last one: as the first, but with two threads */
        if (shape->is_long && schedules[i % N_SCHEDULE].prompt_chunk == 1)
            continue; /* takes longest, and shows no more than short sequences do */
        play(i % 2 ? k->one : k->two, shape, dtype, qkv, &schedules[i % N_SCHEDULE], got);
        kern_assert_same_bits(got, all, n_out * 4, what);
    }
    sk_free(all);
    sk_free(got);
}

static void check_backend(const struct kern *k)
{
    for (size_t i = 0; i < N_SHAPE; i++) {
        if (memos[i].qkv == NULL)
            make_memo(k, &shapes[i], &memos[i]);
        if (shapes[i].is_long && strcmp(k->one->name, "ref") == 0)
            continue; /* it takes each row by itself, slowly: long_context shows its splits */
        for (size_t j = 0; j < N_DTYPE; j++)
            check_shape(k, &shapes[i], dtypes[j], memos[i].qkv, memos[i].want[j]);
    }
}

static void attention(void **state)
{
    kern_each(check_backend);
    for (size_t i = 0; i < N_SHAPE; i++) {
        sk_free(memos[i].qkv);
        for (size_t j = 0; j < N_DTYPE; j++)
            sk_free(memos[i].want[j]);
    }
}

/* ---- 32,768 positions ---- */

#if KERN_SANITIZED
enum { LONG = 4096 };
#else
enum { LONG = 32768 };
#endif
enum { LONG_CHUNK = 20, LONG_HEADS = 3, LONG_DIM = 16, LONG_LD = (LONG_HEADS + 2) * LONG_DIM };

/* Rows first..first + n - 1 of one slot, in order over the whole cache; ret: their outputs. */
static void long_rows(struct sk_backend *be, const struct sk_kv_layer *kv, const float *qkv, uint32_t first, uint32_t n,
                      uint32_t window, float *ret)
{
    static int32_t slot[LONG], pos[LONG], table[LONG / SK_KV_BLOCK];
    for (uint32_t i = 0; i < n; i++)
        pos[i] = (int32_t)(first + i);
    for (uint32_t i = 0; i < LONG / SK_KV_BLOCK; i++)
        table[i] = (int32_t)(LONG / SK_KV_BLOCK - 1 - i);
    const uint32_t n_prompt_row = first < LONG - 1 ? n : 0; /* the last position is a generated one */
    struct sk_rows rows = {.n_row = n,
                           .n_prompt_row = n_prompt_row,
                           .max_run_row = n,
                           .max_pos = first + n - 1,
                           .slot = kern_put(be, slot, n * 4),
                           .pos = kern_put(be, pos, n * 4),
                           .max_len = LONG};
    struct sk_op_attention op = {.out = kern_new(be, n * LONG_HEADS * LONG_DIM * 4),
                                 .qkv = kern_put(be, qkv + (size_t)first * LONG_LD, n * LONG_LD * 4),
                                 .ld_out = LONG_HEADS * LONG_DIM,
                                 .ld_qkv = LONG_LD,
                                 .n_head = LONG_HEADS,
                                 .head_ratio = LONG_HEADS,
                                 .window = window,
                                 .scale = 0.5f,
                                 .rows = &rows,
                                 .table = kern_put(be, table, sizeof table),
                                 .ld_table = LONG / SK_KV_BLOCK,
                                 .kv = kv};
    be->attention(be, &op);
    kern_get(be, op.out, ret, n * LONG_HEADS * LONG_DIM * 4);
    const struct sk_dev mine[] = {rows.slot, rows.pos, op.out, op.qkv, op.table};
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++)
        kern_free(be, mine[i]);
}

/* A chunk at the end, and the last row alone. All rows before are stored under a window of 1, which costs no time. */
static void long_play(struct sk_backend *be, const float *qkv, uint32_t chunk, float *ret)
{
    const uint64_t block_bytes = be->kv_block_bytes(be, SK_BF16, 1, LONG_DIM);
    const size_t n_out = LONG_HEADS * LONG_DIM;
    struct sk_kv_layer kv = {.data = kern_new(be, block_bytes * LONG / SK_KV_BLOCK),
                             .block_bytes = block_bytes,
                             .dtype = SK_BF16,
                             .n_blk = LONG / SK_KV_BLOCK,
                             .n_kv_head = 1,
                             .head_dim = LONG_DIM,
                             .head_stride = LONG_DIM};
    float *unused = kern_zeros(LONG * n_out * 4);

    long_rows(be, &kv, qkv, 0, LONG - 1, 1, unused);
    for (uint32_t i = 0; i < LONG_CHUNK; i += chunk)
        long_rows(be, &kv, qkv, LONG - 1 - LONG_CHUNK + i, least(chunk, LONG_CHUNK - i), 0, ret + i * n_out);
    long_rows(be, &kv, qkv, LONG - 1, 1, 0, ret + LONG_CHUNK * n_out);
    sk_free(unused);
    kern_free_all(be);
}

static float *long_qkv; /* the same for all levels, as is what ref makes of it */

static void check_long(const struct kern *k)
{
    enum { N_OUT = (LONG_CHUNK + 1) * LONG_HEADS * LONG_DIM };
    static float want[N_OUT], one[N_OUT], got[N_OUT];

    if (long_qkv == NULL) {
        long_qkv = kern_rows(60, LONG, LONG_LD, LONG_LD);
        long_play(k->ref, long_qkv, LONG_CHUNK, want);
    }
    long_play(k->one, long_qkv, LONG_CHUNK, one);
    kern_assert_near(one, want, N_OUT, 0.02, "many positions");
    long_play(k->two, long_qkv, LONG_CHUNK, got);
    kern_assert_same_bits(got, one, sizeof one, "two threads");
    long_play(k->two, long_qkv, 7, got);
    kern_assert_same_bits(got, one, sizeof one, "chunks of 7");
}

static void long_context(void **state)
{
    kern_each(check_long);
    sk_free(long_qkv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention), cmocka_unit_test(long_context)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
