/* attention of a rank that has some of a model's query heads, in which its first and last KV head may serve fewer of
 * them than the others: every head has the bits that it has in the whole model, at every level. */
#include "tests/unit/kernels/kern.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/mem.h"

/* A step of a chunk of a prompt that crosses into another split, then one of a generated token of it and one of another
 * slot. What lies before in the cache is zeros. */
enum { N_SLOT = 2, N_PROMPT = 40, FIRST_POS = 236, N_ROW = N_PROMPT + 2, MAX_HEAD = 102, MAX_DIM = 64 };
enum { LD_TABLE = (FIRST_POS + N_ROW) / SK_KV_BLOCK + 1, N_BLK = N_SLOT * LD_TABLE };

static const struct shape {
    uint32_t n_head, ratio, dim;
} shapes[] = {{9, 3, 64}, {5, 1, 16}, {8, 8, 32}, {4, 2, 48}, {102, 51, 16}};
static const enum sk_dtype dtypes[] = {SK_F32, SK_BF16, SK_Q8};

/* Query heads begin..end - 1 of the model, and the KV heads that they read. */
struct span {
    uint32_t begin, end, kv, kv_end;
};

static struct span span_of(const struct shape *s, uint32_t begin, uint32_t end)
{
    return (struct span){begin, end, begin / s->ratio, (end - 1) / s->ratio + 1};
}

/* Rows first..first + n - 1 of a model's qkv: only the heads of a span. */
static struct sk_dev put_qkv(struct sk_backend *be, const struct shape *s, const float *qkv, struct span span,
                             uint32_t first, uint32_t n)
{
    const uint32_t n_kv = s->n_head / s->ratio, n_q = span.end - span.begin, n_k = span.kv_end - span.kv;
    const struct {
        uint32_t from, n;
    } parts[] = {{span.begin, n_q}, {s->n_head + span.kv, n_k}, {s->n_head + n_kv + span.kv, n_k}};
    const size_t ld = (size_t)(s->n_head + 2 * n_kv) * s->dim, ld_rank = (size_t)(n_q + 2 * n_k) * s->dim;
    float *mine = kern_zeros(n * ld_rank * 4), *to = mine;

    for (uint32_t r = first; r < first + n; r++)
        for (int i = 0; i < 3; to += parts[i++].n * s->dim)
            memcpy(to, qkv + r * ld + (size_t)parts[i].from * s->dim, (size_t)parts[i].n * s->dim * 4);
    struct sk_dev d = kern_put(be, mine, n * ld_rank * 4);
    sk_free(mine);
    return d;
}

/* All rows: [N_ROW][heads of the span][dim]. */
static void attend(struct sk_backend *be, const struct shape *s, enum sk_dtype dtype, const float *qkv,
                   struct span span, float *ret)
{
    const uint32_t n_q = span.end - span.begin, n_k = span.kv_end - span.kv;
    const uint64_t block_bytes = be->kv_block_bytes(be, dtype, n_k, s->dim);
    struct sk_kv_layer kv = {.data = kern_new(be, N_BLK * block_bytes),
                             .block_bytes = block_bytes,
                             .dtype = dtype,
                             .n_blk = N_BLK,
                             .n_kv_head = n_k,
                             .head_dim = s->dim,
                             .head_stride = s->dim};
    int32_t slot[N_ROW] = {0}, pos[N_ROW], table[N_BLK];

    for (int i = 0; i < N_BLK; i++)
        table[i] = i * 5 % N_BLK;
    for (int i = 0; i < N_ROW; i++)
        pos[i] = FIRST_POS + i;
    slot[N_ROW - 1] = 1;
    pos[N_ROW - 1] = 3;
    for (uint32_t first = 0, n; first < N_ROW; first += n) {
        n = first == 0 ? N_PROMPT : N_ROW - N_PROMPT;
        struct sk_rows rows = {.n_row = n,
                               .n_prompt_row = first == 0 ? n : 0,
                               .max_run_row = first == 0 ? n : 1,
                               .max_pos = FIRST_POS + first + n - 1,
                               .slot = kern_put(be, slot + first, n * sizeof *slot),
                               .pos = kern_put(be, pos + first, n * sizeof *pos)};
        struct sk_op_attention op = {.out = kern_new(be, (size_t)n * n_q * s->dim * 4),
                                     .qkv = put_qkv(be, s, qkv, span, first, n),
                                     .ld_out = n_q * s->dim,
                                     .ld_qkv = (n_q + 2 * n_k) * s->dim,
                                     .n_head = n_q,
                                     .head_ratio = s->ratio,
                                     .head_at = span.begin % s->ratio,
                                     .scale = 0.2f,
                                     .rows = &rows,
                                     .table = kern_put(be, table, sizeof table),
                                     .ld_table = LD_TABLE,
                                     .kv = &kv};
        be->attention(be, &op);
        kern_get(be, op.out, ret + (size_t)first * n_q * s->dim, (size_t)n * n_q * s->dim * 4);
    }
    kern_free_all(be);
}

static void check_span(struct sk_backend *be, const struct shape *s, enum sk_dtype dtype, const float *qkv,
                       const float *whole, struct span span)
{
    static float got[N_ROW * MAX_HEAD * MAX_DIM];
    const size_t n = (size_t)(span.end - span.begin) * s->dim;
    char what[96];

    snprintf(what, sizeof what, "%s, heads %u..%u of %u, %u per KV head, %s", be->isa, span.begin, span.end - 1,
             s->n_head, s->ratio, sk_dtype_name(dtype));
    attend(be, s, dtype, qkv, span, got);
    for (uint32_t r = 0; r < N_ROW; r++)
        kern_assert_same_bits(got + r * n, whole + ((size_t)r * s->n_head + span.begin) * s->dim, n * 4, what);
}

/* A part of any cut is some stretch of heads, so all stretches are all cuts; of many heads those that matter. */
static void check_shape(const struct kern *k, const struct shape *s, enum sk_dtype dtype)
{
    static float whole[N_ROW * MAX_HEAD * MAX_DIM];
    const uint32_t width = (s->n_head + 2 * (s->n_head / s->ratio)) * s->dim;
    const bool some = s->n_head > 16;
    float *qkv = kern_rows(90, N_ROW, width, width);

    attend(k->one, s, dtype, qkv, span_of(s, 0, s->n_head), whole);
    for (uint32_t begin = 0; begin < s->n_head; begin += some ? 17 : 1)
        for (uint32_t end = begin + 1; end <= s->n_head; end += some ? 25 : 1)
            check_span(end % 2 ? k->one : k->two, s, dtype, qkv, whole, span_of(s, begin, end));
    check_span(k->two, s, dtype, qkv, whole, span_of(s, 0, s->n_head));
    sk_free(qkv);
}

static void check_level(const struct kern *k)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (size_t j = 0; j < sizeof dtypes / sizeof dtypes[0]; j++)
            check_shape(k, &shapes[i], dtypes[j]);
}

static void heads_of_a_rank(void **state)
{
    kern_each(check_level);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(heads_of_a_rank)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
