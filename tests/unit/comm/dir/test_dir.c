/* config.json and weights.skw: written, read back, and refused when damaged. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "comm/base/mem.h"
#include "comm/dir/dir.h"

static char scratch[64], config[96], weights[96];

static struct sk_dir good(void)
{
    struct sk_dir d = {.name = "tiny \"one\"",
                       .digest = "0123456789abcdef0123456789abcdef",
                       .dtype = "q4",
                       .created = 1700000000,
                       .n_eos = 2,
                       .eos = {2, 7},
                       .bos = -1,
                       .bos_token = "<s>",
                       .eos_token = "</s>",
                       .gen = {.temperature = 0.6f,
                               .top_p = 0.95f,
                               .min_p = NAN,
                               .typical_p = NAN,
                               .repetition_penalty = 1.1f,
                               .eta_cutoff = NAN,
                               .epsilon_cutoff = NAN,
                               .top_k = 20,
                               .no_repeat_ngram = -1,
                               .do_sample = 0}};

    d.desc = (struct sk_desc){.n_vocab = 100,
                              .n_embd = 32,
                              .n_layer = 2,
                              .n_head = 2,
                              .n_kv_head = 1,
                              .head_dim = 16,
                              .n_ffn = 64,
                              .max_len = 128,
                              .norm_eps = 1e-6f,
                              .gated = true,
                              .attn_scale = 0.25f,
                              .n_rope = 1,
                              .ropes = {{.dim = 16, .mscale = 1}}};
    assert_int_equal(sk_desc_check(&d.desc, NULL), 0);
    for (int i = 0; i < SK_SELFTEST_TOKENS; i++)
        d.selftest_ids[i] = i * 3;
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1; i++)
        d.selftest_logprobs[i] = -1.1f * (float)i;
    snprintf(d.path, sizeof d.path, "%s", scratch);
    return d;
}

static bool same_or_both_nan(float a, float b)
{
    return isnan(a) ? isnan(b) : a == b;
}

static void test_config(void **state)
{
    struct sk_dir d = good(), back;
    struct sk_err err = {0};

    d.chat_template = sk_strdup("{% for m in messages %}\n\"\xc3\xa4\\n\"{% endfor %}");
    assert_int_equal(sk_dir_save(&d, scratch, &err), 0);
    if (sk_dir_open(scratch, &back, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(back.name, d.name);
    assert_string_equal(back.digest, d.digest);
    assert_string_equal(back.dtype, d.dtype);
    assert_int_equal(back.created, d.created);
    assert_int_equal(back.n_eos, 2);
    assert_memory_equal(back.eos, d.eos, sizeof d.eos);
    assert_int_equal(back.bos, -1);
    assert_string_equal(back.chat_template, d.chat_template);
    assert_null(back.tools_template);
    assert_string_equal(back.bos_token, "<s>");
    assert_memory_equal(&back.desc, &d.desc, sizeof d.desc);
    assert_memory_equal(back.selftest_ids, d.selftest_ids, sizeof d.selftest_ids);
    assert_memory_equal(back.selftest_logprobs, d.selftest_logprobs, sizeof d.selftest_logprobs);
    assert_true(same_or_both_nan(back.gen.temperature, 0.6f) && same_or_both_nan(back.gen.min_p, NAN));
    assert_int_equal(back.gen.top_k, 20);
    assert_int_equal(back.gen.no_repeat_ngram, -1);
    assert_int_equal(back.gen.do_sample, 0);
    sk_dir_close(&back);
    sk_dir_close(&d);
    unlink(config);
}

static void write_file(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The saved config with `cut` replaced by `paste` is refused, and the message has `says`. */
static void refused(const char *cut, const char *paste, const char *says)
{
    struct sk_dir d = good(), back;
    struct sk_err err = {0};
    char text[8192], changed[8192];

    assert_int_equal(sk_dir_save(&d, scratch, &err), 0);
    FILE *f = fopen(config, "r");
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    char *at = strstr(text, cut);
    assert_non_null(at);
    int n = snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, paste, at + strlen(cut));
    write_file(config, changed, (size_t)n);
    assert_true(sk_dir_open(scratch, &back, &err) < 0);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
    unlink(config);
}

static void test_config_errors(void **state)
{
    struct sk_dir d;

    assert_int_equal(sk_dir_open("/does/not/exist", &d, NULL), -SK_ENOENT);
    refused("\"format\": 1", "\"format\": 99", "rebuild it with skein-build");
    refused("\"format\": 1", "\"fmt\": 1", "not an engine directory");
    refused("\"n_head\":2,", "", "n_head");
    refused("\"eos\": [2, 7]", "\"eos\": [2, 100]", "outside the vocabulary");
    refused("\"eos\": [2, 7]", "\"eos\": [-2]", "eos");
    refused("\"bos\": -1", "\"bos\": 100", "bos");
    refused("0123456789abcdef0", "Z", "digest");
    refused("\"q4\"", "\"0123456789012345678901234567890123456789\"", "dtype");
    refused("\"logprobs\": [", "\"logprobs\": [1, ", "selftest");
    refused("{\"format\"", "{{", "config.json");
}

/* ---- weights.skw ---- */

struct file {
    struct sk_dir_head head;
    struct sk_dir_entry entries[2];
    uint8_t pad[4096 - sizeof(struct sk_dir_head) - 2 * sizeof(struct sk_dir_entry)];
    float matrix[1024]; /* 4096 bytes */
    float vector[16];
};

static void sign(struct file *f)
{
    f->head.table_sum = XXH3_64bits(f->entries, sizeof f->entries);
}

static void make(struct file *f)
{
    *f = (struct file){.head = {.magic = SK_DIR_MAGIC, .format = SK_DIR_FORMAT, .n_tensor = 2, .file_bytes = sizeof *f},
                       .entries = {{.name = "a",
                                    .dtype = SK_F32,
                                    .pack = SK_PACK_X86_1,
                                    .split = SK_SPLIT_IN,
                                    .cut_unit = 16,
                                    .n_out = 20,
                                    .n_in = 32,
                                    .slab_k = 16,
                                    .offset = 4096,
                                    .bytes = 4096},
                                   {.name = "b",
                                    .dtype = SK_F32,
                                    .pack = SK_PACK_PLAIN,
                                    .cut_unit = 1,
                                    .n_out = 10,
                                    .n_in = 1,
                                    .slab_k = 1,
                                    .offset = 8192,
                                    .bytes = 64}}};
    for (int i = 0; i < 1024; i++)
        f->matrix[i] = (float)i;
    f->entries[0].sum = XXH3_64bits(f->matrix, sizeof f->matrix);
    f->entries[1].sum = XXH3_64bits(f->vector, sizeof f->vector);
    sign(f);
}

static void test_weights(void **state)
{
    struct file f;
    struct sk_weights w;
    struct sk_err err = {0};

    make(&f);
    write_file(weights, &f, sizeof f);
    assert_true(sk_dir_is(scratch));
    if (sk_weights_open(scratch, SK_WEIGHTS_HUGE, &w, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(w.n_tensor, 2);
    assert_null(sk_weights_find(&w, "c"));
    assert_null(sk_weights_find(&w, ""));
    const struct sk_dir_entry *e = sk_weights_find(&w, "a");
    assert_non_null(e);
    assert_memory_equal(sk_weights_data(&w, e), f.matrix, sizeof f.matrix);
    assert_int_equal(sk_weights_find(&w, "b")->n_out, 10);
    assert_int_equal(sk_weights_verify(&w, &err), 0);
    sk_weights_close(&w);

    f.vector[3] = 1;
    write_file(weights, &f, sizeof f);
    assert_int_equal(sk_weights_open(scratch, SK_WEIGHTS_LAZY, &w, &err), 0);
    assert_int_equal(sk_weights_verify(&w, &err), -SK_EFORMAT);
    assert_string_equal(err.param, "b");
    sk_weights_close(&w);
    unlink(weights);
    assert_false(sk_dir_is(scratch));
    assert_int_equal(sk_weights_open(scratch, SK_WEIGHTS_LAZY, &w, &err), -SK_ENOENT);
}

/* Spans as each way brings them: the file's bytes; what is copied is there once for each time, and nothing else of it.
 */
static void test_weights_bring(void **state)
{
    static const enum sk_weights_how how[] = {SK_WEIGHTS_LAZY, SK_WEIGHTS_AHEAD, SK_WEIGHTS_HUGE};
    struct file f;
    struct sk_err err = {0};

    make(&f);
    write_file(weights, &f, sizeof f);
    for (int i = 0; i < 3; i++) {
        struct sk_weights w;
        const uint8_t *part, *rest;
        assert_int_equal(sk_weights_open(scratch, how[i], &w, &err), 0);
        const struct sk_dir_entry *a = sk_weights_find(&w, "a");
        assert_non_null(a);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(sk_weights_bring(&w, a, 64, 128, (const void **)&part, &err), 0);
            assert_int_equal(sk_weights_bring(&w, a, 0, a->bytes, (const void **)&rest, &err), 0);
            assert_int_equal(((uintptr_t)part | (uintptr_t)rest) % 64, 0);
            assert_memory_equal(part, (const uint8_t *)f.matrix + 64, 128);
            assert_memory_equal(rest, f.matrix, a->bytes);
            assert_true((part == rest + 64) == (how[i] != SK_WEIGHTS_HUGE));
            if (how[i] == SK_WEIGHTS_HUGE)
                assert_int_equal(w.copy_used, 128 + a->bytes);
            sk_weights_seal(&w);
            sk_weights_drop(&w);
        }
        sk_weights_close(&w);
    }

    struct sk_weights w;
    const void *p;
    assert_int_equal(sk_weights_open(scratch, SK_WEIGHTS_HUGE, &w, &err), 0);
    const struct sk_dir_entry *a = sk_weights_find(&w, "a");
    int rc = 0;
    for (uint64_t n = 0; rc == 0 && n * a->bytes < (64 << 20);
         n++) /* there is room for all of the file, not for more */
        rc = sk_weights_bring(&w, a, 0, a->bytes, &p, &err);
    assert_int_equal(rc, -SK_ENOMEM);
    sk_weights_drop(&w);
    assert_int_equal(truncate(weights, (off_t)a->offset), 0);
    assert_int_equal(sk_weights_bring(&w, a, 0, a->bytes, &p, &err), -SK_EIO);
    assert_string_equal(err.param, "a");
    sk_weights_close(&w);
    unlink(weights);
}

/* The slabs of a matrix: the same rows however they lie, and of a range of slabs the columns of those. */
static void test_weights_bring_slabs(void **state)
{
    static const enum sk_weights_how how[] = {SK_WEIGHTS_LAZY, SK_WEIGHTS_AHEAD, SK_WEIGHTS_HUGE};
    struct file f;
    struct sk_err err = {0};

    make(&f);
    f.entries[0].slab_k = f.entries[0].cut_unit = 8; /* four slabs of two panels */
    sign(&f);
    write_file(weights, &f, sizeof f);
    for (int i = 0; i < 3; i++) {
        struct sk_weights w;
        struct sk_pack file;
        const void *got;
        float want[32], row[32];
        assert_int_equal(sk_weights_open(scratch, how[i], &w, &err), 0);
        const struct sk_dir_entry *a = sk_weights_find(&w, "a");
        assert_int_equal(sk_pack_layout(&file, a->dtype, a->n_out, a->n_in, a->slab_k), 0);
        for (uint32_t skip = 0; skip < 2; skip++) {
            struct sk_pack part = file;
            part.n_slab -= skip;
            part.n_in -= skip * part.slab_k;
            part.bytes = part.n_slab * part.slab_stride;
            assert_int_equal(sk_weights_bring_slabs(&w, a, skip * file.slab_stride, &part, &got, &err), 0);
            assert_true((part.slab_stride < part.panel_stride) == (how[i] == SK_WEIGHTS_HUGE));
            for (uint32_t r = 0; r < a->n_out; r++) {
                sk_pack_get_row(&file, sk_weights_data(&w, a), r, want);
                sk_pack_get_row(&part, got, r, row);
                assert_memory_equal(row, want + skip * file.slab_k, part.n_in * sizeof *row);
            }
        }
        sk_weights_seal(&w);
        sk_weights_drop(&w);
        sk_weights_close(&w);
    }
    unlink(weights);
}

static void test_weights_errors(void **state)
{
    struct file f;
    struct sk_weights w;
    struct sk_err err = {0};

#define REFUSED(change, says)                                                                                          \
    do {                                                                                                               \
        make(&f);                                                                                                      \
        change;                                                                                                        \
        sign(&f);                                                                                                      \
        assert_int_equal(sk_weights_open_mem(&f, sizeof f, &w, &err), -SK_EFORMAT);                                    \
        if (!strstr(err.msg, says))                                                                                    \
            fail_msg("'%s' does not say '%s'", err.msg, says);                                                         \
    } while (0)
    REFUSED(f.head.magic[0] = 'X', "magic");
    REFUSED(f.head.format = 2, "rebuild");
    REFUSED(f.head.file_bytes++, "bytes instead of");
    REFUSED(f.head.n_tensor = 0, "table of 0 tensors");
    REFUSED(f.head.n_tensor = 60000, "table of 60000 tensors");
    REFUSED(memset(f.entries[1].name, 'x', SK_DIR_NAME_MAX), "no proper name");
    REFUSED(f.entries[0].name[0] = 'c', "not sorted");
    REFUSED(f.entries[0].n_out = 40, "do not agree");
    REFUSED(f.entries[0].slab_k = 15, "do not agree");
    REFUSED(f.entries[0].dtype = 77, "do not agree");
    REFUSED(f.entries[0].pack = 2, "do not agree");
    REFUSED(f.entries[1].n_in = 2, "do not agree");
    REFUSED(f.entries[0].bytes = UINT64_MAX, "do not agree");
    REFUSED(f.entries[0].offset = UINT64_MAX & ~UINT64_C(4095), "outside the file");
    REFUSED(f.entries[0].offset = 4100, "outside the file");
    REFUSED(f.entries[0].offset = 8192, "outside the file");
    REFUSED(f.entries[0].split = 3, "bad split");
    REFUSED(f.entries[0].cut_unit = 0, "bad split");
#undef REFUSED
    make(&f);
    f.entries[0].split = SK_SPLIT_OUT; /* not signed */
    assert_int_equal(sk_weights_open_mem(&f, sizeof f, &w, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "checksum"));
    assert_int_equal(sk_weights_open_mem(&f, 20, &w, &err), -SK_EFORMAT);
}

static void test_cache(void **state)
{
    char path[256];
    struct sk_err err = {0};

    setenv("HOME", "/home/x", 1);
    unsetenv("CACHE_DIRECTORY");
    unsetenv("XDG_CACHE_HOME");
    assert_int_equal(sk_dir_cache("", path, sizeof path, &err), 0);
    assert_string_equal(path, "/home/x/.cache/skein");
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    assert_int_equal(sk_dir_cache("", path, sizeof path, &err), 0);
    assert_string_equal(path, "/xdg/skein");
    setenv("CACHE_DIRECTORY", "/var/cache/skein", 1);
    assert_int_equal(sk_dir_cache("", path, sizeof path, &err), 0);
    assert_string_equal(path, "/var/cache/skein");
    assert_int_equal(sk_dir_cache("/given", path, sizeof path, &err), 0);
    assert_string_equal(path, "/given");
    unsetenv("CACHE_DIRECTORY");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_int_equal(sk_dir_cache("", path, sizeof path, &err), -SK_EINVAL);
}

static void test_make(void **state)
{
    char path[128], file[160];
    struct sk_err err = {0};
    struct stat st;
    snprintf(path, sizeof path, "%s/a/b", scratch);
    assert_int_equal(sk_dir_make(path, 0700, &err), 0);
    assert_int_equal(sk_dir_make(path, 0755, &err), 0); /* is there */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    snprintf(file, sizeof file, "%s/file", path);
    fclose(fopen(file, "w"));
    snprintf(file, sizeof file, "%s/file/c", path);
    assert_int_equal(sk_dir_make(file, 0700, &err), -SK_EIO);
    snprintf(file, sizeof file, "%s/file", path);
    unlink(file);
    rmdir(path);
    snprintf(path, sizeof path, "%s/a", scratch);
    rmdir(path);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_errors),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_weights_bring),
        cmocka_unit_test(test_weights_bring_slabs),
        cmocka_unit_test(test_weights_errors),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_make),
    };

    if (!mkdtemp(strcpy(scratch, "/tmp/skein-test-XXXXXX")))
        return 1;
    snprintf(config, sizeof config, "%s/config.json", scratch);
    snprintf(weights, sizeof weights, "%s/weights.skw", scratch);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(scratch);
    return failed;
}
