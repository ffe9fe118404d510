#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/dir/desc.h"

static struct sk_desc good(void)
{
    struct sk_desc d = {.n_vocab = 1000,
                        .n_embd = 96,
                        .n_layer = 4,
                        .n_head = 6,
                        .n_kv_head = 2,
                        .head_dim = 12,
                        .n_ffn = 100,
                        .max_len = 512,
                        .norm = SK_NORM_RMS,
                        .norm_eps = 1e-5f,
                        .act = SK_ACT_SILU,
                        .gated = true,
                        .qk_norm = true,
                        .attn_scale = 0.288675135f,
                        .n_rope = 1,
                        .ropes = {{.dim = 12, .mscale = 1}}};

    d.layers[0].window = d.layers[1].window = d.layers[3].window = 64;
    return d;
}

static void test_groups(void **state)
{
    struct sk_desc d = good();

    assert_int_equal(sk_desc_check(&d, NULL), 0);
    assert_int_equal(d.n_group, 2);
    assert_int_equal(d.group_window[0], 64);
    assert_int_equal(d.group_window[1], 0);
    assert_int_equal(d.layer_group[2], 1);
    assert_int_equal(d.layer_group[3], 0);
    assert_int_equal(sk_desc_head_stride(&d), 16);
    assert_int_equal(sk_desc_ffn_stride(&d), 112);
}

static void refused(struct sk_desc d, const char *param)
{
    struct sk_err err = {0};

    assert_int_equal(sk_desc_check(&d, &err), -SK_EFORMAT);
    assert_string_equal(err.param, param);
}

static void test_check(void **state)
{
    struct sk_desc d;

#define REFUSED(change, param) (d = good(), change, refused(d, param))
    REFUSED(d.n_vocab = 0, "n_vocab");
    REFUSED(d.n_layer = SK_MAX_LAYERS + 1, "n_layer");
    REFUSED(d.n_kv_head = 4, "n_kv_head");
    REFUSED(d.head_dim = UINT32_MAX, "head_dim");
    REFUSED(d.norm_eps = NAN, "norm_eps");
    REFUSED(d.attn_scale = 0, "attn_scale");
    REFUSED(d.n_rope = SK_MAX_ROPES + 1, "n_rope");
    REFUSED(d.pos_embed = true, "n_rope");
    REFUSED(d.ropes[0].dim = 11, "rope");
    REFUSED(d.ropes[0].dim = 14, "rope");
    REFUSED(d.ropes[0].mscale = INFINITY, "rope");
    REFUSED(d.layers[2].rope = 1, "rope");
    REFUSED(
        (d.n_layer = 6, d.layers[2].window = 1, d.layers[4].window = 2, d.layers[5].window = 3, d.layers[3].window = 4),
        "window");
#undef REFUSED
}

static void test_print_parse(void **state)
{
    struct sk_desc d = good(), back;
    struct sk_buf b;
    struct cJSON *v;

    assert_int_equal(sk_desc_check(&d, NULL), 0);
    sk_buf_init(&b, 1 << 20);
    assert_int_equal(sk_desc_print(&d, &b), 0);
    assert_int_equal(sk_json_parse(b.p, b.n, 1 << 20, &v, NULL), 0);
    assert_int_equal(sk_desc_parse(v, &back, NULL), 0);
    sk_json_free(v);
    assert_memory_equal(&back, &d, sizeof d);
    sk_buf_done(&b);
}

static void parse_fails(const char *cut, const char *paste, const char *param)
{
    struct sk_desc d = good(), back;
    struct sk_err err = {0};
    struct sk_buf b, changed;
    struct cJSON *v;

    sk_buf_init(&b, 1 << 20);
    sk_buf_init(&changed, 1 << 20);
    assert_int_equal(sk_desc_print(&d, &b), 0);
    char *at = strstr(b.p, cut);
    assert_non_null(at);
    sk_buf_add(&changed, b.p, (size_t)(at - b.p));
    sk_buf_str(&changed, paste);
    sk_buf_str(&changed, at + strlen(cut));
    assert_int_equal(sk_json_parse(changed.p, changed.n, 1 << 20, &v, NULL), 0);
    assert_true(sk_desc_parse(v, &back, &err) < 0);
    assert_string_equal(err.param, param);
    sk_json_free(v);
    sk_buf_done(&changed);
    sk_buf_done(&b);
}

static void test_parse_errors(void **state)
{
    parse_fails("\"n_embd\":96,", "", "n_embd");
    parse_fails("\"n_embd\":96", "\"n_embd\":\"96\"", "n_embd");
    parse_fails("\"n_embd\":96", "\"n_embd\":-1", "n_embd");
    parse_fails("\"gated\":true", "\"gated\":1", "gated");
    parse_fails("\"rms\"", "\"batch\"", "norm");
    parse_fails("\"silu\"", "null", "act");
    parse_fails("\"n_layer\":4", "\"n_layer\":5", "layers");
    parse_fails("{\"window\":0,\"rope\":0}", "7", "window");
}

static void test_explain(void **state)
{
    struct sk_desc d = good();
    struct sk_buf b;

    assert_int_equal(sk_desc_check(&d, NULL), 0);
    sk_buf_init(&b, 1 << 16);
    assert_int_equal(sk_desc_explain(&d, &b), 0);
    assert_string_equal(
        b.p, "# 4 layers, 96 wide, 1000 words, up to 512 positions; norms with eps = 1e-05\n"
             "x = embed[token]\n"
             "for layer in 0 .. 3:\n"
             "    h = rms_norm(x) * attn_norm\n"
             "    q, k, v = qkv(h)  # 6 query heads, 2 key/value heads, 12 wide\n"
             "    q, k = rms_norm(q) * q_norm, rms_norm(k) * k_norm  # per head\n"
             "    q, k = rope.0(q, k, position)  # 12 of 12 dimensions, pairs (i, i + 6)\n"
             "    a = softmax(0.288675 * q k^T) v  # the last 64 positions in layers 0-1 3; all positions in layers 2\n"
             "    x = x + o(a)\n"
             "    h = rms_norm(x) * ffn_norm\n"
             "    x = x + down(silu(gate(h)) * up(h))  # 100 wide\n"
             "x = rms_norm(x) * final_norm\n"
             "logits = head(x)\n");
    sk_buf_done(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),       cmocka_unit_test(test_check),   cmocka_unit_test(test_print_parse),
        cmocka_unit_test(test_parse_errors), cmocka_unit_test(test_explain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
