#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/api/auth.h"

/* SHA-256 of "secret", FIPS 180-4 (as sha256sum says) */
#define SECRET_HEX "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

static struct sk_auth *parsed(const char *text)
{
    struct sk_auth *a = NULL;
    struct sk_err err;
    assert_int_equal(sk_auth_parse("keys", text, strlen(text), &a, &err), 0);
    return a;
}

static void refused(const char *text, size_t n, const char *word)
{
    struct sk_auth *a = NULL;
    struct sk_err err;
    assert_int_equal(sk_auth_parse("keys", text, n, &a, &err), -SK_EINVAL);
    assert_null(a);
    if (!strstr(err.msg, word))
        fail_msg("`%s` is not in: %s", word, err.msg);
}

static int check(const struct sk_auth *a, const char *header, const char **ret_name)
{
    struct sk_err err;
    return sk_auth_check(a, header, ret_name, &err);
}

static void test_keys(void **state)
{
    struct sk_auth *a = parsed("# keys\r\n\n  alice \t sha256:" SECRET_HEX " \r\nbare-key\nlast");
    const char *name = NULL;
    assert_int_equal(check(a, "Bearer secret", &name), 0);
    assert_string_equal(name, "alice");
    assert_int_equal(check(a, "bEARER   bare-key ", &name), 0);
    assert_string_equal(name, "");
    assert_int_equal(check(a, "Bearer last", &name), 0);
    static const char *const wrong[] = {"Bearer secre",
                                        "Bearer secrets",
                                        "Bearer ",
                                        "Bearer",
                                        "Basic secret",
                                        "secret",
                                        "",
                                        "Bearer # keys",
                                        "Bearer alice",
                                        "Bearer " SECRET_HEX,
                                        "Bearer sha256:" SECRET_HEX};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(check(a, wrong[i], &name), -SK_EAUTH);
    assert_int_equal(check(a, NULL, &name), -SK_EAUTH);
    sk_auth_free(a);
}

static void test_upper_case_digits(void **state)
{
    struct sk_auth *a = parsed("a sha256:2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B");
    const char *name;
    assert_int_equal(check(a, "Bearer secret", &name), 0);
    sk_auth_free(a);
}

static void test_malformed(void **state)
{
    static const char nul[] = "key\0more";
    refused("", 0, "no key");
    refused("# nothing\n\n", 11, "no key");
    refused("ok\na b\n", 7, "keys:2:");
    refused("a sha256:12", 11, "64 hex digits");
    refused("sha256:" SECRET_HEX, 71, "NAME sha256:HEX");
    refused("a sha256:" SECRET_HEX "0", 74, "64");
    refused("a sha256:zz" SECRET_HEX, 75, "64");
    refused("a sha256:" SECRET_HEX " b", 75, "64");
    refused(nul, sizeof nul - 1, "NUL");
}

static void test_too_many(void **state)
{
    static char text[30000];
    for (size_t i = 0; i < sizeof text; i += 2)
        memcpy(text + i, "k\n", 2);
    refused(text, sizeof text, "10000 keys");
}

static void test_file(void **state)
{
    char path[] = "/tmp/sk-auth-XXXXXX";
    struct sk_auth *a = NULL;
    struct sk_err err;
    const char *name;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "key-1\n", 6), 6);
    close(fd);
    assert_int_equal(sk_auth_open(path, &a, &err), 0);
    assert_int_equal(check(a, "Bearer key-1", &name), 0);
    sk_auth_free(a);
    unlink(path);
    assert_int_equal(sk_auth_open(path, &a, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),      cmocka_unit_test(test_upper_case_digits),
        cmocka_unit_test(test_malformed), cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
