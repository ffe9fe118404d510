#define _GNU_SOURCE 1 /* memmem */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/buf.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/text/token.h"
#include "tests/unit/server/text/golden.h"

static struct sk_token *encoder(const struct sk_vocab *v)
{
    struct sk_token *t;
    struct sk_err err = {0};
    if (sk_token_new(v, &t, &err))
        fail_msg("%s", err.msg);
    return t;
}

static void expect_ids(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode, bool bos,
                       const int32_t *want, size_t n_want, const char *what)
{
    int32_t *ids;
    size_t n_ids;
    struct sk_err err = {0};
    if (sk_token_encode(t, s, n, mode, bos, SIZE_MAX, &ids, &n_ids, &err))
        fail_msg("%s: %s", what, err.msg);
    if (n_ids != n_want || (n_want && memcmp(ids, want, n_want * sizeof *want) != 0)) {
        size_t i = 0;
        while (i < n_ids && i < n_want && ids[i] == want[i])
            i++;
        fail_msg("%s: %zu ids, %zu expected; the first difference is at %zu (%d, not %d), text \"%.80s\"", what, n_ids,
                 n_want, i, i < n_ids ? ids[i] : -1, i < n_want ? want[i] : -1, s);
    }
    sk_free(ids);
}

static void expect_text(const struct sk_vocab *v, const int32_t *ids, size_t n, bool skip, const char *want,
                        size_t n_want)
{
    struct sk_buf out;
    struct sk_err err = {0};
    sk_buf_init(&out, SIZE_MAX / 4);
    if (sk_token_decode(v, ids, n, skip, &out, &err))
        fail_msg("%s", err.msg);
    if (out.n != n_want || (n_want && memcmp(out.p, want, n_want) != 0))
        fail_msg("decoded \"%.200s\", not \"%.200s\"", out.p ? out.p : "", want);
    sk_buf_done(&out);
}

/* The text with a guard behind the first character of each special spelling. */
static char *guard(const struct sk_vocab *v, const char *s, size_t n, size_t *ret_n)
{
    char *out = malloc(4 * n + 1);
    size_t k = 0;
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) {
        out[k++] = s[i];
        for (uint32_t c = 0; c < sk_vocab_n_controls(v); c++) {
            size_t len;
            const char *word = sk_vocab_word(v, sk_vocab_control(v, c), &len);
            if (!(sk_vocab_flags(v, sk_vocab_control(v, c)) & SK_TOK_SPECIAL) || n - i < len ||
                memcmp(s + i, word, len) != 0)
                continue;
            memcpy(out + k, SK_TOKEN_GUARD, 3);
            k += 3;
            break;
        }
    }
    *ret_n = k;
    return out;
}

static void check_case(struct sk_token *t, const struct sk_vocab *v, const struct cJSON *c)
{
    size_t n, n_raw, n_ids, n_plain, n_bos, n_whole, n_skip, n_guarded;
    char *text = golden_text(c, "text", &n), *raw = golden_bytes(c, &n_raw);
    int32_t *ids = golden_ids(c, "ids", &n_ids), *plain = golden_ids(c, "ids_plain", &n_plain);
    int32_t *bos = golden_ids(c, "ids_with_bos", &n_bos);
    char *whole = golden_text(c, "decode", &n_whole), *skip = golden_text(c, "decode_skip_special", &n_skip);
    const int32_t *want_plain = plain ? plain : ids;
    if (!plain)
        n_plain = n_ids;

    if (!text) { /* a case of decoding only */
        expect_text(v, ids, n_ids, false, whole, n_whole);
        goto out;
    }
    expect_ids(t, text, n, SK_TOKEN_SPECIALS, false, ids, n_ids, "ids");
    if (raw)
        expect_ids(t, raw, n_raw, SK_TOKEN_SPECIALS, false, ids, n_ids, "ids of ill-formed UTF-8");
    expect_ids(t, text, n, SK_TOKEN_SPECIALS, true, bos ? bos : ids, bos ? n_bos : n_ids, "ids with bos");
    expect_ids(t, text, n, SK_TOKEN_PLAIN, false, want_plain, n_plain, "plain ids");
    char *guarded = guard(v, text, n, &n_guarded);
    expect_ids(t, guarded, n_guarded, SK_TOKEN_SPECIALS, false, want_plain, n_plain, "ids under guards");
    expect_ids(t, guarded, n_guarded, SK_TOKEN_PLAIN, false, want_plain, n_plain, "plain ids under guards");

    expect_text(v, ids, n_ids, false, whole ? whole : text, whole ? n_whole : n);
    const char *want_skip = skip ? skip : whole ? whole : text;
    expect_text(v, ids, n_ids, true, want_skip, skip ? n_skip : whole ? n_whole : n);
    free(guarded);
out:
    free(text);
    free(raw);
    free(ids);
    free(plain);
    free(bos);
    free(whole);
    free(skip);
}

/* Closes the vocabulary. */
static void check_cases(struct sk_vocab *v, const char *cases, size_t at_least)
{
    struct sk_token *t = encoder(v);
    struct golden_lines g;
    const struct cJSON *c;
    size_t n = 0;
    golden_open(&g, cases);
    while ((c = golden_next(&g)))
        if (sk_json_get(c, "ids")) {
            check_case(t, v, c);
            n++;
        }
    assert_true(n >= at_least);
    sk_token_free(t);
    sk_vocab_close(v);
}

static void check_golden(const char *tokenizer, const char *cases, size_t at_least)
{
    check_cases(golden_vocab(tokenizer), cases, at_least);
}

static void test_smollm2(void **state)
{
    check_golden("tests/golden/tokenizers/smollm2.tokenizer.json.xz", "tests/golden/tokenizers/smollm2.jsonl", 250);
}

static void test_qwen3(void **state)
{
    check_golden("tests/golden/tokenizers/qwen3.tokenizer.json.xz", "tests/golden/tokenizers/qwen3.jsonl", 250);
}

/* Llama 3's files are not free to be copied into the tree. */
static void test_llama3(void **state)
{
    char cases[2048];
    const char *path = golden_shared("golden/tokenizers/llama3.jsonl");
    if (!path) {
        print_message("test_llama3: no golden/tokenizers/llama3 under $SK_SHARED (../shared)\n");
        skip();
    }
    snprintf(cases, sizeof cases, "%s", path);
    path = golden_shared("golden/tokenizers/llama3.tokenizer.json.xz");
    assert_non_null(path);
    check_golden(path, cases, 250);
}

static void test_gguf(void **state)
{
    check_cases(golden_vocab_gguf("tests/golden/tokenizers/smollm2.tokenizer.json.xz", "gpt2", "smollm"),
                "tests/golden/tokenizers/smollm2.jsonl", 250);
    check_cases(golden_vocab_gguf("tests/golden/tokenizers/tiny-spm.tokenizer.json", "llama", NULL),
                "tests/golden/tokenizers/tiny-spm.jsonl", 250);
}

/* Parts that the three do not use; see tests/golden/tokenizers/gen_small.py. */
static void test_small(void **state)
{
    static const char *const names[] = {"tiny-bpe", "tiny-spm", "odd", "merged", "meta", "always", "words"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char tokenizer[128], cases[128];
        snprintf(tokenizer, sizeof tokenizer, "tests/golden/tokenizers/%s.tokenizer.json", names[i]);
        snprintf(cases, sizeof cases, "tests/golden/tokenizers/%s.jsonl", names[i]);
        print_message("%s\n", names[i]);
        check_golden(tokenizer, cases, 280);
    }
}

/* A guard in a spelling that is no special token's keeps that from matching, too; anywhere else it just goes away. */
static void test_guard(void **state)
{
    struct sk_vocab *v = golden_vocab("tests/golden/tokenizers/qwen3.tokenizer.json.xz");
    struct sk_token *t = encoder(v);
    const char *fim = "<" SK_TOKEN_GUARD "|fim_prefix|>x", *end = "a<|im_end|" SK_TOKEN_GUARD SK_TOKEN_GUARD ">";
    int32_t *ids;
    size_t n;
    struct sk_err err = {0};
    int id = sk_vocab_find(v, "<|fim_prefix|>", 14);
    assert_true(id > 0 && (sk_vocab_flags(v, (uint32_t)id) & SK_TOK_CONTROL));
    assert_false(sk_vocab_flags(v, (uint32_t)sk_vocab_find(v, "<tool_call>", 11)) & SK_TOK_CONTROL);
    assert_int_equal(sk_token_encode(t, fim, strlen(fim), SK_TOKEN_SPECIALS, false, SIZE_MAX, &ids, &n, &err), 0);
    assert_true(n > 2);
    for (size_t i = 0; i < n; i++)
        assert_int_not_equal(ids[i], id);
    expect_text(v, ids, n, false, "<|fim_prefix|>x", 15);
    sk_free(ids);
    assert_int_equal(sk_token_encode(t, end, strlen(end), SK_TOKEN_SPECIALS, false, SIZE_MAX, &ids, &n, &err), 0);
    expect_text(v, ids, n, true, "a<|im_end|>", 11);
    sk_free(ids);
    int32_t *want;
    size_t n_want;
    assert_int_equal(
        sk_token_encode(t, "hello<|im_end|>", 15, SK_TOKEN_SPECIALS, false, SIZE_MAX, &want, &n_want, &err), 0);
    const char *around = SK_TOKEN_GUARD "hel" SK_TOKEN_GUARD "lo" SK_TOKEN_GUARD "<|im_end|>" SK_TOKEN_GUARD;
    expect_ids(t, around, strlen(around), SK_TOKEN_SPECIALS, false, want, n_want, "guards outside");
    sk_free(want);
    sk_token_free(t);
    sk_vocab_close(v);
}

static void test_limits(void **state)
{
    struct sk_vocab *v = golden_vocab("tests/golden/tokenizers/tiny-bpe.tokenizer.json");
    struct sk_token *t = encoder(v);
    int32_t *ids = NULL, many[3] = {0, -1, 0};
    size_t n = 7;
    struct sk_err err = {0};
    assert_int_equal(sk_token_encode(t, "zqzqzqzq", 8, SK_TOKEN_SPECIALS, false, 3, &ids, &n, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, "more than 3 tokens"));
    assert_int_equal(n, 7);
    assert_int_equal(sk_token_encode(t, "", 0, SK_TOKEN_SPECIALS, true, 0, &ids, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_non_null(ids);
    sk_free(ids);
    struct sk_buf out;
    sk_buf_init(&out, 100);
    assert_int_equal(sk_token_decode(v, many, 3, false, &out, &err), -SK_ERANGE);
    assert_non_null(strstr(err.msg, "-1 at index 1"));
    many[1] = (int32_t)sk_vocab_size(v);
    assert_int_equal(sk_token_decode(v, many, 3, false, &out, &err), -SK_ERANGE);
    assert_int_equal(out.n, 0);
    sk_buf_done(&out);
    sk_token_free(t);
    sk_vocab_close(v);
}

/* A megabyte that is one pre-token: ends soon only because merging is not quadratic. */
static void test_long(void **state)
{
    static const char *const tokenizers[] = {"tests/golden/tokenizers/tiny-bpe.tokenizer.json",
                                             "tests/golden/tokenizers/tiny-spm.tokenizer.json"};
    static const char *const units[] = {"a", " ", "the ", "\xCC\xA1\xCC\x81", "\xF0\x9F\x98\x80", "<|im_"};
    size_t n = 1 << 20;
    char *s = malloc(n);
    assert_non_null(s);
    for (size_t k = 0; k < 2; k++) {
        struct sk_vocab *v = golden_vocab(tokenizers[k]);
        struct sk_token *t = encoder(v);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t len = strlen(units[u]), whole = n / len * len;
            for (size_t i = 0; i < whole; i++)
                s[i] = units[u][i % len];
            int32_t *ids;
            size_t n_ids;
            struct sk_err err = {0};
            assert_int_equal(sk_token_encode(t, s, whole, SK_TOKEN_SPECIALS, false, SIZE_MAX, &ids, &n_ids, &err), 0);
            expect_text(v, ids, n_ids, false, s, whole);
            sk_free(ids);
        }
        sk_token_free(t);
        sk_vocab_close(v);
    }
    free(s);
}

/* Marks whose canonical order is the reverse, for normal forms. */
static void test_long_marks(void **state)
{
    static const char *const tokenizers[] = {"tests/golden/tokenizers/odd.tokenizer.json",
                                             "tests/golden/tokenizers/meta.tokenizer.json"};
    size_t n = 1 << 20;
    char *s = malloc(n);
    assert_non_null(s);
    for (size_t i = 0; i < n; i += 2)
        memcpy(s + i, i < n / 2 ? "\xCC\x81" : "\xCC\xA1", 2);
    for (size_t k = 0; k < 2; k++) {
        struct sk_vocab *v = golden_vocab(tokenizers[k]);
        struct sk_token *t = encoder(v);
        struct sk_err err = {0};
        int32_t *ids;
        size_t n_ids;
        assert_int_equal(sk_token_encode(t, s, n, SK_TOKEN_SPECIALS, false, SIZE_MAX, &ids, &n_ids, &err), 0);
        sk_free(ids);
        sk_token_free(t);
        sk_vocab_close(v);
    }
    free(s);
}

/* Whatever allocation fails, it is an error and nothing leaks. */
static void test_no_memory(void **state)
{
    static const char text[] = "Hello <x> the\xCC\x81 <|ctl|>- \xFF word-- 123 q";
    struct sk_vocab *v = golden_vocab("tests/golden/tokenizers/odd.tokenizer.json");
    struct sk_err err;
    int rc = -SK_ENOMEM;
    uint64_t i = 0;
    while (rc == -SK_ENOMEM) {
        struct sk_token *t = NULL;
        int32_t *ids = NULL;
        size_t n;
        sk_mem_fail_at(++i, 1);
        rc = sk_token_new(v, &t, &err);
        if (rc == 0)
            rc = sk_token_encode(t, text, sizeof text - 1, SK_TOKEN_SPECIALS, true, SIZE_MAX, &ids, &n, &err);
        sk_mem_fail_at(0, 0);
        sk_free(ids);
        sk_token_free(t);
    }
    assert_int_equal(rc, 0);
    assert_true(i > 20);
    sk_vocab_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),   cmocka_unit_test(test_qwen3), cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_gguf),      cmocka_unit_test(test_small), cmocka_unit_test(test_guard),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_long),  cmocka_unit_test(test_long_marks),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
