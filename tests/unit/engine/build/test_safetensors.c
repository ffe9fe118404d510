#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/build/safetensors.h"

/* A file of that header and n_data bytes; `n_header` as its length word unless 0. */
static int parse(struct sk_src *s, const char *header, size_t n_data, uint64_t n_header, struct sk_err *err)
{
    size_t n = 8 + strlen(header) + n_data;
    uint8_t *p = calloc(1, n); /* exactly so large: reading past it is seen under ASan */

    n_header = n_header ? n_header : strlen(header);
    memcpy(p, &n_header, 8);
    memcpy(p + 8, header, strlen(header));
    sk_src_init(s);
    int rc = sk_safetensors_parse(s, p, n, err);
    if (!rc)
        rc = sk_src_seal(s, err);
    if (!rc && s->n_tensor)
        assert_true(s->tensors[0].data >= p && s->tensors[0].data + s->tensors[0].bytes <= p + n);
    free(p);
    return rc;
}

static void refused(const char *header, size_t n_data, uint64_t n_header, const char *says)
{
    struct sk_src s;
    struct sk_err err = {0};

    assert_true(parse(&s, header, n_data, n_header, &err) < 0);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
    sk_src_done(&s);
}

static void test_good(void **state)
{
    struct sk_src s;

    assert_int_equal(parse(&s,
                           "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                           "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[20,21]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[22,24]}}  ",
                           24, 0, NULL),
                     0);
    assert_int_equal(s.n_tensor, 4);
    const struct sk_src_tensor *b = sk_src_find(&s, "b");
    assert_int_equal(b->type, SK_SRC_BF16);
    assert_int_equal(b->n_dim, 2);
    assert_int_equal(b->dims[1], 3);
    assert_ptr_equal(b->data, sk_src_find(&s, "a")->data + 8);
    assert_int_equal(sk_src_find(&s, "scalar")->bytes, 2);
    const struct sk_src_tensor *mask = sk_src_find(&s, "mask");
    assert_string_equal(sk_src_type_name(mask->type), "BOOL");
    assert_false(sk_src_type_readable(mask->type));
    sk_src_done(&s);
}

static void test_bad(void **state)
{
#define A(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    refused("{}", 0, 0, "no tensors");
    refused("{}", 0, UINT64_C(1) << 60, "claims a header of 1152921504606846976 bytes");
    refused("{}", 0, UINT64_MAX, "claims a header");
    refused("{}", 0, 1, "");
    refused("[]", 0, 0, "must be an object");
    refused("{\"a\":1}", 0, 0, "a has no dtype");
    refused(A("F32", "[2]", "[0,8]"), 7, 0, "outside the file");
    refused(A("F32", "[2]", "[0,9]"), 9, 0, "its shape needs 8");
    refused(A("F32", "[2]", "[8,0]"), 8, 0, "outside the file");
    refused(A("F32", "[2]", "[-8,0]"), 8, 0, "outside the file");
    refused(A("F32", "[2]", "[0.5,8]"), 8, 0, "outside the file");
    refused(A("F32", "[2]", "[0,8,8]"), 8, 0, "outside the file");
    refused(A("F32", "[2]", "{}"), 8, 0, "outside the file");
    refused(A("F32", "[0]", "[0,0]"), 8, 0, "impossible shape");
    refused(A("F32", "[-1]", "[0,4]"), 8, 0, "impossible shape");
    refused(A("F32", "2", "[0,8]"), 8, 0, "impossible shape");
    refused(A("F32", "[1,1,1,1,2]", "[0,8]"), 8, 0, "impossible shape");
    refused(A("F32", "[4503599627370496,4503599627370496]", "[0,8]"), 8, 0, "impossible shape");
    refused(A("F32", "[4503599627370496,4096]", "[0,8]"), 8, 0, "impossible shape");
#undef A
    refused("{\"a\":{\"dtype\":\"Q4_0\",\"shape\":[32],\"data_offsets\":[0,18]}}", 18, 0,
            "no tensors"); /* GGUF's alone */
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
            12, 0, "a and b overlap");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
            12, 0, "a is there twice");

    struct sk_src s;
    struct sk_err err = {0};
    sk_src_init(&s);
    assert_int_equal(sk_safetensors_parse(&s, "1234567", 7, &err), -SK_EFORMAT);
    sk_src_done(&s);
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_index(void **state)
{
    char dir[] = "/tmp/skein-test-XXXXXX", path[64];
    struct sk_src s;
    struct sk_err err = {0};

    assert_non_null(mkdtemp(dir));
    assert_int_equal(sk_safetensors_open(dir, &s, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "neither model.safetensors nor"));
    put(dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}");
    assert_int_equal(sk_safetensors_open(dir, &s, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "not a file name"));
    put(dir, "model.safetensors.index.json", "{\"weight_map\":{}}");
    assert_int_equal(sk_safetensors_open(dir, &s, &err), -SK_EFORMAT);
    put(dir, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"missing.safetensors\"}}");
    assert_int_equal(sk_safetensors_open(dir, &s, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "missing.safetensors"));
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    unlink(path);
    put(dir, "model.safetensors", "short");
    assert_int_equal(sk_safetensors_open(dir, &s, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "model.safetensors: cut off"));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void test_sharded(void **state)
{
    const char *root = getenv("SK_SRCDIR");
    struct sk_src s;
    struct sk_err err = {0};
    char path[512];

    snprintf(path, sizeof path, "%s/tests/golden/tiny/llama-sharded", root ? root : ".");
    if (sk_safetensors_open(path, &s, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(s.n_file, 2);
    assert_non_null(sk_src_find(&s, "model.embed_tokens.weight"));
    assert_non_null(sk_src_find(&s, "model.norm.weight"));
    sk_src_done(&s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_sharded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
