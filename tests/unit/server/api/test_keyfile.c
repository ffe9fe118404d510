#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "server/api/keyfile.h"

/* SHA-256 of "secret" and of "abc", FIPS 180-4 (as sha256sum says) */
#define SECRET "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
#define ABC    "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define NAME63 "0123456789012345678901234567890123456789012345678901234567890AB"

static struct sk_keyfile parsed(const char *text)
{
    struct sk_keyfile f = {0};
    struct sk_err err = {0};
    if (sk_keyfile_parse("keys", text, strlen(text), &f, &err) != 0)
        fail_msg("%s: %s", text, err.msg);
    return f;
}

static const struct sk_key *find(const struct sk_keyfile *f, int line)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->keys[i].line == line)
            return &f->keys[i];
    }
    fail_msg("no key of line %d", line);
    return NULL;
}

static void refused_n(const char *text, size_t n, int code, const char *message)
{
    struct sk_keyfile f = {0};
    struct sk_err err = {0};
    int rc = sk_keyfile_parse("keys", text, n, &f, &err);
    if (rc != -code || !strstr(err.msg, message))
        fail_msg("%.60s: %d `%s`, not `%s`", text, rc, err.msg, message);
    assert_null(f.keys);
}

static void refused(const char *text, const char *message)
{
    refused_n(text, strlen(text), SK_EINVAL, message);
}

static void test_lines(void **state)
{
    struct sk_keyfile f =
        parsed("# keys\r\n"
               "\n"
               "  alice \t " SECRET "  cache=team rpm=60 tpm=100000 concurrent=4\tweight=2.5 scope=metrics,admin \r\n"
               "bob " ABC "\n"
               "bare-key");
    assert_int_equal(f.n, 3);
    const struct sk_key *a = find(&f, 3), *b = find(&f, 4), *c = find(&f, 5);
    assert_string_equal(a->name, "alice");
    assert_string_equal(a->group, "team");
    assert_int_equal(a->scopes, SK_SCOPE_METRICS | SK_SCOPE_ADMIN);
    assert_int_equal(a->limits.rpm, 60);
    assert_int_equal(a->limits.tpm, 100000);
    assert_int_equal(a->limits.concurrent, 4);
    assert_true(a->limits.weight == 2.5);
    assert_int_equal(a->digest[0], 0x2b);
    assert_int_equal(a->digest[31], 0x5b);
    assert_string_equal(b->name, "bob");
    assert_string_equal(b->group, "");
    assert_int_equal(b->scopes, SK_SCOPE_INFERENCE);
    assert_true(b->limits.weight == 1 && b->limits.rpm == 0 && b->limits.tpm == 0 && b->limits.concurrent == 0);
    assert_string_equal(c->name, "");
    assert_int_equal(c->scopes, SK_SCOPE_INFERENCE);
    sk_keyfile_done(&f);
}

/* Two keys of one name are one tenant, with scopes of their own. */
static void test_one_name(void **state)
{
    struct sk_keyfile f = parsed("a " SECRET " rpm=5\na " ABC " rpm=5 scope=metrics\n");
    assert_int_equal(f.n, 2);
    sk_keyfile_done(&f);
    refused("a " SECRET " rpm=5\nb x\n", "keys:2:");
    refused("a " SECRET " rpm=5\n\na " ABC " rpm=6\n", "keys:3: `a` has other limits or another cache group on line 1");
    refused("a " SECRET " tpm=5\na " ABC, "keys:2: `a`");
    refused("a " SECRET " concurrent=5\na " ABC, "keys:2: `a`");
    refused("a " SECRET "\na " ABC " weight=2", "keys:2: `a`");
    refused("a " SECRET " cache=g\na " ABC " cache=h", "keys:2: `a`");
}

static void test_twice(void **state)
{
    refused("a " SECRET "\n# \nb " SECRET "\n", "keys:3: the same key is on line 1");
    refused("secret\nb " SECRET "\n", "keys:2: the same key is on line 1");
    refused("x\nx\n", "keys:2: the same key is on line 1");
    refused("a " SECRET " rpm=1 rpm=1", "keys:1: rpm= is there twice");
}

static void test_malformed(void **state)
{
    refused("", "no key");
    refused("# nothing\n\n", "no key");
    refused("ok\na b\n", "keys:2: expected `NAME sha256:HEX`");
    refused("a sha256:12", "64 hex digits");
    refused(SECRET, "expected `NAME sha256:HEX`");
    refused("a " SECRET "0", "64 hex digits");
    refused("a sha256:zz80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b0", "64 hex digits");
    refused("a " SECRET " b", "only scope=, rpm=");
    refused("a " SECRET " RPM=1", "only scope=, rpm=");
    refused("a " SECRET " rpm", "only scope=, rpm=");
    refused("user:root " SECRET, "users of this system");
    refused("a\001b " SECRET, "control character");
    refused("a\xff " SECRET, "not UTF-8");
    refused("a " SECRET " cache=", "cache has 0 bytes");
    refused(NAME63 "4 " SECRET, "64 bytes; 1 to 63");
    refused_n("key\0more", 8, SK_EINVAL, "NUL");
    struct sk_keyfile f = parsed(NAME63 " " SECRET);
    assert_string_equal(f.keys[0].name, NAME63);
    sk_keyfile_done(&f);
}

static void test_bad_values(void **state)
{
    static const struct {
        const char *option, *message;
        int code;
    } cases[] = {
        {"scope=", "scope must be", SK_EINVAL},
        {"scope=all", "scope must be", SK_EINVAL},
        {"scope=inference,", "scope must be", SK_EINVAL},
        {"scope=inference,,admin", "scope must be", SK_EINVAL},
        {"rpm=", "rpm must be a whole number", SK_EINVAL},
        {"rpm=1.5", "rpm must be a whole number", SK_EINVAL},
        {"rpm=-1", "rpm must be a whole number", SK_EINVAL},
        {"rpm=1e3", "rpm must be a whole number", SK_EINVAL},
        {"rpm=0", "rpm is 0; it must be in 1 to 1000000000", SK_ERANGE},
        {"rpm=1000000001", "it must be in 1 to", SK_ERANGE},
        {"tpm=0", "tpm is 0", SK_ERANGE},
        {"tpm=99999999999999999999", "tpm is", SK_ERANGE},
        {"tpm=999999999999999999999", "tpm must be", SK_EINVAL},
        {"concurrent=0", "concurrent is 0", SK_ERANGE},
        {"concurrent=1x", "concurrent must be", SK_EINVAL},
        {"weight=0", "weight is 0; it must be in 0.001 to 1000", SK_ERANGE},
        {"weight=1001", "weight is 1001", SK_ERANGE},
        {"weight=.", "weight must be a number", SK_EINVAL},
        {"weight=1..5", "weight must be a number", SK_EINVAL},
        {"weight=nan", "weight must be a number", SK_EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "a " SECRET " %s\n", cases[i].option);
        refused_n(text, strlen(text), cases[i].code, cases[i].message);
    }
}

/* A message may be read by anybody who reads logs. */
static void test_messages_have_no_key(void **state)
{
    static const char *const texts[] = {"alice topsecret", "alice " SECRET " topsecret", "alice sha256:topsecret",
                                        "x\ntopsecret\ntopsecret"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct sk_keyfile f;
        struct sk_err err = {0};
        assert_int_equal(sk_keyfile_parse("keys", texts[i], strlen(texts[i]), &f, &err), -SK_EINVAL);
        assert_null(strstr(err.msg, "topsecret"));
    }
}

static void test_too_many(void **state)
{
    static char text[8 * (SK_KEYFILE_MAX_KEYS + 1)];
    size_t n = 0;
    for (int i = 0; i <= SK_KEYFILE_MAX_KEYS; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "k%d\n", i);
    refused(text, "keys:10001: more than 10000 keys");
    text[n - strlen("k10000\n")] = '\0';
    struct sk_keyfile f = parsed(text);
    assert_int_equal(f.n, SK_KEYFILE_MAX_KEYS);
    sk_keyfile_done(&f);
}

static void test_out_of_memory(void **state)
{
    static const char text[] = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    for (uint64_t n = 1;; n++) {
        struct sk_keyfile f = {0};
        struct sk_err err;
        sk_mem_fail_at(n, 0);
        int rc = sk_keyfile_parse("keys", text, sizeof text - 1, &f, &err);
        sk_mem_fail_at(0, 0);
        sk_keyfile_done(&f);
        if (rc == 0) {
            assert_true(n > 2);
            return;
        }
        assert_int_equal(rc, -SK_ENOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),      cmocka_unit_test(test_one_name),
        cmocka_unit_test(test_twice),      cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_bad_values), cmocka_unit_test(test_messages_have_no_key),
        cmocka_unit_test(test_too_many),   cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
