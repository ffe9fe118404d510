#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "comm/dir/vocab_format.h"
#include "engine/build/tok_draft.h"

static struct sk_buf file; /* a small compiled tokenizer; malloced, so aligned */

static int setup(void **state)
{
    static const char *const words[] = {"a", "b", "ab", "<0x0A>", "\xC4\xA0"};
    char path[] = "/tmp/sk-vocab-XXXXXX";
    struct sk_tok_draft d;
    struct sk_err err = {0};
    int fd = mkstemp(path), rc = 0;
    assert_true(fd >= 0);
    close(fd);
    sk_tok_draft_init(&d, 100);
    for (uint32_t i = 0; i < 5; i++)
        rc |= sk_tok_draft_word(&d, i, words[i], strlen(words[i]), SK_TOK_MODEL, &err);
    rc |= sk_tok_draft_index(&d, &err);
    rc |= sk_tok_draft_merges(&d, 1, &err);
    rc |= sk_tok_draft_pair(&d, 0, (struct sk_tok_text){"a", 1}, (struct sk_tok_text){"b", 1}, &err);
    rc |= sk_tok_draft_added(&d, &(struct sk_vocab_added){.id = 7}, "<|x|>", 5, true, &err);
    rc |= sk_tok_draft_added(&d, &(struct sk_vocab_added){.id = 8, .flags = SK_VOCAB_LSTRIP}, "<y>", 3, false, &err);
    rc |= sk_tok_draft_norm(&d, SK_VOCAB_REPLACE, SK_VOCAB_LITERAL, "x", "y", &err);
    rc |= sk_tok_draft_pretok(&d, SK_VOCAB_SPLIT, SK_VOCAB_ISOLATED, "\\s+", &err);
    rc |= sk_tok_draft_step(&d, SK_TOK_STEP_BYTE_LEVEL, NULL, NULL, &err);
    rc |= sk_tok_draft_step(&d, SK_TOK_STEP_BYTE_FALLBACK, NULL, NULL, &err);
    d.prefix[d.n_prefix++] = 7;
    d.unk = 0;
    rc |= sk_tok_draft_write(&d, path, &err);
    if (rc)
        fail_msg("%s", err.msg);
    sk_tok_draft_done(&d);
    sk_buf_init(&file, 1 << 20);
    assert_int_equal(sk_buf_file(&file, path, &err), 0);
    unlink(path);
    return 0;
}

static int teardown(void **state)
{
    sk_buf_done(&file);
    return 0;
}

static struct sk_vocab *opened(void)
{
    struct sk_vocab *v;
    struct sk_err err = {0};
    if (sk_vocab_open_mem(file.p, file.n, &v, &err))
        fail_msg("%s", err.msg);
    return v;
}

static void expect_word(const struct sk_vocab *v, uint32_t id, const char *word, const char *bytes, unsigned flags)
{
    size_t n;
    const char *s = sk_vocab_word(v, id, &n);
    assert_int_equal(n, strlen(word));
    assert_memory_equal(s, word, n);
    s = sk_vocab_bytes(v, id, &n);
    assert_int_equal(n, strlen(bytes));
    assert_memory_equal(s, bytes, n);
    assert_int_equal(sk_vocab_flags(v, id), flags);
    if (*word)
        assert_int_equal(sk_vocab_find(v, word, strlen(word)), (int)id);
}

static void test_words(void **state)
{
    struct sk_vocab *v = opened();
    assert_int_equal(sk_vocab_size(v), 9);
    expect_word(v, 2, "ab", "ab", SK_TOK_MODEL);
    expect_word(v, 3, "<0x0A>", "\n", SK_TOK_MODEL | SK_TOK_BYTE);
    expect_word(v, 4, "\xC4\xA0", " ", SK_TOK_MODEL);
    expect_word(v, 5, "", "", SK_TOK_UNUSED);
    expect_word(v, 7, "<|x|>", "<|x|>", SK_TOK_ADDED | SK_TOK_SPECIAL | SK_TOK_CONTROL);
    expect_word(v, 8, "<y>", "<y>", SK_TOK_ADDED);
    assert_int_equal(sk_vocab_find(v, "abc", 3), -1);
    assert_int_equal(sk_vocab_find(v, "", 0), -1);
    assert_int_equal(sk_vocab_max_token_bytes(v), 5);
    assert_int_equal(sk_vocab_n_controls(v), 1);
    assert_int_equal(sk_vocab_control(v, 0), 7);
    assert_int_equal(sk_vocab_merge(v, 0, 1)->id, 2);
    assert_null(sk_vocab_merge(v, 1, 0));
    sk_vocab_close(v);
}

/* The file with a few bytes changed must be refused with these words. */
static void refuse(size_t at, uint64_t value, size_t n, const char *why)
{
    uint64_t old = 0;
    struct sk_vocab *v = NULL;
    struct sk_err err = {0};
    assert_true(at + n <= file.n);
    memcpy(&old, file.p + at, n);
    memcpy(file.p + at, &value, n);
    int rc = sk_vocab_open_mem(file.p, file.n, &v, &err);
    memcpy(file.p + at, &old, n);
    assert_int_equal(rc, -SK_EFORMAT);
    assert_null(v);
    if (!strstr(err.msg, why))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
}

static size_t at_section(enum sk_vocab_section s, size_t element, size_t size)
{
    return ((const struct sk_vocab_head *)file.p)->section[s].offset + element * size;
}

static void test_refused(void **state)
{
    size_t head = offsetof(struct sk_vocab_head, section);
    refuse(0, 'X', 1, "not a vocab.skv");
    refuse(offsetof(struct sk_vocab_head, format), 99, 4, "format 99");
    refuse(offsetof(struct sk_vocab_head, file_bytes), file.n + 1, 8, "its head says");
    refuse(offsetof(struct sk_vocab_head, unk), 9, 4, "unknown token");
    for (size_t i = 0; i < SK_VOCAB_N_SECTION; i++) {
        refuse(head + 16 * i, UINT64_MAX - 7, 8, "outside the file");
        refuse(head + 16 * i, 4, 8, "outside the file");
        refuse(head + 16 * i + 8, UINT64_MAX / 2, 8, "outside the file");
    }
    refuse(head + 16 * SK_VOCAB_WORDS + 8, 0, 8, "no words");
    refuse(head + 16 * SK_VOCAB_HASH + 8, 3, 8, "power of two");
    refuse(head + 16 * SK_VOCAB_MERGES + 8, 0, 8, "power of two");
    refuse(at_section(SK_VOCAB_WORDS, 2, sizeof(struct sk_vocab_word)), UINT32_MAX, 4, "a word lies");
    refuse(at_section(SK_VOCAB_WORDS, 3, sizeof(struct sk_vocab_word)) + 12, 0, 4, "not one byte");
    refuse(at_section(SK_VOCAB_HASH, 1, 4), 10, 4, "names an id");
    refuse(at_section(SK_VOCAB_ADDED, 0, sizeof(struct sk_vocab_added)), 9, 4, "added token");
    refuse(at_section(SK_VOCAB_ADDED, 0, sizeof(struct sk_vocab_added)), 5, 4, "added token"); /* it has no word */
    refuse(at_section(SK_VOCAB_CONTROLS, 0, 4), 9, 4, "names an id");
    refuse(at_section(SK_VOCAB_PREFIX, 0, 4), 9, 4, "names an id");
    refuse(at_section(SK_VOCAB_NORM, 0, 0), SK_VOCAB_SPLIT, 4, "normalizer");
    refuse(at_section(SK_VOCAB_NORM, 0, 0) + 12, 0, 4, "normalizer"); /* an empty pattern */
    refuse(at_section(SK_VOCAB_PRETOK, 0, 0), SK_VOCAB_N_OP, 4, "pre-tokenizer");
    refuse(at_section(SK_VOCAB_PRETOK, 0, 0) + 4, SK_VOCAB_N_BEHAVIOUR, 4, "pre-tokenizer");
    struct sk_vocab *v = opened(); /* the file itself is still whole */
    sk_vocab_close(v);
}

/* A look-up in a full table would not end. */
static void test_full_tables(void **state)
{
    const struct sk_vocab_head *h = (const void *)file.p;
    char *copy = malloc(file.n);
    struct sk_vocab *v;
    struct sk_err err = {0};
    assert_non_null(copy);
    memcpy(copy, file.p, file.n);
    for (uint64_t i = 0; i < h->section[SK_VOCAB_HASH].n; i++)
        memcpy(copy + at_section(SK_VOCAB_HASH, i, 4), &(uint32_t){1}, 4);
    assert_int_equal(sk_vocab_open_mem(copy, file.n, &v, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "full"));
    memcpy(copy, file.p, file.n);
    for (uint64_t i = 0; i < h->section[SK_VOCAB_MERGES].n; i++)
        memset(copy + at_section(SK_VOCAB_MERGES, i, sizeof(struct sk_vocab_merge)), 0, sizeof(struct sk_vocab_merge));
    assert_int_equal(sk_vocab_open_mem(copy, file.n, &v, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "full"));
    for (size_t n = 0; n < file.n; n += 13) /* cut short anywhere */
        assert_int_equal(sk_vocab_open_mem(copy, n, &v, &err), -SK_EFORMAT);
    free(copy);
}

static void test_path(void **state)
{
    struct sk_vocab *v;
    struct sk_err err = {0};
    assert_int_equal(sk_vocab_open("/nonexistent/vocab.skv", &v, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "/nonexistent/vocab.skv"));
    assert_int_equal(sk_vocab_open("/tmp", &v, &err), -SK_EFORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full_tables),
        cmocka_unit_test(test_path),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
