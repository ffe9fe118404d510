#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/buf.h"
#include "engine/build/gguf.h"

/* ---- a writer ---- */

static struct sk_buf out;

static void u32(uint32_t v)
{
    sk_buf_add(&out, &v, sizeof v);
}

static void u64(uint64_t v)
{
    sk_buf_add(&out, &v, sizeof v);
}

static void str(const char *s)
{
    u64(strlen(s));
    sk_buf_str(&out, s);
}

static void key(const char *name, uint32_t kind)
{
    str(name);
    u32(kind);
}

static void begin(uint32_t version, uint64_t n_tensor, uint64_t n_pair)
{
    sk_buf_clear(&out);
    sk_buf_add(&out, "GGUF", 4);
    u32(version);
    u64(n_tensor);
    u64(n_pair);
}

static void tensor(const char *name, uint64_t inner, uint64_t outer, uint32_t type, uint64_t offset)
{
    str(name);
    u32(outer ? 2 : 1);
    u64(inner);
    if (outer)
        u64(outer);
    u32(type);
    u64(offset);
}

/* The data section: zeros from the next multiple of `align` on. */
static void data(size_t align, size_t n)
{
    while (out.n % align)
        sk_buf_char(&out, 0);
    while (n--)
        sk_buf_char(&out, 0);
}

/* A small file with everything in it. */
static void make_good(void)
{
    float f32 = 1.5f;
    double f64 = -2.25;

    begin(3, 2, 9);
    key("general.alignment", SK_GGUF_U32), u32(64);
    key("a.u8", SK_GGUF_U8), sk_buf_char(&out, (char)200);
    key("a.i64", SK_GGUF_I64), u64((uint64_t)-5);
    key("a.f32", SK_GGUF_F32), sk_buf_add(&out, &f32, 4);
    key("a.f64", SK_GGUF_F64), sk_buf_add(&out, &f64, 8);
    key("a.bool", SK_GGUF_BOOL), sk_buf_char(&out, 1);
    key("a.str", SK_GGUF_STR), str("h\xc3\xa9");
    key("a.words", SK_GGUF_ARRAY), u32(SK_GGUF_STR), u64(3), str("one"), str(""), str("three");
    key("a.i32s", SK_GGUF_ARRAY), u32(SK_GGUF_I32), u64(2), u32(7), u32((uint32_t)-7);
    tensor("y", 4, 0, SK_SRC_F32, 128);
    tensor("x", 32, 2, SK_SRC_Q4_0, 0);
    data(64, 128 + 16);
}

static int open_it(struct sk_gguf **ret, struct sk_err *err)
{
    /* Exactly as large as the file: so that reading past it is seen. */
    static void *copy;
    free(copy);
    copy = malloc(out.n ? out.n : 1);
    memcpy(copy, out.p, out.n);
    return sk_gguf_open_mem(copy, out.n, ret, err);
}

static void refused(int code, const char *says)
{
    struct sk_gguf *g = NULL;
    struct sk_err err = {0};

    assert_int_equal(open_it(&g, &err), -code);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

/* ---- tests ---- */

static void test_values(void **state)
{
    struct sk_gguf *g;
    struct sk_gguf_array a = {0};
    const char *s = NULL;
    size_t n = 0;
    uint32_t u = 99;
    int32_t i = 0;
    float f = 0;
    bool b = false;

    make_good();
    assert_int_equal(open_it(&g, NULL), 0);
    assert_int_equal(sk_gguf_u32(g, "a.u8", &u, NULL), 0);
    assert_int_equal(u, 200);
    assert_int_equal(sk_gguf_u32(g, "a.i64", &u, NULL), -SK_ERANGE);
    assert_int_equal(sk_gguf_u32(g, "a.f32", &u, NULL), -SK_ETYPE);
    assert_int_equal(sk_gguf_u32(g, "absent", &u, NULL), 0);
    assert_int_equal(u, 200);
    assert_true(sk_gguf_has(g, "a.bool") && !sk_gguf_has(g, "a.boo"));
    assert_int_equal(sk_gguf_f32(g, "a.f32", &f, NULL), 0);
    assert_true(f == 1.5f);
    assert_int_equal(sk_gguf_f32(g, "a.f64", &f, NULL), 0);
    assert_true(f == -2.25f);
    assert_int_equal(sk_gguf_f32(g, "a.u8", &f, NULL), -SK_ETYPE);
    assert_int_equal(sk_gguf_bool(g, "a.bool", &b, NULL), 0);
    assert_true(b);
    assert_int_equal(sk_gguf_str(g, "a.str", &s, &n, NULL), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(s, "h\xc3\xa9", 3);
    assert_int_equal(sk_gguf_str(g, "a.words", &s, &n, NULL), -SK_ETYPE);

    assert_int_equal(sk_gguf_array(g, "a.words", &a, NULL), 0);
    assert_int_equal(a.n, 3);
    assert_int_equal(sk_gguf_at_str(&a, 2, &s, &n), 0);
    assert_int_equal(n, 5);
    assert_memory_equal(s, "three", 5);
    assert_int_equal(sk_gguf_at_str(&a, 1, &s, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(sk_gguf_at_str(&a, 3, &s, &n), -SK_ERANGE);
    assert_int_equal(sk_gguf_at_i32(&a, 0, &i), -SK_ETYPE);
    assert_int_equal(sk_gguf_array(g, "a.i32s", &a, NULL), 0);
    assert_int_equal(sk_gguf_at_i32(&a, 1, &i), 0);
    assert_int_equal(i, -7);
    assert_int_equal(sk_gguf_at_f32(&a, 1, &f), -SK_ETYPE);
    assert_int_equal(sk_gguf_at_str(&a, 1, &s, &n), -SK_ETYPE);

    const struct sk_src_tensor *x = sk_src_find(sk_gguf_src(g), "x"), *y = sk_src_find(sk_gguf_src(g), "y");
    assert_true(x && y && !sk_src_find(sk_gguf_src(g), "z"));
    assert_int_equal(x->n_dim, 2);
    assert_int_equal(x->dims[0], 2); /* outermost first */
    assert_int_equal(x->dims[1], 32);
    assert_int_equal(x->bytes, 36);
    assert_ptr_equal(y->data, x->data + 128);
    sk_gguf_close(g);
}

/* However much is cut off, it is refused, and nothing past the end is read (under ASan). */
static void test_truncated(void **state)
{
    struct sk_gguf *g = NULL;

    make_good();
    size_t whole = out.n;
    for (size_t n = 0; n < whole; n++) {
        out.n = n;
        struct sk_err err = {0};
        if (!open_it(&g, &err))
            fail_msg("%zu of %zu bytes were accepted", n, whole);
        assert_true(err.msg[0]);
    }
}

static void test_header(void **state)
{
    begin(1, 0, 0);
    refused(SK_EUNSUP, "version 1 ");
    begin(0x03000000, 0, 0);
    refused(SK_EUNSUP, "big-endian");
    begin(3, 0, 0);
    refused(SK_EFORMAT, "no tensors");
    begin(3, UINT64_MAX, 0);
    refused(SK_EFORMAT, "claims 18446744073709551615 tensors");
    begin(3, 0, UINT64_MAX);
    refused(SK_EFORMAT, "claims 18446744073709551615 metadata");
    sk_buf_clear(&out);
    sk_buf_str(&out, "GGML and more bytes");
    refused(SK_EFORMAT, "not a GGUF file");
}

static void test_metadata(void **state)
{
    begin(3, 0, 1);
    key("k", 13), u64(0);
    refused(SK_EFORMAT, "k is of unknown kind 13");
    begin(3, 0, 2);
    key("k", SK_GGUF_U32), u32(1), key("k", SK_GGUF_U8), u64(1);
    refused(SK_EFORMAT, "k is there twice");
    begin(3, 0, 1);
    u64(UINT64_MAX), u64(0), u64(0);
    refused(SK_EFORMAT, "cut off");
    begin(3, 0, 1);
    key("k", SK_GGUF_ARRAY), u32(SK_GGUF_U64), u64(UINT64_MAX / 8 + 2), u64(0);
    refused(SK_EFORMAT, "cut off");
    begin(3, 0, 1);
    key("k", SK_GGUF_ARRAY), u32(SK_GGUF_STR), u64(UINT64_MAX), u64(0);
    refused(SK_EFORMAT, "cut off");
    begin(3, 0, 1);
    key("k", SK_GGUF_ARRAY), u32(SK_GGUF_ARRAY), u64(1), u64(0);
    refused(SK_EFORMAT, "array of kind 9");
    begin(3, 1, 1);
    key("general.alignment", SK_GGUF_U32), u32(48), tensor("x", 4, 0, 0, 0);
    refused(SK_EFORMAT, "power of 2");
}

static void test_tensors(void **state)
{
#define ONE(...) (begin(3, 1, 0), tensor(__VA_ARGS__), data(32, 64))
    ONE("", 4, 0, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "name is empty");
    ONE("x", 4, 0, 31, 0);
    refused(SK_EUNSUP, "x is of unknown type 31");
    ONE("x", 33, 0, SK_SRC_Q4_0, 0);
    refused(SK_EFORMAT, "whole blocks of type Q4_0");
    ONE("x", 16, 2, SK_SRC_Q8_0, 0); /* 32 values, but rows of half a block */
    refused(SK_EFORMAT, "whole blocks of type Q8_0");
    ONE("x", 0, 0, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "impossible shape");
    ONE("x", UINT64_MAX, 0, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "impossible shape");
    ONE("x", UINT32_MAX, UINT64_C(1) << 33, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "impossible shape");
    ONE("x", UINT64_C(1) << 62, 0, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "whole blocks");
    ONE("x", 4, 0, SK_SRC_F32, 8);
    refused(SK_EFORMAT, "outside the file");
    ONE("x", 4, 0, SK_SRC_F32, UINT64_MAX & ~UINT64_C(31));
    refused(SK_EFORMAT, "outside the file");
    ONE("x", 400, 0, SK_SRC_F32, 0);
    refused(SK_EFORMAT, "is the file complete?");
#undef ONE
    begin(3, 1, 0);
    str("x"), u32(5), data(32, 64);
    refused(SK_EFORMAT, "x has 5 dimensions");
    begin(3, 2, 0);
    tensor("x", 4, 0, 0, 0), tensor("x", 4, 0, 0, 32), data(32, 64);
    refused(SK_EFORMAT, "x is there twice");
    begin(3, 2, 0);
    tensor("x", 12, 0, 0, 0), tensor("y", 4, 0, 0, 32), data(32, 64);
    refused(SK_EFORMAT, "overlap");
}

static void test_file(void **state)
{
    const char *root = getenv("SK_SRCDIR");
    struct sk_gguf *g;
    struct sk_err err = {0};
    char path[512];

    snprintf(path, sizeof path, "%s/tests/golden/gguf/llama-q4_0.gguf", root ? root : ".");
    assert_true(sk_gguf_is(path));
    if (sk_gguf_open(path, &g, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(sk_src_find(sk_gguf_src(g), "blk.1.ffn_down.weight")->dims[1], 160);
    sk_gguf_close(g);
    assert_false(sk_gguf_is("/dev/null"));
    assert_int_equal(sk_gguf_open("/dev/null", &g, &err), -SK_EFORMAT);
    assert_int_equal(sk_gguf_open("/does/not/exist", &g, &err), -SK_ENOENT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),   cmocka_unit_test(test_truncated), cmocka_unit_test(test_header),
        cmocka_unit_test(test_metadata), cmocka_unit_test(test_tensors),   cmocka_unit_test(test_file),
    };

    sk_buf_init(&out, 1 << 16);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sk_buf_done(&out);
    return failed;
}
