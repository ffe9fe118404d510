/* The tiny golden checkpoints through a whole build, and the logits that the engine directory then means. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "comm/base/json.h"
#include "engine/build/build.h"
#include "engine/build/outdir.h"
#include "tests/unit/engine/build/naive.h"

static char scratch[64]; /* a new directory, removed in the end */

static const char *golden(const char *name, char *buf, size_t n)
{
    const char *root = getenv("SK_SRCDIR");

    snprintf(buf, n, "%s/tests/golden/%s", root ? root : ".", name);
    return buf;
}

/* Builds a golden checkpoint into scratch/NAME. */
static void build(const char *name, const char *dtype, char *ret_path, size_t n)
{
    char src[512];
    struct sk_err err = {0};
    struct sk_build_conf c = {.src = golden(name, src, sizeof src), .dtype = dtype, .n_thread = 2};

    snprintf(ret_path, n, "%s/out", scratch);
    if (sk_build(&c, ret_path, &err))
        fail_msg("%s: %s", name, err.msg);
}

/* A golden file; the NULs that random models put into their texts, which our parser refuses, become spaces. */
static struct cJSON *load(const char *name)
{
    char path[512];
    struct cJSON *v;
    struct sk_err err = {0};
    size_t n, max = 8 << 20;
    char *text = malloc(max);
    FILE *f = fopen(golden(name, path, sizeof path), "r");

    assert_non_null(f);
    n = fread(text, 1, max - 1, f);
    text[n] = 0;
    fclose(f);
    for (char *at = text; (at = strstr(at, "\\u0000"));)
        memcpy(at, "\\u0020", 6);
    if (sk_json_parse(text, n, max, &v, &err))
        fail_msg("%s: %s", path, err.msg);
    free(text);
    return v;
}

/* The largest distance of the logits from the golden ones, over all cases. */
static float worst_of(const struct sk_dir *d, const struct sk_weights *w, const char *json)
{
    struct cJSON *v = load(json);
    float *logits = malloc(d->desc.n_vocab * sizeof *logits), worst = 0;
    uint32_t n_case = 0;

    for (const struct cJSON *c = sk_json_first(sk_json_get(v, "cases")); c; c = sk_json_next(c), n_case++) {
        int32_t ids[256];
        size_t n = 0;
        for (const struct cJSON *x = sk_json_first(sk_json_get(c, "input_ids")); x; x = sk_json_next(x))
            ids[n++] = (int32_t)sk_json_num(x);
        sk_naive_logits(&d->desc, w, ids, n, logits);
        const struct cJSON *want = sk_json_first(sk_json_get(c, "last_logits"));
        for (uint32_t i = 0; i < d->desc.n_vocab; i++, want = sk_json_next(want))
            worst = fmaxf(worst, fabsf(logits[i] - (float)sk_json_num(want)));
    }
    assert_true(n_case >= 3);
    sk_json_free(v);
    free(logits);
    return worst;
}

static void check(const char *name, const char *dtype, const char *json, float tolerance)
{
    char path[128];
    struct sk_dir d;
    struct sk_weights w;
    struct sk_err err = {0};

    build(name, dtype, path, sizeof path);
    if (sk_dir_open(path, &d, &err) || sk_weights_open(path, SK_WEIGHTS_LAZY, &w, &err) || sk_weights_verify(&w, &err))
        fail_msg("%s", err.msg);
    float worst = worst_of(&d, &w, json);
    print_message("%s %s: within %.2g\n", name, dtype, (double)worst);
    assert_true(worst < tolerance);
    sk_weights_close(&w);
    sk_dir_close(&d);
    assert_int_equal(sk_outdir_remove(path, NULL), 0);
}

static void test_tiny(void **state)
{
    check("tiny/llama", "keep", "tiny/llama/golden.json", 2e-4f);
    check("tiny/llama-bf16-tied", "keep", "tiny/llama-bf16-tied/golden.json", 2e-4f);
    check("tiny/llama-sharded", "keep", "tiny/llama-sharded/golden.json", 2e-4f);
    check("tiny/qwen2", "keep", "tiny/qwen2/golden.json", 2e-4f);
    check("tiny/qwen3", "keep", "tiny/qwen3/golden.json", 2e-4f);
    check("tiny/gpt2", "keep", "tiny/gpt2/golden.json", 2e-4f);
}

static void test_gguf(void **state)
{
    static const char *const names[] = {"llama", "qwen3", "gpt2"}, *const types[] = {"f32", "q8_0", "q4_0"};

    for (int i = 0; i < 9; i++) {
        char name[64], json[64];
        snprintf(name, sizeof name, "gguf/%s-%s.gguf", names[i / 3], types[i % 3]);
        snprintf(json, sizeof json, "gguf/%s-%s.json", names[i / 3], types[i % 3]);
        check(name, "keep", json, 2e-4f);
    }
}

/* Other types come near: the bounds are about twice what was seen. */
static void test_converted(void **state)
{
    check("tiny/llama", "bf16", "tiny/llama/golden.json", 0.2f);
    check("tiny/llama", "q8", "tiny/llama/golden.json", 0.5f);
    check("tiny/gpt2", "q4", "tiny/gpt2/golden.json", 2.0f);
    check("tiny/qwen3", "f32", "tiny/qwen3/golden.json", 2e-4f);
}

/* Whoever fails leaves nothing behind. */
static void test_failures(void **state)
{
    char out[128], src[512];
    struct sk_err err = {0};
    struct sk_build_conf c = {.src = golden("tiny/llama/golden.json", src, sizeof src), .dtype = "keep"};

    snprintf(out, sizeof out, "%s/out", scratch);
    assert_int_equal(sk_build(&c, out, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "is not a GGUF file"));
    c.src = golden("tiny", src, sizeof src);
    assert_int_equal(sk_build(&c, out, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "without config.json"));
    c.src = "/does/not/exist";
    assert_int_equal(sk_build(&c, out, &err), -SK_ENOENT);

    build("tiny/llama", "keep", out, sizeof out);
    c.src = out;
    char again[160];
    snprintf(again, sizeof again, "%s/again", scratch);
    assert_int_equal(sk_build(&c, again, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "engine directory already"));
    c.src = golden("tiny/llama", src, sizeof src);
    assert_int_equal(sk_build(&c, out, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "exists already"));
    assert_int_equal(sk_outdir_remove(out, NULL), 0);

    DIR *d = opendir(scratch);
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    assert_int_equal(n, 2); /* . and .. */
}

static int stop(void *arg, int percent)
{
    return percent >= *(int *)arg;
}

/* Among the tensors, before the self-test, and during it. */
static void test_interrupted(void **state)
{
    char out[128], src[512];
    struct sk_err err = {0};
    int at[] = {50, 99, 100};

    for (int i = 0; i < 3; i++) {
        snprintf(out, sizeof out, "%s/out", scratch);
        struct sk_build_conf c = {
            .src = golden("tiny/llama", src, sizeof src), .dtype = "keep", .progress = stop, .arg = &at[i]};
        assert_int_equal(sk_build(&c, out, &err), -SK_ECANCEL);
        assert_int_equal(rmdir(scratch), 0); /* it is empty */
        assert_non_null(mkdtemp(strcpy(scratch, "/tmp/skein-test-XXXXXX")));
    }
}

/* One bit of a file; again undoes it. */
static void flip(const char *dir, const char *name, long at)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 1, f);
    fclose(f);
}

static void test_verify(void **state)
{
    static const struct {
        const char *file, *says;
        long at;
    } damage[] = {{"weights.skw", "magic", 0},
                  {"weights.skw", "table is damaged", 200},
                  {"weights.skw", "tensor layer.0.gate_up is damaged", 45056},
                  {"vocab.skv", "the digest differs", 200},
                  {"vocab.skv", "the digest differs", -1}};
    char out[128];
    struct sk_err err = {0};
    uint32_t n = 0;

    build("gguf/llama-q4_0.gguf", "keep", out, sizeof out);
    assert_int_equal(sk_build_verify(out, &n, &err), 0);
    assert_int_equal(n, 16);
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        flip(out, damage[i].file, damage[i].at);
        assert_int_equal(sk_build_verify(out, &n, &err), -SK_EFORMAT);
        if (!strstr(err.msg, damage[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, damage[i].says);
        flip(out, damage[i].file, damage[i].at);
    }
    assert_int_equal(sk_build_verify(out, &n, &err), 0);

    struct sk_dir d;
    assert_int_equal(sk_dir_open(out, &d, &err), 0);
    d.desc.norm_eps *= 2;
    assert_int_equal(sk_dir_save(&d, out, &err), 0);
    sk_dir_close(&d);
    assert_int_equal(sk_build_verify(out, &n, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "the digest differs"));
    assert_int_equal(sk_outdir_remove(out, NULL), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny),     cmocka_unit_test(test_gguf),        cmocka_unit_test(test_converted),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_interrupted), cmocka_unit_test(test_verify),
    };

    if (!mkdtemp(strcpy(scratch, "/tmp/skein-test-XXXXXX")))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(scratch);
    return failed;
}
