#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "server/api/auth.h"

/* SHA-256 of "secret" and of "abc", FIPS 180-4 (as sha256sum says) */
#define SECRET_HEX "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
#define SECRET     "sha256:" SECRET_HEX
#define ABC        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static struct sk_tenants *tenants;

static struct sk_auth *bound(const char *text)
{
    struct sk_auth *a = NULL;
    struct sk_err err = {0};
    if (sk_auth_parse("keys", text, strlen(text), &a, &err) != 0 || sk_auth_bind(a, tenants, &err) != 0)
        fail_msg("%s", err.msg);
    return a;
}

/* NULL = refused */
static struct sk_tenant *check(const struct sk_auth *a, const char *authorization, const char *x_api_key, int64_t uid,
                               unsigned *ret_scopes)
{
    const struct sk_auth_asked asked = {.authorization = authorization, .x_api_key = x_api_key, .uid = uid};
    struct sk_auth_who who;
    struct sk_err err = {0};
    int rc = sk_auth_check(a, &asked, &who, &err);
    assert_true(rc == 0 || (rc == -SK_EAUTH && err.msg[0]));
    if (rc == 0)
        *ret_scopes = who.scopes;
    return rc == 0 ? who.tenant : NULL;
}

static const char *name_of(const struct sk_auth *a, const char *authorization)
{
    unsigned scopes;
    const struct sk_tenant *t = check(a, authorization, NULL, -1, &scopes);
    return t ? t->name : "(refused)";
}

static void test_keys(void **state)
{
    struct sk_auth *a = bound("alice " SECRET "\nbare-key\nlast");
    assert_string_equal(name_of(a, "Bearer secret"), "alice");
    assert_string_equal(name_of(a, "bEARER   bare-key "), "");
    assert_string_equal(name_of(a, "Bearer last"), "");
    static const char *const wrong[] = {
        "Bearer secre", "Bearer secrets",     "Bearer ",       "Bearer", "Basic secret", "secret", "", "Bearer # keys",
        "Bearer alice", "Bearer " SECRET_HEX, "Bearer " SECRET};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_string_equal(name_of(a, wrong[i]), "(refused)");
    assert_string_equal(name_of(a, NULL), "(refused)");
    sk_auth_free(a);
}

/* The clients of Anthropic; but what stands in Authorization goes first. */
static void test_x_api_key(void **state)
{
    struct sk_auth *a = bound("alice " SECRET "\nbob " ABC);
    unsigned scopes;
    assert_string_equal(check(a, NULL, " secret ", -1, &scopes)->name, "alice");
    assert_null(check(a, NULL, "Bearer secret", -1, &scopes));
    assert_null(check(a, NULL, "", -1, &scopes));
    assert_string_equal(check(a, "Bearer abc", "secret", -1, &scopes)->name, "bob");
    assert_null(check(a, "Bearer x", "secret", -1, &scopes));
    sk_auth_free(a);
}

/* What `sha256sum </dev/null` says lets nobody in. */
static void test_empty_key(void **state)
{
    struct sk_auth *a = bound("a sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    unsigned scopes;
    assert_string_equal(name_of(a, "Bearer "), "(refused)");
    assert_null(check(a, NULL, "", -1, &scopes));
    sk_auth_free(a);
}

static void test_scopes(void **state)
{
    struct sk_auth *a = bound("a " SECRET " scope=metrics\na " ABC " scope=inference,admin\n");
    unsigned scopes = 0;
    const struct sk_tenant *t = check(a, "Bearer secret", NULL, -1, &scopes);
    assert_int_equal(scopes, SK_SCOPE_METRICS);
    assert_ptr_equal(check(a, "Bearer abc", NULL, -1, &scopes), t); /* one name, one tenant */
    assert_int_equal(scopes, SK_SCOPE_INFERENCE | SK_SCOPE_ADMIN);
    sk_auth_free(a);
}

/* Prefixes of the keys in the file are as unknown as anything else; so is what sorts before and behind all of them. */
static void test_many_keys(void **state)
{
    static char text[64 * 1024];
    char header[64];
    size_t n = 0;
    for (int i = 0; i < 3000; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "key-%d\n", i);
    struct sk_auth *a = bound(text);
    for (int i = -50; i < 3050; i++) {
        snprintf(header, sizeof header, "Bearer key-%d", i);
        assert_string_equal(name_of(a, header), i >= 0 && i < 3000 ? "" : "(refused)");
    }
    sk_auth_free(a);
}

/* As many names as a file may have. */
static void test_many_names(void **state)
{
    static char text[SK_KEYFILE_MAX_KEYS * 100];
    size_t n = 0;
    for (int i = 0; i < SK_KEYFILE_MAX_KEYS; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "name-%d sha256:%064x\n", i, i);
    sk_auth_free(bound(text));
    assert_int_equal(sk_tenants_n(tenants), SK_KEYFILE_MAX_KEYS + 1);
}

static uint64_t salt_of(const struct sk_auth *a, const char *header)
{
    unsigned scopes;
    return check(a, header, NULL, -1, &scopes)->salt;
}

static void test_salts(void **state)
{
    struct sk_auth *a = bound("a " SECRET "\nb " ABC "\nbare");
    assert_true(salt_of(a, "Bearer secret") != 0);
    assert_true(salt_of(a, "Bearer secret") != salt_of(a, "Bearer abc"));
    assert_true(salt_of(a, "Bearer bare") == 0);
    sk_auth_free(a);
    a = bound("g " SECRET "\nx " ABC " cache=g\ny sha256:"
              "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d cache=g");
    assert_true(salt_of(a, "Bearer b") == salt_of(a, "Bearer abc"));      /* 3e23.. is SHA-256 of "b" */
    assert_true(salt_of(a, "Bearer secret") != salt_of(a, "Bearer abc")); /* the key `g` is not in the group `g` */
    uint64_t s = salt_of(a, "Bearer abc");
    assert_true(sk_auth_salt(s, "t") != s && sk_auth_salt(s, "t") != sk_auth_salt(s, "u"));
    assert_true(sk_auth_salt(s, "t") != sk_auth_salt(0, "t"));
    assert_true(sk_auth_salt(s, "t") == sk_auth_salt(s, "t"));
    sk_auth_free(a);
}

static struct sk_auth *opened(const char *path, const char *users)
{
    struct sk_auth *a = NULL;
    struct sk_err err = {0};
    if (sk_auth_open(path, users, &a, &err) != 0 || sk_auth_bind(a, tenants, &err) != 0)
        fail_msg("%s", err.msg);
    return a;
}

static void test_no_keys(void **state)
{
    struct sk_auth *a = opened("", "");
    unsigned scopes = 0;
    const struct sk_tenant *t = check(a, NULL, NULL, -1, &scopes);
    assert_string_equal(t->name, "");
    assert_true(t->salt == 0);
    assert_int_equal(scopes, SK_SCOPE_ALL);
    assert_ptr_equal(check(a, "Bearer whatever", NULL, 12, &scopes), t);
    sk_auth_free(a);
}

static void test_trusted_users(void **state)
{
    char path[] = "/tmp/sk-auth-XXXXXX";
    unsigned scopes = 0;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "key-1\n", 6), 6);
    close(fd);
    struct sk_auth *a = opened(path, "root,4242");
    assert_string_equal(check(a, NULL, NULL, 0, &scopes)->name, "user:root");
    assert_int_equal(scopes, SK_SCOPE_ALL);
    assert_string_equal(check(a, "Bearer wrong", NULL, 4242, &scopes)->name, "user:4242");
    assert_true(check(a, NULL, NULL, 0, &scopes)->salt != check(a, NULL, NULL, 4242, &scopes)->salt);
    assert_null(check(a, NULL, NULL, 4243, &scopes));
    assert_null(check(a, NULL, NULL, -1, &scopes));
    assert_string_equal(check(a, "Bearer key-1", NULL, 4243, &scopes)->name, "");
    sk_auth_free(a);
    unlink(path);
}

static void test_bad_users(void **state)
{
    static const struct {
        const char *users, *message;
    } cases[] = {{"no-such-user-here", "there is no user `no-such-user-here`"},
                 {"root,,daemon", "a name of 1 to"},
                 {",root", "a name of 1 to"},
                 {"4294967296", "no user number"},
                 {"99999999999999999999999", "no user number"},
                 {"-1", "there is no user `-1`"},
                 {"12x", "there is no user `12x`"},
                 {" root", "there is no user ` root`"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sk_auth *a = NULL;
        struct sk_err err = {0};
        assert_true(sk_auth_open("", cases[i].users, &a, &err) < 0);
        assert_null(a);
        if (!strstr(err.msg, cases[i].message))
            fail_msg("`%s`: %s", cases[i].users, err.msg);
    }
}

static void test_too_many_users(void **state)
{
    char users[1024] = "";
    struct sk_auth *a = NULL;
    struct sk_err err;
    for (int i = 0; i < SK_AUTH_MAX_USERS; i++)
        sprintf(users + strlen(users), "%d,", i);
    sk_auth_free(opened("", users));
    strcat(users, "1000");
    assert_int_equal(sk_auth_open("", users, &a, &err), -SK_ERANGE);
}

/* Tenants outlive their keys; what a new file says of them holds at once. */
static void test_bind_again(void **state)
{
    unsigned scopes;
    struct sk_auth *a = bound("a " SECRET " rpm=5 weight=2");
    struct sk_tenant *t = check(a, "Bearer secret", NULL, -1, &scopes);
    t->n_open = 3;
    struct sk_auth *b = bound("a " ABC " rpm=7");
    assert_ptr_equal(check(b, "Bearer abc", NULL, -1, &scopes), t);
    assert_int_equal(t->limits.rpm, 7);
    assert_int_equal(t->n_open, 3);
    assert_int_equal(sk_auth_bind(a, tenants, NULL), 0);
    assert_int_equal(t->limits.rpm, 5);
    assert_true(t->limits.weight == 2);
    sk_auth_free(a);
    sk_auth_free(b);
}

static void test_file(void **state)
{
    char path[] = "/tmp/sk-auth-XXXXXX";
    struct sk_auth *a = NULL;
    struct sk_err err;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "a b\n", 4), 4);
    close(fd);
    assert_int_equal(sk_auth_open(path, "", &a, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, path));
    assert_non_null(strstr(err.msg, ":1:"));
    unlink(path);
    assert_int_equal(sk_auth_open(path, "", &a, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, path));
    assert_null(a);
}

static void test_out_of_memory(void **state)
{
    static const char text[] = "a " SECRET "\nb " ABC "\nbare\n";
    int rc = -1;
    for (uint64_t n = 1; rc != 0; n++) {
        struct sk_auth *a = NULL;
        struct sk_err err;
        assert_true(n < 100);
        sk_mem_fail_at(n, 0);
        rc = sk_auth_parse("keys", text, sizeof text - 1, &a, &err);
        if (rc == 0)
            rc = sk_auth_bind(a, tenants, &err);
        sk_mem_fail_at(0, 0);
        assert_true(rc == 0 || rc == -SK_ENOMEM);
        sk_auth_free(a);
    }
}

static int set_up(void **state)
{
    return sk_tenants_new(&tenants);
}

static int tear_down(void **state)
{
    sk_tenants_free(tenants);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_x_api_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_empty_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_scopes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_salts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_trusted_users, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_users, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_many_users, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bind_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
