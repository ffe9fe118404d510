#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "comm/dir/vocab.h"
#include "engine/build/tok.h"

static char dir[] = "/tmp/sk-tok-XXXXXX", skv[64];

static void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!text) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* A tokenizer.json of a few words; each part replaces the default where it is not NULL. */
static void put_tokenizer(const char *model, const char *added, const char *rest)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"model\": {\"type\": \"BPE\", %s}, \"added_tokens\": [%s], %s}",
             model ? model : "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]", added ? added : "",
             rest ? rest : "\"decoder\": {\"type\": \"Fuse\"}");
    put_file("tokenizer.json", text);
}

static struct sk_vocab *compile(uint32_t n_vocab, struct sk_tok_info *info)
{
    struct sk_err err = {0};
    struct sk_vocab *v = NULL;
    if (sk_tok_from_hf(dir, n_vocab, skv, info, &err) || sk_vocab_open(skv, &v, &err))
        fail_msg("%s", err.msg);
    return v;
}

static void refuse(int code, const char *why)
{
    struct sk_err err = {0};
    struct sk_tok_info info;
    assert_int_equal(sk_tok_from_hf(dir, 1000, skv, &info, &err), code);
    if (!strstr(err.msg, why))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
    assert_int_equal(access(skv, F_OK), -1);
}

static void free_info(struct sk_tok_info *info)
{
    sk_free(info->chat_template);
    sk_free(info->tools_template);
}

static void test_info(void **state)
{
    struct sk_tok_info info;
    put_tokenizer(NULL, "{\"id\": 3, \"content\": \"<s>\", \"special\": true}", NULL);
    put_file("tokenizer_config.json",
             "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"ab\", \"chat_template\": ["
             "{\"name\": \"tool_use\", \"template\": \"T\"}, {\"name\": \"default\", \"template\": \"D\"}]}");
    sk_vocab_close(compile(1000, &info));
    assert_int_equal(info.bos, 3);
    assert_int_equal(info.eos, 2);
    assert_string_equal(info.bos_token, "<s>");
    assert_string_equal(info.chat_template, "D");
    assert_string_equal(info.tools_template, "T");
    free_info(&info);

    put_file("chat_template.jinja", "J"); /* wins */
    sk_vocab_close(compile(1000, &info));
    assert_string_equal(info.chat_template, "J");
    free_info(&info);
    put_file("chat_template.jinja", NULL);

    put_file("tokenizer_config.json", NULL);
    put_file("special_tokens_map.json", "{\"eos_token\": \"<s>\", \"bos_token\": \"none such\"}");
    sk_vocab_close(compile(1000, &info));
    assert_int_equal(info.eos, 3);
    assert_int_equal(info.bos, -1);
    assert_null(info.chat_template);
    put_file("special_tokens_map.json", NULL);
    unlink(skv);
}

static void test_added(void **state)
{
    struct sk_tok_info info;
    put_tokenizer(
        NULL,
        "{\"id\": 9, \"content\": \"ab\"}, {\"id\": 4, \"content\": \"<|fim|>\"}, {\"id\": 5, \"content\": \"<tool>\"},"
        "{\"id\": 6, \"content\": \"<eos>\", \"special\": true}, {\"id\": 7, \"content\": \"<pad>\", \"special\": "
        "true}",
        NULL);
    struct sk_vocab *v = compile(7, &info);
    assert_int_equal(sk_vocab_size(v), 7); /* id 7 is not the model's */
    assert_int_equal(sk_vocab_find(v, "<pad>", 5), -1);
    assert_int_equal(sk_vocab_flags(v, 2), SK_TOK_MODEL | SK_TOK_ADDED); /* a word of the model keeps its id */
    assert_int_equal(sk_vocab_flags(v, 3), SK_TOK_UNUSED);
    assert_int_equal(sk_vocab_flags(v, 4), SK_TOK_ADDED | SK_TOK_CONTROL);
    assert_int_equal(sk_vocab_flags(v, 5), SK_TOK_ADDED);
    assert_int_equal(sk_vocab_flags(v, 6), SK_TOK_ADDED | SK_TOK_SPECIAL | SK_TOK_CONTROL);
    sk_vocab_close(v);
    unlink(skv);
}

static void test_unsupported(void **state)
{
    static const struct {
        const char *rest, *why;
    } cases[] = {
        {"\"decoder\": {\"type\": \"WordPiece\"}", "decoder WordPiece"},
        {"\"decoder\": null", "without a decoder"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"normalizer\": {\"type\": \"Precompiled\"}", "normalizer Precompiled"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}",
         "pre_tokenizer UnicodeScripts"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
         "[{\"type\": \"ByteLevel\"}, "
         "{\"type\": \"Whitespace\"}]}",
         "behind ByteLevel: Whitespace"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", "
         "\"pattern\": {\"Regex\": "
         "\"[a[bc]]\"}}",
         "a class inside a class"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Sometimes\", "
         "\"pattern\": {\"String\": "
         "\"x\"}}",
         "split behavior Sometimes"},
        {"\"decoder\": {\"type\": \"Fuse\"}, \"post_processor\": {\"type\": \"Magic\"}", "post_processor Magic"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_tokenizer(NULL, NULL, cases[i].rest);
        refuse(-SK_EUNSUP, cases[i].why);
    }
    put_file("tokenizer.json", "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}");
    refuse(-SK_EUNSUP, "Unigram");
    put_tokenizer("\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"", NULL, NULL);
    refuse(-SK_EUNSUP, "end_of_word_suffix");
    put_tokenizer("\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1", NULL, NULL);
    refuse(-SK_EUNSUP, "dropout");
}

static void test_malformed(void **state)
{
    static const struct {
        const char *model, *why;
    } cases[] = {
        {"\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", "id 0 has two words"},
        {"\"vocab\": {\"a\": 1000}, \"merges\": []", "not below the model's vocabulary of 1000"},
        {"\"vocab\": {\"a\": -1}, \"merges\": []", "a bad id"},
        {"\"vocab\": {\"a\": 1.5}, \"merges\": []", "a bad id"},
        {"\"vocab\": {}, \"merges\": []", "no words"},
        {"\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]", "merge 0"},
        {"\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"ab\"]", "merge 0"},
        {"\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [[\"a\"]]", "merge 0"},
        {"\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", \"b\"], [1, 2]]", "merge 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_tokenizer(cases[i].model, NULL, NULL);
        refuse(-SK_EFORMAT, cases[i].why);
    }
    put_tokenizer(NULL, "{\"content\": \"x\"}", NULL);
    refuse(-SK_EFORMAT, "added_tokens");
    put_tokenizer(
        NULL, NULL,
        "\"decoder\": {\"type\": \"Fuse\"}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
        "[{\"SpecialToken\": {\"id\": \"<none>\"}}]}");
    refuse(-SK_EFORMAT, "\"<none>\", which is no token");
    put_file("tokenizer.json", "{\"model\": {\"type\": \"BPE\"");
    refuse(-SK_EJSON, "tokenizer.json");
    put_file("tokenizer.json", NULL);
    refuse(-SK_ENOENT, "no tokenizer.json");
}

static int setup(void **state)
{
    assert_non_null(mkdtemp(dir));
    snprintf(skv, sizeof skv, "%s/vocab.skv", dir);
    return 0;
}

static int teardown(void **state)
{
    put_file("tokenizer.json", NULL);
    rmdir(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_added),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
