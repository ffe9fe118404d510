/* Configurations to descriptions and recipes. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/json.h"
#include "engine/build/arch.h"
#include "engine/build/freq.h"
#include "engine/build/ggconf.h"
#include "engine/build/hf.h"
#include "engine/build/safetensors.h"

static const char *golden(const char *name, char *buf, size_t n)
{
    const char *root = getenv("SK_SRCDIR");

    snprintf(buf, n, "%s/tests/golden/%s", root ? root : ".", name);
    return buf;
}

static int parse_hf(const char *config, const char *generation, struct sk_hparams *ret, struct sk_err *err)
{
    struct cJSON *c = NULL, *g = NULL;

    assert_int_equal(sk_json_parse(config, strlen(config), 1 << 16, &c, NULL), 0);
    if (generation)
        assert_int_equal(sk_json_parse(generation, strlen(generation), 1 << 16, &g, NULL), 0);
    int rc = sk_hf_parse(c, g, ret, err);
    sk_json_free(c);
    sk_json_free(g);
    return rc;
}

static struct sk_hparams hf(const char *config)
{
    struct sk_hparams hp;
    struct sk_err err = {0};

    if (parse_hf(config, NULL, &hp, &err))
        fail_msg("%s: %s", config, err.msg);
    return hp;
}

static void refused(const char *config, int code, const char *says)
{
    struct sk_hparams hp;
    struct sk_err err = {0};

    assert_int_equal(parse_hf(config, NULL, &hp, &err), -code);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_defaults(void **state)
{
    struct sk_hparams hp = hf("{\"model_type\":\"llama\"}");
    assert_int_equal(hp.desc.n_vocab, 32000);
    assert_int_equal(hp.desc.n_ffn, 11008);
    assert_int_equal(hp.desc.n_kv_head, 32);
    assert_int_equal(hp.desc.head_dim, 128);
    assert_int_equal(hp.desc.max_len, 2048);
    assert_true(hp.desc.norm_eps == 1e-6f && hp.rope.theta == 10000 && !hp.desc.tied && !hp.qkv_bias);
    hp = hf("{\"model_type\":\"mistral\"}");
    assert_int_equal(hp.desc.n_kv_head, 8);
    assert_int_equal(hp.desc.layers[31].window, 4096);
    hp = hf("{\"model_type\":\"mistral\",\"sliding_window\":null,\"num_key_value_heads\":null}");
    assert_int_equal(hp.desc.n_kv_head, 32);
    assert_int_equal(hp.desc.layers[0].window, 0);
    hp = hf("{\"model_type\":\"qwen2\"}");
    assert_int_equal(hp.desc.n_vocab, 151936);
    assert_true(hp.qkv_bias && !hp.o_bias && !hp.desc.layers[31].window);
    hp = hf("{\"model_type\":\"qwen3\",\"hidden_size\":1024,\"attention_bias\":true}");
    assert_int_equal(hp.desc.head_dim, 128);
    assert_true(hp.desc.qk_norm && hp.qkv_bias && hp.o_bias);
    hp = hf("{\"model_type\":\"gpt2\"}");
    assert_int_equal(hp.desc.n_ffn, 3072);
    assert_true(hp.desc.act == SK_ACT_GELU_TANH && hp.desc.norm == SK_NORM_LAYER && hp.desc.tied && hp.desc.pos_embed);
    assert_true(hp.desc.attn_scale == 0.125f);
    hp = hf("{\"model_type\":\"gpt2\",\"scale_attn_weights\":false,\"hidden_size\":64,\"num_attention_heads\":2,"
            "\"activation_function\":\"relu\"}");
    assert_true(hp.desc.attn_scale == 1 && hp.desc.n_embd == 64 && hp.desc.head_dim == 32 &&
                hp.desc.act == SK_ACT_RELU);
}

static void test_windows(void **state)
{
    struct sk_hparams hp = hf("{\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":100,"
                              "\"num_hidden_layers\":4,\"max_window_layers\":3}");
    assert_int_equal(hp.desc.layers[2].window, 0);
    assert_int_equal(hp.desc.layers[3].window, 100);
    hp = hf("{\"model_type\":\"qwen3\",\"use_sliding_window\":true,\"sliding_window\":100,\"num_hidden_layers\":2,"
            "\"layer_types\":[\"sliding_attention\",\"full_attention\"]}");
    assert_int_equal(hp.desc.layers[0].window, 100);
    assert_int_equal(hp.desc.layers[1].window, 0);
    refused(
        "{\"model_type\":\"qwen3\",\"use_sliding_window\":true,\"num_hidden_layers\":2,\"layer_types\":[\"x\",\"y\"]}",
        SK_EUNSUP, "layer type 'x'");
    refused("{\"model_type\":\"qwen3\",\"use_sliding_window\":true,\"layer_types\":[]}", SK_EFORMAT,
            "0 entries for 32");
}

static void test_rope_keys(void **state)
{
    struct sk_hparams hp = hf("{\"model_type\":\"llama\",\"rope_theta\":500000.0,\"rope_scaling\":{\"type\":\"linear\","
                              "\"factor\":2.0}}");
    assert_true(hp.rope.kind == SK_FREQ_LINEAR && hp.rope.factor == 2 && hp.rope.theta == 500000);
    hp = hf("{\"model_type\":\"llama\",\"dtype\":\"float32\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_"
            "theta\":7e5,"
            "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}");
    assert_true(hp.rope.kind == SK_FREQ_LLAMA3 && hp.rope.theta == 7e5 && hp.rope.orig_len == 8192);
    hp = hf("{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2}}");
    assert_int_equal(hp.rope.kind, SK_FREQ_NONE);
    hp = hf("{\"model_type\":\"qwen2\",\"max_position_embeddings\":32768,\"rope_scaling\":{\"type\":\"yarn\","
            "\"factor\":4.0,"
            "\"original_max_position_embeddings\":32768}}");
    assert_true(hp.rope.kind == SK_FREQ_YARN && hp.desc.max_len == 131072);
    refused("{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", SK_EUNSUP, "'longrope'");
    refused("{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":3}}", SK_ETYPE, "rope_type");
    refused("{\"model_type\":\"llama\",\"rope_scaling\":\"yarn\"}", SK_ETYPE, "rope_scaling is string");
    refused("{\"model_type\":\"llama\",\"rope_parameters\":[1]}", SK_ETYPE, "rope_parameters is array");
    refused("{\"model_type\":\"llama\",\"partial_rotary_factor\":0.5}", SK_EUNSUP, "partial_rotary_factor 0.5");
    refused("{\"model_type\":\"llama\",\"rope_parameters\":{\"partial_rotary_factor\":0.25}}", SK_EUNSUP,
            "partial_rotary_factor 0.25");
    hf("{\"model_type\":\"llama\",\"rope_scaling\":null,\"partial_rotary_factor\":1.0}");
}

static void test_ends_and_defaults(void **state)
{
    struct sk_hparams hp;
    const char *config = "{\"model_type\":\"llama\",\"eos_token_id\":2}";

    assert_int_equal(parse_hf(config, NULL, &hp, NULL), 0);
    assert_true(hp.n_eos == 1 && hp.eos[0] == 2 && hp.gen.do_sample == -1 && hp.gen.top_k == -1);
    assert_true(isnan(hp.gen.temperature));
    assert_int_equal(
        parse_hf(config,
                 "{\"eos_token_id\":[5,2],\"do_sample\":true,\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95,"
                 "\"no_repeat_ngram_size\":3,\"max_length\":2048}",
                 &hp, NULL),
        0);
    assert_true(hp.n_eos == 2 && hp.eos[0] == 5 && hp.eos[1] == 2);
    assert_true(hp.gen.do_sample == 1 && hp.gen.temperature == 0.6f && hp.gen.top_k == 20 && hp.gen.top_p == 0.95f);
    assert_true(hp.gen.no_repeat_ngram == 3 && isnan(hp.gen.min_p));
    assert_int_equal(parse_hf(config, "[]", &hp, NULL), -SK_EFORMAT);
    refused("{\"model_type\":\"llama\",\"eos_token_id\":32000}", SK_ERANGE, "eos_token_id");
    refused("{\"model_type\":\"llama\",\"eos_token_id\":\"2\"}", SK_ERANGE, "eos_token_id");
}

static void test_refused(void **state)
{
    refused("[]", SK_EFORMAT, "must be an object");
    refused("{}", SK_EFORMAT, "no model_type");
    refused("{\"model_type\":\"rwkv\"}", SK_EUNSUP, "'rwkv'");
    refused("{\"model_type\":\"rwkv\"}", SK_EUNSUP, "llama (");
    refused("{\"model_type\":\"llama\",\"hidden_act\":\"mish\"}", SK_EUNSUP, "activation 'mish'");
    refused("{\"model_type\":\"llama\",\"mlp_bias\":true}", SK_EUNSUP, "mlp_bias");
    refused("{\"model_type\":\"llama\",\"num_hidden_layers\":257}", SK_ERANGE, "257 layers");
    refused("{\"model_type\":\"llama\",\"hidden_size\":-1}", SK_ERANGE, "hidden_size");
    refused("{\"model_type\":\"llama\",\"hidden_size\":1.5}", SK_ETYPE, "hidden_size");
    refused("{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"awq\"}}", SK_EUNSUP, "'awq'");
}

/* Values by transformers' formulas in float64. */
static void test_freqs(void **state)
{
    static const float llama3[16] = {1.000000000e+00f, 4.403666027e-01f, 1.939227447e-01f, 8.539710029e-02f,
                                     3.760603093e-02f, 1.656044008e-02f, 7.292664737e-03f, 3.211445995e-03f,
                                     5.248461610e-04f, 7.784655274e-05f, 3.428102196e-05f, 1.509621718e-05f,
                                     6.647869871e-06f, 2.927499870e-06f, 1.289173172e-06f, 5.677088101e-07f};
    static const float yarn[16] = {1.000000000e+00f, 4.216965034e-01f, 1.778279410e-01f, 7.498942093e-02f,
                                   3.162277660e-02f, 1.333521432e-02f, 4.779901264e-03f, 1.659961594e-03f,
                                   5.500000000e-04f, 1.686786014e-04f, 4.445698525e-05f, 1.874735523e-05f,
                                   7.905694150e-06f, 3.333803580e-06f, 1.405853313e-06f, 5.928434264e-07f};
    struct sk_freq_conf c = {.kind = SK_FREQ_LLAMA3,
                             .theta = 500000,
                             .factor = 8,
                             .low_freq = 1,
                             .high_freq = 4,
                             .orig_len = 8192,
                             .beta_fast = 32,
                             .beta_slow = 1};
    float f[16], base[16], mscale = 0;

    assert_int_equal(sk_freq_fill(&c, 32, 131072, f, &mscale, NULL), 0);
    for (int i = 0; i < 16; i++)
        assert_true(fabsf(f[i] / llama3[i] - 1) < 1e-6f);
    assert_true(mscale == 1);

    c = (struct sk_freq_conf){
        .kind = SK_FREQ_YARN, .theta = 1e6, .factor = 4, .orig_len = 32768, .beta_fast = 32, .beta_slow = 1};
    assert_int_equal(sk_freq_fill(&c, 32, 131072, f, &mscale, NULL), 0);
    for (int i = 0; i < 16; i++)
        assert_true(fabsf(f[i] / yarn[i] - 1) < 1e-6f);
    assert_true(fabsf(mscale - 1.138629436f) < 1e-6f);
    c.no_truncate = true;
    assert_int_equal(sk_freq_fill(&c, 32, 131072, f, &mscale, NULL), 0);
    assert_true(fabsf(f[6] / 5.517270475e-03f - 1) < 1e-6f);
    c.mscale = 1;
    c.mscale_all_dim = 1;
    assert_int_equal(sk_freq_fill(&c, 32, 131072, f, &mscale, NULL), 0);
    assert_true(mscale == 1);
    c.attn_factor = 1.25;
    assert_int_equal(sk_freq_fill(&c, 32, 131072, f, &mscale, NULL), 0);
    assert_true(mscale == 1.25f);

    c = (struct sk_freq_conf){.theta = 10000};
    assert_int_equal(sk_freq_fill(&c, 32, 2048, base, &mscale, NULL), 0);
    c.kind = SK_FREQ_LINEAR;
    c.factor = 4;
    assert_int_equal(sk_freq_fill(&c, 32, 2048, f, &mscale, NULL), 0);
    for (int i = 0; i < 16; i++)
        assert_true(f[i] == base[i] / 4);
    float divisors[16];
    for (int i = 0; i < 16; i++)
        divisors[i] = (float)(i + 1);
    c.factors = divisors;
    assert_int_equal(sk_freq_fill(&c, 32, 2048, f, &mscale, NULL), 0);
    for (int i = 0; i < 16; i++)
        assert_true(f[i] == base[i] / (float)(i + 1));
    divisors[3] = 0;
    assert_int_equal(sk_freq_fill(&c, 32, 2048, f, &mscale, NULL), -SK_EFORMAT);
    c.factors = NULL;
    c.factor = 0;
    assert_int_equal(sk_freq_fill(&c, 32, 2048, f, &mscale, NULL), -SK_EFORMAT);
    c.factor = 4;
    c.theta = 1;
    assert_int_equal(sk_freq_fill(&c, 32, 2048, f, &mscale, NULL), -SK_EFORMAT);
}

/* ---- against tensors ---- */

static void open_tiny(const char *name, struct sk_hparams *hp, struct sk_src *src)
{
    char path[512];
    struct sk_err err = {0};

    golden(name, path, sizeof path);
    if (sk_hf_read(path, hp, &err) || sk_safetensors_open(path, src, &err))
        fail_msg("%s", err.msg);
}

static void finish_fails(struct sk_hparams *hp, const struct sk_src *src, int code, const char *says)
{
    struct sk_recipes r;
    struct sk_err err = {0};

    assert_int_equal(sk_arch_finish(hp, src, &r, &err), -code);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_bad_tensors(void **state)
{
    struct sk_hparams hp, changed;
    struct sk_src src;

    open_tiny("tiny/llama", &hp, &src);
    struct sk_src_tensor *o = (struct sk_src_tensor *)sk_src_find(&src, "model.layers.1.self_attn.o_proj.weight");
    assert_non_null(o);
    struct sk_src_tensor saved = *o;

    changed = hp;
    changed.desc.n_ffn++;
    finish_fails(&changed, &src, SK_EFORMAT,
                 "model.layers.0.mlp.gate_proj.weight has shape [256, 96], the configuration calls for [257, 96]");
    changed = hp;
    changed.desc.n_layer++;
    finish_fails(&changed, &src, SK_EFORMAT, "tensor model.layers.3.input_layernorm.weight is missing");
    changed = hp;
    changed.qkv_bias = true;
    finish_fails(&changed, &src, SK_EFORMAT, "tensor model.layers.0.self_attn.q_proj.bias is missing");
    changed = hp;
    changed.desc.n_head = 7;
    finish_fails(&changed, &src, SK_EFORMAT, "7 query heads");
    changed = hp;
    changed.desc.n_vocab = 0;
    finish_fails(&changed, &src, SK_EFORMAT, "n_vocab");
    changed = hp;
    changed.desc.head_dim = 13;
    finish_fails(&changed, &src, SK_EFORMAT, "odd");
    changed = hp;
    o->type = 12;
    finish_fails(&changed, &src, SK_EUNSUP, "model.layers.1.self_attn.o_proj.weight is of type Q4_K");
    *o = saved;
    o->n_dim = 1;
    finish_fails(&changed, &src, SK_EFORMAT, "has shape [96], the configuration calls for [96, 96]");
    *o = saved;
    sk_src_done(&src);
}

static const struct sk_recipe *recipe(const struct sk_recipes *r, const char *name)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (!strcmp(r->list[i].name, name))
            return &r->list[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* llama: 8 query and 2 key/value heads of 12, padded to 16. */
static void test_recipes(void **state)
{
    struct sk_hparams hp;
    struct sk_src src;
    struct sk_recipes list;
    uint32_t row;

    open_tiny("tiny/llama", &hp, &src);
    assert_int_equal(sk_arch_finish(&hp, &src, &list, NULL), 0);
    const struct sk_recipe *r = recipe(&list, "layer.2.qkv");
    assert_int_equal(r->n_out, 12 * 16);
    assert_int_equal(r->cut_unit, 16);
    assert_int_equal(r->split, SK_SPLIT_OUT);
    assert_ptr_equal(sk_recipe_row(r, 16 + 11, &row), &r->parts[0]);
    assert_int_equal(row, 12 + 11);
    assert_null(sk_recipe_row(r, 16 + 12, &row));
    assert_ptr_equal(sk_recipe_row(r, 9 * 16, &row), &r->parts[1]); /* the second key head */
    assert_int_equal(row, 12);
    assert_ptr_equal(sk_recipe_row(r, 11 * 16 + 3, &row), &r->parts[2]);
    assert_int_equal(row, 15);
    assert_null(sk_recipe_row(r, 12 * 16, &row));
    assert_string_equal(r->parts[2].t->name, "model.layers.2.self_attn.v_proj.weight");
    r = recipe(&list, "layer.0.o");
    assert_true(r->n_in == 128 && r->src_in == 96 && r->in_run == 12 && r->in_stride == 16 && r->split == SK_SPLIT_IN);
    r = recipe(&list, "rope.0");
    assert_true(r->n_out == 6 && r->values && r->values[0] == 1);
    assert_true(recipe(&list, "head")->lookup);
    sk_recipes_done(&list);
    sk_src_done(&src);
}

/* GGUF's order of rotary rows: 0, half, 1, half + 1 ... */
static void test_rotary(void **state)
{
    struct sk_recipe r = {.n_out = 16, .n_part = 1, .parts = {{.n_row = 16, .run = 8, .stride = 8, .rotary = true}}};
    static const uint32_t want[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    uint32_t row;

    for (uint32_t i = 0; i < 16; i++) {
        assert_non_null(sk_recipe_row(&r, i, &row));
        assert_int_equal(row, want[i]);
    }
}

/* --explain of the golden models is as it was reviewed. */
static void test_explain(void **state)
{
    static const char *const names[] = {"llama", "llama-bf16-tied", "llama-sharded", "qwen2", "qwen3", "gpt2"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sk_hparams hp;
        struct sk_src src;
        struct sk_recipes list;
        struct sk_buf b;
        char path[512], name[64], want[4096];
        snprintf(name, sizeof name, "tiny/%s", names[i]);
        open_tiny(name, &hp, &src);
        assert_int_equal(sk_arch_finish(&hp, &src, &list, NULL), 0);
        sk_buf_init(&b, 1 << 16);
        assert_int_equal(sk_desc_explain(&hp.desc, &b), 0);
        snprintf(name, sizeof name, "explain/%s.txt", names[i]);
        FILE *f = fopen(golden(name, path, sizeof path), "r");
        assert_non_null(f);
        want[fread(want, 1, sizeof want - 1, f)] = 0;
        fclose(f);
        assert_string_equal(b.p, want);
        sk_buf_done(&b);
        sk_recipes_done(&list);
        sk_src_done(&src);
    }
}

static void test_gguf(void **state)
{
    struct sk_gguf *g;
    struct sk_hparams hp;
    struct sk_recipes list;
    const struct sk_arch *arch;
    char path[512];
    struct sk_err err = {0};

    assert_int_equal(sk_arch_find_gguf("llama4", 6, &arch, &err), -SK_EUNSUP);
    assert_non_null(strstr(err.msg, "'llama4'"));
    if (sk_gguf_open(golden("gguf/qwen3-q8_0.gguf", path, sizeof path), &g, &err) || sk_ggconf_read(g, &hp, &err))
        fail_msg("%s", err.msg);
    assert_true(hp.desc.n_vocab == 320 && hp.desc.head_dim == 32 && !hp.desc.tied && hp.rope.theta == 1e6);
    assert_true(hp.n_eos == 1 && hp.eos[0] == 2);
    assert_int_equal(sk_arch_finish(&hp, sk_gguf_src(g), &list, &err), 0);
    assert_false(recipe(&list, "layer.0.qkv")->parts[0].rotary);
    sk_recipes_done(&list);
    sk_gguf_close(g);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),          cmocka_unit_test(test_windows), cmocka_unit_test(test_rope_keys),
        cmocka_unit_test(test_ends_and_defaults), cmocka_unit_test(test_refused), cmocka_unit_test(test_freqs),
        cmocka_unit_test(test_bad_tensors),       cmocka_unit_test(test_recipes), cmocka_unit_test(test_rotary),
        cmocka_unit_test(test_explain),           cmocka_unit_test(test_gguf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
