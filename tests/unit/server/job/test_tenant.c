#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "server/job/tenant.h"

static uint64_t now_us;

static void pass_ms(uint64_t ms)
{
    now_us += ms * 1000;
    sk_clock_set(now_us);
}

static int setup(void **state)
{
    struct sk_tenants *t;
    now_us = 0;
    pass_ms(5000);
    if (sk_tenants_new(&t) != 0)
        return -1;
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    sk_tenants_free(*state);
    sk_clock_set(0);
    return 0;
}

static struct sk_tenant *get(struct sk_tenants *t, const char *name, int64_t rpm, int64_t tpm, int64_t concurrent)
{
    struct sk_tenant *ret = NULL;
    const struct sk_tenant_limits l = {.weight = 1, .rpm = rpm, .tpm = tpm, .concurrent = concurrent};
    assert_int_equal(sk_tenants_get(t, name, &l, 7, &ret), 0);
    return ret;
}

static void test_table(void **state)
{
    struct sk_tenants *t = *state;
    struct sk_tenant *a = get(t, "a", 1, 0, 0), *other = NULL;
    char name[16];
    assert_ptr_not_equal(a, get(t, "b", 0, 0, 0));
    assert_ptr_equal(a, get(t, "a", 2, 0, 0));
    assert_int_equal(a->limits.rpm, 2);
    assert_int_equal(a->salt, 7);
    assert_int_equal(sk_tenants_n(t), 2);
    assert_string_equal(sk_tenants_at(t, 1)->name, "b");
    for (int i = 2; i < SK_TENANT_MAX; i++) {
        snprintf(name, sizeof name, "t%d", i);
        get(t, name, 0, 0, 0);
    }
    assert_int_equal(sk_tenants_get(t, "too many", &a->limits, 0, &other), -SK_ERANGE);
    assert_null(other);
    assert_ptr_equal(a, get(t, "a", 0, 0, 0));
}

static void enter(struct sk_tenant *t, uint32_t n)
{
    struct sk_err err;
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(sk_tenant_enter(t, &err), 0);
}

static void refused(struct sk_tenant *t, const char *holds, uint32_t min_ms, uint32_t max_ms)
{
    struct sk_err err = {0};
    uint32_t n_open = t->n_open;
    assert_int_equal(sk_tenant_enter(t, &err), -SK_ERATE);
    assert_int_equal(err.code, SK_ERATE);
    if (!strstr(err.msg, holds))
        fail_msg("%s", err.msg);
    assert_in_range(err.retry_ms, min_ms, max_ms);
    assert_int_equal(t->n_open, n_open);
    assert_int_equal(sk_tenant_enter(t, NULL), -SK_ERATE);
}

static void test_rpm(void **state)
{
    struct sk_tenant *t = get(*state, "a", 30, 0, 0);
    enter(t, 30);
    refused(t, "30 requests a minute (rpm)", 1990, 2010);
    pass_ms(1000);
    refused(t, "rpm", 990, 1010);
    pass_ms(1000);
    enter(t, 1);
    refused(t, "rpm", 1990, 2010);
    pass_ms(3600000); /* it holds a minute's worth, no more */
    enter(t, 30);
    refused(t, "rpm", 1990, 2010);
    assert_int_equal(t->n_open, 61);
}

static void test_tpm(void **state)
{
    struct sk_tenant *t = get(*state, "a", 0, 6000, 0);
    enter(t, 1);
    sk_tenant_spend(t, 5000, 999);
    enter(t, 1); /* one token is left */
    sk_tenant_spend(t, 0, 3001);
    refused(t, "6000 tokens a minute", 30000, 30100); /* 3,000 below nothing */
    pass_ms(29900);
    refused(t, "tpm", 100, 200);
    pass_ms(200);
    enter(t, 1);
    assert_int_equal(t->n_prompt_tok, 5000);
    assert_int_equal(t->n_answer_tok, 4000);
}

static void test_concurrent(void **state)
{
    struct sk_tenant *t = get(*state, "a", 0, 0, 2);
    enter(t, 2);
    refused(t, "2 unfinished requests at once (concurrent)", 100, 60000);
    sk_tenant_leave(t);
    enter(t, 1);
    refused(t, "concurrent", 100, 60000);
}

/* Limits change while it runs: credit follows, use is not forgotten. */
static void test_reload(void **state)
{
    struct sk_tenant *t = get(*state, "a", 0, 0, 0);
    enter(t, 100);
    get(*state, "a", 10, 100, 0);
    enter(t, 10);
    refused(t, "rpm", 5990, 6010);
    get(*state, "a", 20, 100, 0); /* no new bucket */
    refused(t, "rpm", 2990, 3010);
    pass_ms(60000);
    get(*state, "a", 5, 100, 0);
    enter(t, 5);
    refused(t, "rpm", 11990, 12010);
    get(*state, "a", 0, 0, 0);
    enter(t, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rpm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tpm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_concurrent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
