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
    assert_int_equal(be->kv_block_bytes(be, SK_F16, 3, 16), 2 * 32 * 3 * 16 * 2);
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

static void norm(void **state)
{
    float x[2 * 16] = {1, 2, 3, 4}, weight[16] = {1, 1, 2, 1}, bias[16] = {0, 0, 0, 10}, out[2 * 16];
    struct sk_op_norm op = {
        .out = kern_new(be, sizeof out), .x = put(x, 32), .weight = put(weight, 16), .n_row = 2, .dim = 4, .ld = 16};
    const float rms = sqrtf(7.5f + 0.5f), dev = sqrtf(1.25f + 0.5f);
    op.eps = 0.5f;
    be->norm(be, &op);
    kern_get(be, op.out, out, sizeof out);
    kern_assert_near(out, (float[]){1 / rms, 2 / rms, 6 / rms, 4 / rms, 0, 0, 0, 0}, 8, 1e-6, "RMS norm");
    kern_assert_near(out + 16, (float[4]){0}, 4, 0, "RMS norm of zeros");
    op.layer = true;
    op.bias = put(bias, 16);
    op.out = op.x;
    be->norm(be, &op);
    kern_get(be, op.out, out, sizeof out);
    kern_assert_near(out, (float[]){-1.5f / dev, -0.5f / dev, 1 / dev, 10 + 1.5f / dev, 0, 0}, 6, 1e-6, "LayerNorm");
    kern_assert_near(out + 16, bias, 4, 0, "LayerNorm of zeros");
}

static void activations(void **state)
{
    float in[16] = {1, -1, 3, 0, 2, 3, 4, 5}, out[16];
    const float silu[4] = {0.7310585786f, -0.2689414214f, 2.857722380f, 0},
                tanh_[4] = {0.8411919906f, -0.1588080094f, 2.996362607f, 0};
    const float erf_[4] = {0.8413447461f, -0.1586552539f, 2.995950306f, 0}, relu[4] = {1, 0, 3, 0};
    const float *want[] = {
        [SK_OP_SILU] = silu, [SK_OP_GELU_TANH] = tanh_, [SK_OP_GELU_ERF] = erf_, [SK_OP_RELU] = relu};
    struct sk_op_act op = {
        .out = kern_new(be, sizeof out), .in = put(in, 16), .n_row = 1, .width = 4, .ld_out = 16, .ld_in = 16};
    for (int kind = SK_OP_SILU; kind <= SK_OP_RELU; kind++) {
        op.kind = (enum sk_op_act_kind)kind;
        op.gated = false;
        be->act(be, &op);
        kern_get(be, op.out, out, sizeof out);
        kern_assert_near(out, want[kind], 4, 1e-6, "act");
        op.gated = true;
        be->act(be, &op);
        kern_get(be, op.out, out, sizeof out);
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
    struct sk_op_rope_kv store;
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
    t->store = (struct sk_op_rope_kv){.qkv = put(qkv, (size_t)LEN * LD_QKV),
                                      .ld = LD_QKV,
                                      .n_head = N_HEAD,
                                      .rows = &t->rows,
                                      .table = kern_put(be, table, sizeof table),
                                      .ld_table = 3,
                                      .kv = &t->kv};
    t->attention = (struct sk_op_attention){.out = kern_new(be, (size_t)LEN * N_HEAD * STRIDE * 4),
                                            .q = t->store.qkv,
                                            .ld_out = N_HEAD * STRIDE,
                                            .ld_q = LD_QKV,
                                            .n_head = N_HEAD,
                                            .scale = 1,
                                            .rows = &t->rows,
                                            .table = t->store.table,
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
        be->rope_kv(be, &t.store);
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

/* Two positions, scores 0 and 1 after scaling. f16 stores saturate. */
static void attention_weighs_by_softmax(void **state)
{
    static float qkv[LEN * LD_QKV], out[LEN * N_HEAD * STRIDE];
    struct toy t;
    float *row = qkv + LD_QKV;
    for (int h = 0; h < N_HEAD; h++)
        row[h * STRIDE + 1] = 4;
    for (int h = N_HEAD; h < N_HEAD + N_KV; h++)
        row[h * STRIDE + 1] = 0.5f;
    for (int h = N_HEAD + N_KV; h < N_HEAD + 2 * N_KV; h++) {
        row[h * STRIDE] = 1;
        row[h * STRIDE + 2] = 1e9f;
        row[h * STRIDE + 3] = -1e9f;
    }
    toy_init(&t, SK_F16, qkv);
    t.rows.n_row = 2;
    t.attention.scale = 0.5f;
    be->rope_kv(be, &t.store);
    be->attention(be, &t.attention);
    kern_get(be, t.attention.out, out, sizeof out);
    const float w = 0.7310585786f;
    for (int h = 0; h < N_HEAD; h++)
        kern_assert_near(out + (N_HEAD + h) * STRIDE, (float[]){w, 0, 65504 * w, -65504 * w}, 4, 0.01, "softmax");
}

static void rope_rotates_and_head_norm_scales(void **state)
{
    static float qkv[LEN * LD_QKV], out[LEN * LD_QKV], cos_sin[LEN * 2];
    float q_norm[16] = {2, 2, 2, 2}, k_norm[16] = {1, 1, 1, 1};
    struct toy t;
    for (int p = 0; p < LEN; p++) {
        cos_sin[2 * p] = cosf((float)p);
        cos_sin[2 * p + 1] = sinf((float)p);
        for (int h = 0; h < N_HEAD + 2 * N_KV; h++) {
            for (int i = 0; i < DIM; i++)
                qkv[p * LD_QKV + h * STRIDE + i] = (float)(i + 1);
        }
    }
    for (int mode = 0; mode < 4; mode++) {
        bool interleaved = mode & 1, norm_heads = mode & 2;
        toy_init(&t, SK_F32, qkv);
        t.store.cos_sin = put(cos_sin, LEN * 2);
        t.store.rope_dim = 2; /* the other two columns stay */
        t.store.interleaved = interleaved;
        if (norm_heads) {
            t.store.q_norm = put(q_norm, 16);
            t.store.k_norm = put(k_norm, 16);
        }
        be->rope_kv(be, &t.store);
        kern_get(be, t.store.qkv, out, sizeof out);
        for (int p = 0; p < LEN; p++) {
            float c = cos_sin[2 * p], s = cos_sin[2 * p + 1], want[4] = {c - 2 * s, 2 * c + s, 3, 4};
            for (int i = 0; i < DIM; i++)
                want[i] *= norm_heads ? 2 / sqrtf(7.5f) : 1;
            for (int h = 0; h < N_HEAD; h++)
                kern_assert_near(out + p * LD_QKV + h * STRIDE, want, DIM, 1e-5, "q");
        }
    }
    /* Over the whole head: pairs (0, 2) and (1, 3), or (0, 1) and (2, 3); a quarter turn at position 1 for the first
     * pair alone. */
    const float quarter[8] = {1, 0, 1, 0, 0, 1, 1, 0};
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        toy_init(&t, SK_F32, qkv);
        t.rows.n_row = 2;
        t.store.cos_sin = put(quarter, 8);
        t.store.rope_dim = 4;
        t.store.interleaved = interleaved;
        be->rope_kv(be, &t.store);
        kern_get(be, t.store.qkv, out, sizeof out);
        kern_assert_near(out, (float[]){1, 2, 3, 4}, 4, 0, "q at position 0");
        kern_assert_near(out + LD_QKV, interleaved ? (float[]){-2, 1, 3, 4} : (float[]){-3, 2, 1, 4}, 4, 0,
                         "q at position 1");
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
        cmocka_unit_test_setup_teardown(attention_of_equal_scores_is_the_mean, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(attention_weighs_by_softmax, open_ref, close_ref),
        cmocka_unit_test_setup_teardown(rope_rotates_and_head_norm_scales, open_ref, close_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
