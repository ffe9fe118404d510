#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"
#include "comm/base/utf8.h"
#include "server/text/detok.h"
#include "server/text/token.h"
#include "tests/unit/server/text/golden.h"

static struct sk_vocab *bytes_vocab; /* byte-level words, every byte has one */
static struct sk_vocab *spm_vocab;   /* byte fallback, one leading space is stripped */

static struct sk_detok *streamer(const struct sk_vocab *v, const struct sk_stop *stop, bool skip_special)
{
    struct sk_detok *d;
    assert_int_equal(sk_detok_new(v, stop, skip_special, &d), 0);
    return d;
}

static int find_word(const struct sk_vocab *v, const char *word)
{
    int id = sk_vocab_find(v, word, strlen(word));
    if (id < 0)
        fail_msg("no word %s", word);
    return id;
}

static void expect(struct sk_buf *out, const char *want)
{
    if (out->n != strlen(want) || memcmp(out->p ? out->p : "", want, out->n) != 0)
        fail_msg("\"%s\" came out, not \"%s\"", out->p ? out->p : "", want);
    sk_buf_clear(out);
}

static int push_word(struct sk_detok *d, const struct sk_vocab *v, const char *word, bool check, struct sk_buf *out)
{
    return sk_detok_push(d, find_word(v, word), check, out);
}

/* ---- golden streams ---- */

static void check_stream(const struct sk_vocab *v, const struct cJSON *c)
{
    struct sk_detok *d = streamer(v, NULL, false);
    struct sk_buf out, all;
    size_t n, n_want;
    int32_t *ids = golden_ids(c, "ids", &n);
    sk_buf_init(&out, 1 << 20);
    sk_buf_init(&all, 1 << 20);
    const struct cJSON *step = sk_json_first(sk_json_get(c, "stream_steps"));
    for (size_t i = 0; i < n; i++, step = sk_json_next(step)) {
        assert_non_null(step);
        assert_int_equal(sk_detok_push(d, ids[i], true, &out), 0);
        sk_buf_add(&all, out.p, out.n);
        const char *want = sk_json_str(step);
        expect(&out, want ? want : "");
    }
    assert_int_equal(sk_detok_flush(d, &out), 0);
    sk_buf_add(&all, out.p, out.n);
    char *want = golden_text(c, "decode", &n_want);
    expect(&all, want);
    free(want);
    free(ids);
    sk_buf_done(&out);
    sk_buf_done(&all);
    sk_detok_free(d);
}

static void check_streams(const char *tokenizer, const char *streams)
{
    struct sk_vocab *v = golden_vocab(tokenizer);
    struct golden_lines g;
    const struct cJSON *c;
    size_t n = 0;
    golden_open(&g, streams);
    for (; (c = golden_next(&g)); n++)
        check_stream(v, c);
    assert_true(n >= 40);
    sk_vocab_close(v);
}

static void test_golden(void **state)
{
    check_streams("tests/golden/tokenizers/smollm2.tokenizer.json.xz", "tests/golden/tokenizers/smollm2.stream.jsonl");
    check_streams("tests/golden/tokenizers/qwen3.tokenizer.json.xz", "tests/golden/tokenizers/qwen3.stream.jsonl");
}

static void test_llama3(void **state)
{
    char tokenizer[2048], streams[2048];
    const char *path = golden_shared("golden/tokenizers/llama3.tokenizer.json.xz");
    if (!path) {
        print_message("test_llama3: no golden/tokenizers/llama3 under $SK_SHARED (../shared)\n");
        skip();
    }
    snprintf(tokenizer, sizeof tokenizer, "%s", path);
    path = golden_shared("golden/tokenizers/llama3.stream.jsonl");
    assert_non_null(path);
    snprintf(streams, sizeof streams, "%s", path);
    check_streams(tokenizer, streams);
}

/* ---- characters ---- */

/* Pushes bytes, each as the byte-level word for it. */
static void push_bytes(struct sk_detok *d, const char *s, size_t n, struct sk_buf *out)
{
    for (size_t i = 0; i < n; i++)
        for (uint32_t id = 0;; id++) {
            size_t len;
            assert_true(id < sk_vocab_size(bytes_vocab));
            const char *bytes = sk_vocab_bytes(bytes_vocab, id, &len);
            if (len == 1 && *bytes == s[i]) {
                assert_int_equal(sk_detok_push(d, (int32_t)id, true, out), 0);
                break;
            }
        }
}

static void test_partial(void **state)
{
    struct sk_detok *d = streamer(bytes_vocab, NULL, false);
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    push_bytes(d, "\xE2\x82", 2, &out);
    expect(&out, "");
    push_bytes(d, "\xAC", 1, &out);
    expect(&out, "\xE2\x82\xAC");
    push_bytes(d, "\xE2\x82x", 3, &out); /* can no longer become a character */
    expect(&out, "\xEF\xBF\xBDx");
    push_bytes(d, "a\xF0\x9F\x98", 4, &out);
    expect(&out, "a");
    assert_int_equal(sk_detok_flush(d, &out), 0);
    expect(&out, "\xEF\xBF\xBD");
    assert_int_equal(sk_detok_push(d, -1, true, &out), 0); /* the padding of an embedding has no text */
    assert_int_equal(sk_detok_push(d, INT32_MAX, true, &out), 0);
    expect(&out, "");
    char junk[200];
    memset(junk, 0x80, sizeof junk);
    push_bytes(d, junk, sizeof junk, &out); /* what is held back stays small */
    assert_true(out.n >= 3 * (sizeof junk - 128));
    assert_int_equal(sk_detok_flush(d, &out), 0);
    assert_int_equal(out.n, 3 * sizeof junk);
    sk_buf_done(&out);
    sk_detok_free(d);
}

static void test_byte_fallback(void **state)
{
    struct sk_detok *d = streamer(spm_vocab, NULL, true);
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    push_word(d, spm_vocab, "<s>", true, &out); /* special: skipped, and not the first token */
    push_word(d, spm_vocab, "\xE2\x96\x81th", true, &out);
    expect(&out, "th");
    push_word(d, spm_vocab, "\xE2\x96\x81th", true, &out);
    expect(&out, " th");
    push_word(d, spm_vocab, "<0x0A>", true, &out);
    expect(&out, "\n");
    push_word(d, spm_vocab, "<0xC3>", true, &out);
    expect(&out, "");
    push_word(d, spm_vocab, "<0xA9>", true, &out);
    expect(&out, "\xC3\xA9");
    push_word(d, spm_vocab, "<0xC3>", true, &out);
    push_word(d, spm_vocab, "<0x41>", true, &out); /* spoils the run: each of its bytes is a U+FFFD */
    expect(&out, "");
    push_word(d, spm_vocab, "th", true, &out);
    expect(&out, "\xEF\xBF\xBD\xEF\xBF\xBDth");
    sk_buf_done(&out);
    sk_detok_free(d);
}

static void test_leading_space(void **state)
{
    struct sk_detok *d = streamer(spm_vocab, NULL, false);
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    push_word(d, spm_vocab, "\xE2\x96\x81", true, &out);
    expect(&out, "");
    push_word(d, spm_vocab, "\xE2\x96\x81", true, &out);
    push_word(d, spm_vocab, "\xE2\x96\x81th", true, &out);
    expect(&out, "  th");
    sk_buf_done(&out);
    sk_detok_free(d);
}

/* An answer that continues a prompt keeps its first space; a prompt of nothing but skipped tokens is no text. */
static void test_follow(void **state)
{
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    for (int skip_special = 0; skip_special < 2; skip_special++) {
        struct sk_detok *d = streamer(spm_vocab, NULL, skip_special);
        sk_detok_follow(d, -1);
        sk_detok_follow(d, find_word(spm_vocab, "<s>"));
        if (!skip_special)
            sk_detok_follow(d, find_word(spm_vocab, "th"));
        push_word(d, spm_vocab, "\xE2\x96\x81th", true, &out);
        expect(&out, skip_special ? "th" : " th");
        sk_detok_free(d);
    }
    sk_buf_done(&out);
}

/* ---- stop strings ---- */

struct stops {
    struct sk_stop stop;
    const char *str[4];
    uint32_t len[4];
};

static void set_stops(struct stops *s, bool include, const char *const *str)
{
    *s = (struct stops){.stop = {.include = include}};
    for (; str[s->stop.n]; s->stop.n++) {
        s->str[s->stop.n] = str[s->stop.n];
        s->len[s->stop.n] = (uint32_t)strlen(str[s->stop.n]);
    }
    s->stop.str = s->str;
    s->stop.len = s->len;
}

static void test_stop(void **state)
{
    struct stops s;
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    set_stops(&s, false, (const char *[]){"END", "NDX", NULL});
    struct sk_detok *d = streamer(bytes_vocab, &s.stop, false);
    push_bytes(d, "aEN", 3, &out);
    expect(&out, "a");
    push_bytes(d, "E", 1, &out);
    expect(&out, "EN");
    push_bytes(d, "N", 1, &out);
    assert_int_equal(push_word(d, bytes_vocab, "D", true, &out), 1);
    expect(&out, "");
    assert_int_equal(sk_detok_stop(d), 0);
    assert_int_equal(push_word(d, bytes_vocab, "D", true, &out), 1); /* nothing comes any more */
    assert_int_equal(sk_detok_flush(d, &out), 0);
    expect(&out, "");
    sk_detok_free(d);

    set_stops(&s, true, (const char *[]){"xyz", "\n", NULL});
    d = streamer(bytes_vocab, &s.stop, false);
    push_bytes(d, "xy", 2, &out);
    expect(&out, "");
    assert_int_equal(push_word(d, bytes_vocab, "\xC4\x8A", true, &out), 1); /* the newline's word */
    expect(&out, "xy\n");
    assert_int_equal(sk_detok_stop(d), 1);
    sk_detok_free(d);

    d = streamer(bytes_vocab, &s.stop, false); /* held back, then flushed */
    push_bytes(d, "axy", 3, &out);
    expect(&out, "a");
    assert_int_equal(sk_detok_flush(d, &out), 0);
    expect(&out, "xy");
    assert_int_equal(sk_detok_stop(d), -1);
    sk_detok_free(d);
    sk_buf_done(&out);
}

/* Below min_tokens a stop string does not end the answer, but one that is complete later does, wherever it began. */
static void test_min_tokens(void **state)
{
    struct stops s;
    struct sk_buf out;
    sk_buf_init(&out, 4096);
    set_stops(&s, false, (const char *[]){"aba", NULL});
    struct sk_detok *d = streamer(bytes_vocab, &s.stop, false);
    assert_int_equal(push_word(d, bytes_vocab, "a", false, &out), 0);
    assert_int_equal(push_word(d, bytes_vocab, "b", false, &out), 0);
    assert_int_equal(push_word(d, bytes_vocab, "a", false, &out), 0);
    expect(&out, "ab");
    assert_int_equal(push_word(d, bytes_vocab, "b", true, &out), 0);
    assert_int_equal(push_word(d, bytes_vocab, "a", true, &out), 1);
    expect(&out, "");
    sk_detok_free(d);
    sk_buf_done(&out);
}

/* What should come out of `text`: up to the stop that is complete first, the longest of those. */
static int first_stop(const struct sk_stop *stop, const char *text, size_t n, size_t *ret_n)
{
    for (size_t end = 1; end <= n; end++) {
        int best = -1;
        for (uint32_t i = 0; i < stop->n; i++)
            if (stop->len[i] <= end && memcmp(text + end - stop->len[i], stop->str[i], stop->len[i]) == 0 &&
                (best < 0 || stop->len[i] > stop->len[best]))
                best = (int)i;
        if (best >= 0) {
            *ret_n = end - (stop->include ? 0 : stop->len[best]);
            return best;
        }
    }
    *ret_n = n;
    return -1;
}

/* Is some proper beginning of a stop string an end of text[0..n) that has not come out? */
static size_t longest_held(const struct sk_stop *stop, const char *text, size_t n)
{
    size_t held = 0;
    for (uint32_t i = 0; i < stop->n; i++)
        for (size_t k = 1; k < stop->len[i] && k <= n; k++)
            if (k > held && memcmp(text + n - k, stop->str[i], k) == 0)
                held = k;
    return held;
}

static void test_random_stops(void **state)
{
    struct sk_buf out;
    sk_buf_init(&out, 1 << 16);
    for (uint32_t round = 0; round < 2000; round++) {
        char text[40], str[3][6];
        struct stops s;
        const char *list[4] = {0};
        uint32_t at = 0;
#define DRAW(n) ((uint32_t)(sk_rng_uniform(round, 0, 0, at++) * (float)(n)))
        uint32_t n_stop = 1 + DRAW(3), n = 10 + DRAW(30);
        for (uint32_t i = 0; i < n_stop; i++) {
            uint32_t len = 1 + DRAW(5);
            for (uint32_t k = 0; k < len; k++)
                str[i][k] = "ab"[DRAW(2)];
            str[i][len] = 0;
            list[i] = str[i];
        }
        for (uint32_t i = 0; i < n; i++)
            text[i] = "aab"[DRAW(3)];
        set_stops(&s, DRAW(2), list);
#undef DRAW
        size_t want;
        int want_stop = first_stop(&s.stop, text, n, &want);
        struct sk_detok *d = streamer(bytes_vocab, &s.stop, false);
        sk_buf_clear(&out);
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < n; i++) {
            rc = push_word(d, bytes_vocab, (char[]){text[i], 0}, true, &out);
            if (rc == 0)
                assert_int_equal(out.n, i + 1 - longest_held(&s.stop, text, i + 1));
        }
        assert_int_equal(sk_detok_flush(d, &out), 0);
        assert_int_equal(sk_detok_stop(d), want_stop);
        assert_int_equal(rc, want_stop >= 0);
        assert_int_equal(out.n, want);
        assert_memory_equal(out.p ? out.p : "", text, want);
        sk_detok_free(d);
    }
    sk_buf_done(&out);
}

/* Streamed and decoded at once is the same text, and streaming allocates nothing. */
static void test_random_ids(void **state)
{
    struct sk_buf out, whole;
    struct sk_err err = {0};
    sk_buf_init(&out, 1 << 20);
    sk_buf_init(&whole, 1 << 20);
    assert_int_equal(sk_buf_reserve(&out, 1 << 16), 0);
    for (uint32_t round = 0; round < 300; round++) {
        int32_t ids[60];
        struct sk_detok *d = streamer(bytes_vocab, NULL, round & 1);
        uint64_t before = sk_mem_count();
        for (uint32_t i = 0; i < 60; i++) {
            ids[i] = (int32_t)(sk_rng_uniform(round, 1, i, 0) * (float)sk_vocab_size(bytes_vocab));
            assert_int_equal(sk_detok_push(d, ids[i], true, &out), 0);
            assert_true(sk_utf8_valid(out.p, out.n));
        }
        assert_int_equal(sk_detok_flush(d, &out), 0);
        assert_true(sk_mem_count() == before);
        assert_int_equal(sk_token_decode(bytes_vocab, ids, 60, round & 1, &whole, &err), 0);
        assert_int_equal(out.n, whole.n);
        assert_memory_equal(out.p, whole.p, whole.n);
        sk_buf_clear(&out);
        sk_buf_clear(&whole);
        sk_detok_free(d);
    }
    sk_buf_done(&out);
    sk_buf_done(&whole);
}

static void test_too_big(void **state)
{
    struct sk_detok *d = streamer(bytes_vocab, NULL, false);
    struct sk_buf out;
    sk_buf_init(&out, 2);
    push_bytes(d, "ab", 2, &out);
    assert_int_equal(push_word(d, bytes_vocab, "c", true, &out), -SK_ETOOBIG);
    sk_buf_done(&out);
    sk_detok_free(d);
}

static int setup(void **state)
{
    bytes_vocab = golden_vocab("tests/golden/tokenizers/tiny-bpe.tokenizer.json");
    spm_vocab = golden_vocab("tests/golden/tokenizers/tiny-spm.tokenizer.json");
    return 0;
}

static int teardown(void **state)
{
    sk_vocab_close(bytes_vocab);
    sk_vocab_close(spm_vocab);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_llama3),        cmocka_unit_test(test_partial),
        cmocka_unit_test(test_byte_fallback), cmocka_unit_test(test_leading_space), cmocka_unit_test(test_follow),
        cmocka_unit_test(test_stop),          cmocka_unit_test(test_min_tokens),    cmocka_unit_test(test_random_stops),
        cmocka_unit_test(test_random_ids),    cmocka_unit_test(test_too_big),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
