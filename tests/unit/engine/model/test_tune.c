/* The tuning file of an engine directory: written by timing, found again on this machine only, refused when damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <glob.h>
#include <cmocka.h>

#include "engine/model/tune.h"
#include "tests/unit/engine/enginedir.h"
#include "tests/unit/engine/fixture.h"

static char dir[] = "/tmp/skein-test-tune-XXXXXX";
static char file[300];

static void put(const char *text)
{
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void there_is_none_before(void **state)
{
    struct sk_tuning t;
    assert_int_equal(sk_tune_load(dir, 0, &t), -SK_ENOENT);
    assert_int_equal(sk_tune_load("/nowhere", 0, &t), -SK_ENOENT);
}

/* What was found opens a backend, and is the default's in all that no line of the report names. */
static void measured_and_found_again(void **state)
{
    struct sk_err err = {0};
    struct sk_tuning t = {0}, other;
    struct sk_backend *be;
    struct sk_buf report;
    glob_t found;
    char pattern[64];

    sk_buf_init(&report, 1 << 16);
    if (sk_tune_measure(dir, 1, &report, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(sk_tune_load(dir, 1, &t), 0);
    assert_int_equal(t.n_thread, 1);
    assert_int_equal(sk_tune_load(dir, 2, &other), -SK_ENOENT);
    assert_int_equal(sk_tune_load(dir, 0, &other), -SK_ENOENT); /* that one thread is best was not found: it was said */
    assert_true((t.tune.item_bytes == sk_tune_default.item_bytes) ==
                (report.n == 0 || strstr(report.p, "item_bytes") == NULL));
    assert_true((t.tune.pass_bytes == sk_tune_default.pass_bytes) ==
                (report.n == 0 || strstr(report.p, "pass_bytes") == NULL));
    assert_int_equal(sk_cpu_open(&(struct sk_backend_conf){.n_thread = (int)t.n_thread, .tune = &t.tune}, &be, &err),
                     0);
    be->close(be);
    sk_buf_done(&report);

    snprintf(pattern, sizeof pattern, "%s/tuning-*", dir);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    snprintf(file, sizeof file, "%s", found.gl_pathv[0]);
    globfree(&found);
}

static void damaged(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"threads\": 1}",
        "{\"threads\": 0, \"item_bytes\": 65536, \"items_per_thread\": 8, \"pass_bytes\": 4194304, \"own_rows\": 4}",
        "{\"threads\": 257, \"item_bytes\": 65536, \"items_per_thread\": 8, \"pass_bytes\": 4194304, \"own_rows\": 4}",
        "{\"threads\": 1, \"item_bytes\": -1, \"items_per_thread\": 8, \"pass_bytes\": 4194304, \"own_rows\": 4}",
        "{\"threads\": 1, \"item_bytes\": 1, \"items_per_thread\": 8, \"pass_bytes\": 4194304, \"own_rows\": 4}",
        "{\"threads\": 1, \"item_bytes\": 65536, \"items_per_thread\": \"8\", \"pass_bytes\": 4194304, \"own_rows\": "
        "4}",
    };
    struct sk_tuning t;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(bad[i]);
        if (sk_tune_load(dir, 1, &t) != -SK_ENOENT)
            fail_msg("taken: %s", bad[i]);
    }
    put("{\"threads\": 1, \"item_bytes\": 65536, \"items_per_thread\": 8, \"pass_bytes\": 4194304, \"own_rows\": 0}");
    assert_int_equal(sk_tune_load(dir, 1, &t), 0);
    assert_int_equal(t.tune.own_rows, 0);
}

static void cannot_be_written(void **state)
{
    struct sk_err err = {0};
    struct sk_buf report;

    sk_buf_init(&report, 1 << 16);
    assert_int_equal(sk_tune_measure("/nowhere", 1, &report, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "/nowhere"));
    sk_buf_done(&report);
}

static int make_dir(void **state)
{
    struct sk_desc desc;
    fixture_desc(&desc);
    if (!mkdtemp(dir))
        return -1;
    enginedir_write(&desc, SK_Q4, dir);
    return 0;
}

static int remove_dir(void **state)
{
    unlink(file);
    enginedir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_none_before),
        cmocka_unit_test(measured_and_found_again),
        cmocka_unit_test(damaged),
        cmocka_unit_test(cannot_be_written),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
