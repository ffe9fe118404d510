#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <string.h>
#include "comm/base/mem.h"

enum { LD = 48 };

static struct sk_backend *be;

static int open_ref(void **state)
{
    be = kern_ref();
    return 0;
}

static int close_ref(void **state)
{
    kern_free_all(be);
    be->close(be);
    return 0;
}

static struct sk_dev put(const float *x, size_t n)
{
    return kern_put(be, x, n * sizeof *x);
}

static void memory(void **state)
{
    char text[200] = "weights", back[200];
    struct sk_dev d = kern_new(be, sizeof text), e = kern_put(be, text, sizeof text);
    kern_get(be, d, back, sizeof back);
    for (size_t i = 0; i < sizeof back; i++)
        assert_int_equal(back[i], 0);
    be->copy(be, sk_dev_at(d, 2), e, 8);
    kern_get(be, d, back, sizeof back);
    assert_string_equal(back + 2, "weights");
    d = be->adopt(be, text, sizeof text);
    be->copy(be, e, sk_dev_at(d, 3), 5);
    kern_get(be, e, back, sizeof back);
    assert_string_equal(back, "ghts");
    be->release(be, d, sizeof text);
    be->free(be, (struct sk_dev){0}, 0);
    assert_int_equal(be->alloc(be, UINT64_MAX).a, 0);
    assert_int_equal(be->kv_block_bytes(be, SK_BF16, 3, 16), 2 * 32 * 3 * 16 * 2);
    assert_int_equal(be->kv_block_bytes(be, SK_Q8, 3, 48), 2 * 32 * 3 * (48 + 2 * 4));
}

static void out_of_memory_is_told_by_wait(void **state)
{
    struct sk_backend *ref = kern_ref();
    struct sk_mat mat = kern_mat(be, 1, SK_F32, 1, 16, 16);
    struct sk_dev x = kern_new(be, 64);
    sk_mem_fail_at(1, 0);
    ref->linear(ref, &(struct sk_op_linear){.out = x, .x = x, .ld_out = 16, .ld_x = 16, .mat = &mat, .n_row = 1});
    sk_mem_fail_at(0, 0);
    assert_int_equal(ref->wait(ref), -SK_EINTERNAL);
    ref->close(ref);
}

static void linear(void **state)
{
    enum { N_OUT = 19, N_IN = 40, N_ROW = 3 };
    struct sk_mat mat = kern_mat(be, 7, SK_F32, N_OUT, N_IN, 20);
    float *x = kern_rows(8, N_ROW, N_IN, LD), *bias = kern_rows(9, 1, N_OUT, LD),
          *old = kern_rows(10, N_ROW, N_OUT, LD);
    float w[N_IN], out[N_ROW * LD];
    struct sk_op_linear op = {
        .out = put(old, N_ROW * LD), .x = put(x, N_ROW * LD), .ld_out = LD, .ld_x = LD, .mat = &mat, .n_row = N_ROW};

    for (int mode = 0; mode < 4; mode++) {
        be->upload(be, op.out, old, sizeof out);
        op.add = mode & 1;
        op.bias = mode & 2 ? put(bias, LD) : (struct sk_dev){0};
        be->linear(be, &op);
        kern_get(be, op.out, out, sizeof out);
        for (int o = 0; o < N_OUT; o++) {
            kern_mat_row(7, SK_F32, N_IN, (uint32_t)o, w);
            for (int r = 0; r < N_ROW; r++) {
                float want = (op.add ? old[r * LD + o] : 0) + (mode & 2 ? bias[o] : 0);
                for (int i = 0; i < N_IN; i++)
                    want += w[i] * x[r * LD + i];
                kern_assert_near(&out[r * LD + o], &want, 1, 3e-6, "linear");
            }
        }
        kern_assert_pad(out, N_ROW, N_OUT, LD);
    }
    sk_free(x);
    sk_free(bias);
    sk_free(old);
}

/* Four inputs that a matrix of ones and zeros lets through. */
static void through(const struct sk_op_pre *pre, const float *x, uint32_t n_row, float *ret)
{
    struct sk_mat mat = {0};
    float one[16 * 4] = {0};
    assert_int_equal(sk_pack_layout(&mat.pack, SK_F32, 4, 4, 4), 0);
    assert_int_equal(mat.pack.bytes, sizeof one);
    for (int i = 0; i < 4; i++)
        one[i * 16 + i] = 1;
    mat.data = put(one, 64);
    struct sk_op_linear op = {.out = kern_new(be, n_row * 64),
                              .x = put(x, n_row * 16),
                              .ld_out = 16,
                              .ld_x = 16,
                              .pre = *pre,
                              .mat = &mat,
                              .n_row = n_row};
    be->linear(be, &op);
    kern_get(be, op.out, ret, n_row * 64);
}

static void norm(void **state)
{
    const float x[2 * 16] = {1, 2, 3, 4}, weight[16] = {1, 1, 2, 1}, bias[16] = {0, 0, 0, 10};
    float out[2 * 16];
    struct sk_op_pre pre = {.kind = SK_PRE_RMS_NORM, .weight = put(weight, 16), .eps = 0.5f};
    const float rms = sqrtf(7.5f + 0.5f), dev = sqrtf(1.25f + 0.5f);
    through(&pre, x, 2, out);
    kern_assert_near(out, (float[]){1 / rms, 2 / rms, 6 / rms, 4 / rms, 0, 0, 0, 0}, 8, 1e-6, "RMS norm");
    kern_assert_near(out + 16, (float[4]){0}, 4, 0, "RMS norm of zeros");
    pre.kind = SK_PRE_LAYER_NORM;
    pre.bias = put(bias, 16);
    through(&pre, x, 2, out);
    kern_assert_near(out, (float[]){-1.5f / dev, -0.5f / dev, 1 / dev, 10 + 1.5f / dev, 0, 0}, 6, 1e-6, "LayerNorm");
    kern_assert_near(out + 16, bias, 4, 0, "LayerNorm of zeros");
}

static void activations(void **state)
{
    const float in[16] = {1, -1, 3, 0, 2, 3, 4, 5};
    const float silu[4] = {0.7310585786f, -0.2689414214f, 2.857722380f, 0},
                tanh_[4] = {0.8411919906f, -0.1588080094f, 2.996362607f, 0};
    const float erf_[4] = {0.8413447461f, -0.1586552539f, 2.995950306f, 0}, relu[4] = {1, 0, 3, 0};
    const float *want[] = {
        [SK_OP_SILU] = silu, [SK_OP_GELU_TANH] = tanh_, [SK_OP_GELU_ERF] = erf_, [SK_OP_RELU] = relu};
    float out[16];
    for (int kind = SK_OP_SILU; kind <= SK_OP_RELU; kind++) {
        struct sk_op_pre pre = {.kind = SK_PRE_ACT, .act = (enum sk_op_act_kind)kind};
        through(&pre, in, 1, out);
        kern_assert_near(out, want[kind], 4, 1e-6, "act");
        pre.kind = SK_PRE_GATED_ACT;
        through(&pre, in, 1, out);
        for (int i = 0; i < 4; i++)
            out[i] /= in[4 + i];
        kern_assert_near(out, want[kind], 4, 1e-6, "gated act");
    }
}

static void embed_add_and_gather(void **state)
{
    enum { DIM = 20, MAX_LEN = 3 };
    const int32_t slot[2] = {1, 0}, pos[2] = {2, 1}, token[2 * MAX_LEN] = {0, 4, 0, 0, 0, 6}, index[3] = {1, 1, 0};
    struct sk_mat table = kern_mat(be, 5, SK_BF16, 7, DIM, 10), pos_table = kern_mat(be, 6, SK_F16, MAX_LEN, DIM, DIM);
    struct sk_rows rows = {.n_row = 2,
                           .slot = kern_put(be, slot, sizeof slot),
                           .pos = kern_put(be, pos, sizeof pos),
                           .token = kern_put(be, token, sizeof token),
                           .max_len = MAX_LEN};
    struct sk_op_embed op = {.out = kern_new(be, 2 * LD * 4), .ld = LD, .table = &table, .rows = &rows};
    float out[3 * LD], word[2][DIM], place[2][DIM];
    for (int r = 0; r < 2; r++) {
        kern_mat_row(5, SK_BF16, DIM, r == 0 ? 6 : 4, word[r]);
        kern_mat_row(6, SK_F16, DIM, (uint32_t)pos[r], place[r]);
    }
    be->embed(be, &op);
    kern_get(be, op.out, out, 2 * LD * 4);
    kern_assert_near(out, word[0], DIM, 0, "embed");
    kern_assert_near(out + LD, word[1], DIM, 0, "embed");
    op.pos_table = &pos_table;
    be->embed(be, &op);
    be->add(be, op.out, op.out, 2 * LD); /* doubles all */
    struct sk_op_gather pick = {.out = kern_new(be, sizeof out),
                                .in = op.out,
                                .index = kern_put(be, index, sizeof index),
                                .n_row = 3,
                                .ld = LD};
    be->gather(be, &pick);
    kern_get(be, pick.out, out, sizeof out);
    for (int r = 0; r < 3; r++) {
        for (int i = 0; i < DIM; i++)
            assert_true(out[r * LD + i] == 2 * (word[index[r]][i] + place[index[r]][i]));
    }
    kern_assert_pad(out, 3, DIM, LD);
}

/* Two query heads share each of two KV heads; head_dim 4 in strides of 16. */
enum { N_HEAD = 4, N_KV = 2, DIM = 4, STRIDE = 16, LD_QKV = (N_HEAD + 2 * N_KV) * STRIDE, LEN = 70 };

struct toy {
    struct sk_kv_layer kv;
    struct sk_rows rows;
    struct sk_op_attention attention;
};

/* Position p of slot 0 is row p; its blocks are 2, 0, 1. */
static void toy_init(struct toy *t, enum sk_dtype dtype, const float *qkv)
{
    const int32_t table[3] = {2, 0, 1};
    int32_t slot[LEN] = {0}, pos[LEN];
    for (int p = 0; p < LEN; p++)
        pos[p] = p;
    memset(t, 0, sizeof *t);
    t->kv = (struct sk_kv_layer){.block_bytes = be->kv_block_bytes(be, dtype, N_KV, STRIDE),
                                 .dtype = dtype,
                                 .n_blk = 3,
                                 .n_kv_head = N_KV,
                                 .head_dim = DIM,
                                 .head_stride = STRIDE};
    t->kv.data = kern_new(be, 3 * t->kv.block_bytes);
    t->rows = (struct sk_rows){.n_row = LEN,
                               .max_pos = LEN - 1,
                               .slot = kern_put(be, slot, sizeof slot),
                               .pos = kern_put(be, pos, sizeof pos)};
    t->attention = (struct sk_op_attention){.out = kern_new(be, (size_t)LEN * N_HEAD * STRIDE * 4),
                                            .qkv = put(qkv, (size_t)LEN * LD_QKV),
                                            .ld_out = N_HEAD * STRIDE,
                                            .ld_qkv = LD_QKV,
                                            .n_head = N_HEAD,
                                            .head_ratio = N_HEAD / N_KV,
                                            .scale = 1,
                                            .rows = &t->rows,
                                            .table = kern_put(be, table, sizeof table),
                                            .ld_table = 3,
                                            .kv = &t->kv};
}

/* All scores equal: the output is the mean of the values in sight. */
static void attention_of_equal_scores_is_the_mean(void **state)
{
    static float qkv[LEN * LD_QKV], out[LEN * N_HEAD * STRIDE];
    struct toy t;
    for (int p = 0; p < LEN; p++) {
        for (int h = 0; h < N_KV; h++) {
            for (int i = 0; i < DIM; i++)
                qkv[p * LD_QKV + (N_HEAD + N_KV + h) * STRIDE + i] = (float)(p * (h + 1) + i);
        }
    }
    for (int window = 0; window <= LEN + 1; window += 23) {
        toy_init(&t, SK_F32, qkv);
        t.attention.window = (uint32_t)window;
        be->attention(be, &t.attention);
        kern_get(be, t.attention.out, out, sizeof out);
        for (int p = 0; p < LEN; p++) {
            int first = window > 0 && p >= window ? p - window + 1 : 0;
            for (int h = 0; h < N_HEAD; h++) {
                for (int i = 0; i < STRIDE; i++) {
                    float want = i < DIM ? (float)(first + p) / 2 * (float)(h / 2 + 1) + (float)i : 0;
                    kern_assert_near(&out[(p * N_HEAD + h) * STRIDE + i], &want, 1, 1e-4, "mean");
                }
            }
        }
    }
}

/* Two positions, scores 0 and 1 after scaling. Stores saturate. */
static void attention_weighs_by_softmax(void **state)
{
    static float qkv[LEN * LD_QKV], out[LEN * N_HEAD * STRIDE];
    const enum sk_dtype dtypes[] = {SK_BF16, SK_Q8};
    struct toy t;
    float *row = qkv + LD_QKV;
    for (int h = 0; h < N_HEAD; h++)
        row[h * STRIDE + 1] = 4;
    for (int h = N_HEAD; h < N_HEAD + N_KV; h++)
        row[h * STRIDE + 1] = 0.5f;
    for (int h = N_HEAD + N_KV; h < N_HEAD + 2 * N_KV; h++) {
        row[h * STRIDE] = 1;
        row[h * STRIDE + 2] = 127;
        row[h * STRIDE + 3] = -127;
    }
    const float w = 0.7310585786f, most = 0x1.fep127f;
    for (int big = 0; big < 2; big++) {
        for (int i = 0; i < 2; i++) {
            row[(N_HEAD + N_KV + 1) * STRIDE + 2] = big ? INFINITY : 127;
            row[(N_HEAD + N_KV + 1) * STRIDE + 3] = big ? -3.4e38f : -127;
            toy_init(&t, dtypes[i], qkv);
            t.rows.n_row = 2;
            t.attention.scale = 0.5f;
            be->attention(be, &t.attention);
            kern_get(be, t.attention.out, out, sizeof out);
            for (int h = 0; h < N_HEAD; h++) {
                const bool clipped = big && h >= N_HEAD / N_KV;
                const float *got = out + (N_HEAD + h) * STRIDE;
                if (clipped)
                    kern_assert_near(got + 2, (float[]){most * w, -most * w}, 2, most * 1e-5, "saturated");
                else
                    kern_assert_near(got, (float[]){w, 0, 127 * w, -127 * w}, 4, 1e-4, "softmax");
            }
        }
    }
}

/* What position 1 makes of weights: values of column p are 1 at position p alone, so that out[h][p] is the weight of
 * position p. */
static void weights_of_row_1(struct toy *t, float ret[N_HEAD][2])
{
    static float out[LEN * N_HEAD * STRIDE];
    t->rows.n_row = 2;
    be->attention(be, &t->attention);
    kern_get(be, t->attention.out, out, sizeof out);
    for (int h = 0; h < N_HEAD; h++)
        memcpy(ret[h], out + (N_HEAD + h) * STRIDE, sizeof ret[h]);
}

static void turn(const float x[DIM], const float *cos_sin, int dim, bool interleaved, float ret[DIM])
{
    memcpy(ret, x, DIM * sizeof *ret);
    for (int i = 0; i < dim / 2; i++) {
        const int a = interleaved ? 2 * i : i, b = interleaved ? a + 1 : i + dim / 2;
        ret[a] = x[a] * cos_sin[2 * i] - x[b] * cos_sin[2 * i + 1];
        ret[b] = x[b] * cos_sin[2 * i] + x[a] * cos_sin[2 * i + 1];
    }
}

/* q and k are normed, turned by the angles of their own positions, and multiplied. */
static void rope_rotates_and_head_norm_scales(void **state)
{
    static float qkv[LEN * LD_QKV], back[LEN * LD_QKV];
    const float x[DIM] = {1, -2, 0.5f, 1.5f}, q_norm[STRIDE] = {0.4f, 0.4f, 0.4f, 0.4f},
                k_norm[STRIDE] = {1, 0.5f, 1, 1}, cos_sin[8] = {1, 0, 1, 0, cosf(1), sinf(1), cosf(2), sinf(2)},
                rms = sqrtf((1 + 4 + 0.25f + 2.25f) / DIM);
    struct toy t;
    for (int p = 0; p < 2; p++) {
        for (int h = 0; h < N_HEAD + N_KV; h++)
            memcpy(qkv + p * LD_QKV + h * STRIDE, x, sizeof x);
        for (int h = N_HEAD + N_KV; h < N_HEAD + 2 * N_KV; h++)
            qkv[p * LD_QKV + h * STRIDE + p] = 1;
    }
    for (int mode = 0; mode < 8; mode++) {
        const bool interleaved = mode & 1, norm_heads = mode & 2;
        const int dim = mode & 4 ? 2 : 4; /* with 2 the other two columns stay */
        float angles[8], q[DIM], k[DIM], weight[N_HEAD][2];
        double score[2] = {0, 0};
        for (int p = 0; p < 2; p++)
            memcpy(angles + p * dim, cos_sin + 4 * p, (size_t)dim * sizeof *angles);
        toy_init(&t, SK_F32, qkv);
        t.attention.cos_sin = put(angles, 8);
        t.attention.rope_dim = (uint32_t)dim;
        t.attention.interleaved = interleaved;
        t.attention.scale = 2;
        if (norm_heads) {
            t.attention.q_norm = put(q_norm, STRIDE);
            t.attention.k_norm = put(k_norm, STRIDE);
        }
        for (int p = 0; p < 2; p++) {
            float from_q[DIM], from_k[DIM];
            for (int i = 0; i < DIM; i++) {
                from_q[i] = norm_heads ? x[i] / rms * q_norm[i] : x[i];
                from_k[i] = norm_heads ? x[i] / rms * k_norm[i] : x[i];
            }
            turn(from_q, angles + dim, dim, interleaved, q);
            turn(from_k, angles + p * dim, dim, interleaved, k);
            for (int i = 0; i < DIM; i++)
                score[p] += 2.0 * q[i] * k[i];
        }
        weights_of_row_1(&t, weight);
        const float want = (float)(1 / (1 + exp(score[1] - score[0])));
        assert_true(fabsf(want - 0.5f) > 0.01f); /* or nothing would be told apart */
        for (int h = 0; h < N_HEAD; h++)
            kern_assert_near(weight[h], (float[]){want, 1 - want}, 2, 1e-5, "weights");
        kern_get(be, t.attention.qkv, back, sizeof back);
        kern_assert_same_bits(back, qkv, sizeof back, "qkv stays");
    }
}

static void narrow_rounds_to_even(void **state)
{
    const float x[16] = {1, -2.5f, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, -0.0f, 0x1p-133f, 3.4e38f, INFINITY, -INFINITY};
    const uint16_t want[10] = {0x3f80, 0xc020, 0x3f80, 0x3f82, 0x3f81, 0x8000, 0x0001, 0x7f80, 0x7f80, 0xff80};
    const uint32_t nan = 0xff800001; /* its low half alone says that it is one */
    struct sk_dev in = put(x, 16), half = kern_new(be, 16 * 2), out = kern_new(be, 16 * 4);
    uint16_t got[16];
    float back[16];

    be->upload(be, sk_dev_at(in, 60), &nan, 4);
    be->narrow(be, half, in, 16);
    be->widen(be, out, half, 16);
    kern_get(be, half, got, sizeof got);
    kern_get(be, out, back, sizeof back);
    kern_assert_same_bits(got, want, sizeof want, "narrow");
    assert_int_equal(got[15], 0xffc0);
    assert_true(isnan(back[15]) && signbit(back[15]));
    kern_assert_near(back, (float[]){1, -2.5f, 1, 0x1.04p0f, 0x1.02p0f, 0, 0x1p-133f}, 7, 0, "widen");
}

/* Against the definition, and each word and place counts. */
static void checksum_depends_on_every_word_and_its_place(void **state)
{
    enum { N = 32 };
    uint32_t word[N] = {3, 5, 0xffffffff};
    struct sk_dev x = kern_new(be, sizeof word), out = kern_new(be, 8);
    uint64_t first, sum;

    be->upload(be, x, word, sizeof word);
    be->checksum(be, out, x, N);
    kern_get(be, out, &first, 8);
    assert_true(first == 3 + 5 * UINT64_C(0x3c6ef363) + UINT64_C(0xffffffff) * 0x78dde6c5);
    for (int i = 0; i < N; i++) {
        word[i] ^= 1u << i;
        be->upload(be, x, word, sizeof word);
        be->checksum(be, out, x, N);
        kern_get(be, out, &sum, 8);
        assert_true(sum != first);
        word[i] ^= 1u << i;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(out_of_memory_is_told_by_wait, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(linear, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(norm, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(activations, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(embed_add_and_gather, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(narrow_rounds_to_even, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(checksum_depends_on_every_word_and_its_place, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(attention_of_equal_scores_is_the_mean, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(attention_weighs_by_softmax, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(rope_rotates_and_head_norm_scales, open_ref, close_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
