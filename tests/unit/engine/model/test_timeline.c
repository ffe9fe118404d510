/* The file that people open in a viewer: read back as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/json.h"
#include "engine/model/timeline.h"

static char path[] = "/tmp/skein-test-timeline-XXXXXX";

static const struct cJSON *write_and_read(const struct sk_buf *packed, struct cJSON **ret)
{
    struct sk_err err = {0};
    if (sk_timeline_write(path, packed->p, packed->n, &err) || sk_json_load(path, 1 << 20, ret, &err))
        fail_msg("%s", err.msg);
    return sk_json_get(*ret, "traceEvents");
}

static int64_t number(const struct cJSON *e, const char *key)
{
    int64_t v = -1;
    assert_true(sk_json_is_int(sk_json_at(e, key), &v));
    return v;
}

static bool is(const struct cJSON *e, const char *key, const char *text)
{
    const char *s = sk_json_str(sk_json_at(e, key));
    return s && strcmp(s, text) == 0;
}

static const struct cJSON *nth(const struct cJSON *list, int n)
{
    const struct cJSON *e = sk_json_first(list);
    while (n-- > 0)
        e = sk_json_next(e);
    return e;
}

/* A rank whose only step takes from `from` to `to`. */
static void pack_step(uint64_t from, uint64_t to, int rank, const char *host, struct sk_buf *out)
{
    struct sk_timeline *t;
    assert_int_equal(sk_timeline_open(8, &t), 0);
    sk_clock_set(to);
    sk_timeline_add(t, SK_TIMELINE_STEP, from, 7);
    sk_timeline_add(t, SK_TIMELINE_COLLECTIVE, to - 1, 576);
    assert_int_equal(sk_timeline_pack(t, rank, host, out), 0);
    sk_timeline_close(t);
}

static void ranks_are_processes_and_hosts_begin_together(void **state)
{
    struct sk_buf b;
    struct cJSON *v;
    sk_buf_init(&b, 1 << 20);
    pack_step(1000, 1500, 0, "left", &b);
    pack_step(1200, 1600, 1, "left", &b);
    pack_step(900000, 900100, 2, "right", &b);
    const struct cJSON *list = write_and_read(&b, &v);
    assert_int_equal(sk_json_len(list), 9);
    for (int r = 0; r < 3; r++) {
        static const char *const names[] = {"rank 0 on left", "rank 1 on left", "rank 2 on right"};
        static const int64_t at[] = {0, 200, 0}, took[] = {500, 400, 100};
        const struct cJSON *name = nth(list, 3 * r), *step = nth(list, 3 * r + 1), *sum = nth(list, 3 * r + 2);
        assert_true(is(name, "ph", "M") && is(name, "args.name", names[r]));
        assert_true(is(step, "ph", "X") && is(step, "name", "step") && is(sum, "name", "collective"));
        assert_true(number(step, "pid") == r && number(step, "ts") == at[r] && number(step, "dur") == took[r]);
        assert_true(number(step, "args.number") == 7 && number(sum, "args.words") == 576 && number(sum, "dur") == 1);
    }
    sk_json_free(v);
    sk_buf_done(&b);
}

static void what_does_not_fit_is_counted(void **state)
{
    struct sk_timeline *t;
    struct sk_buf b;
    struct cJSON *v;
    assert_int_equal(sk_timeline_open(2, &t), 0);
    for (int i = 0; i < 5; i++)
        sk_timeline_add(t, SK_TIMELINE_HEAD, 1, 0);
    sk_buf_init(&b, 1 << 20);
    assert_int_equal(sk_timeline_pack(t, 0, "here", &b), 0);
    const struct cJSON *list = write_and_read(&b, &v);
    assert_int_equal(sk_json_len(list), 4);
    assert_true(is(nth(list, 1), "args.labels", "3 later events were not kept"));
    sk_json_free(v);
    sk_buf_done(&b);
    sk_timeline_close(t);
}

static void without_a_timeline_nothing_happens(void **state)
{
    struct sk_buf b;
    struct cJSON *v;
    sk_timeline_add(NULL, SK_TIMELINE_STEP, 1, 1);
    sk_buf_init(&b, 1 << 20);
    assert_int_equal(sk_timeline_pack(NULL, 0, "here", &b), 0);
    assert_int_equal(sk_json_len(write_and_read(&b, &v)), 1);
    sk_json_free(v);
    sk_buf_done(&b);
    sk_timeline_close(NULL);
}

static void errors_are_said(void **state)
{
    struct sk_err err = {0};
    struct sk_buf b;
    sk_buf_init(&b, 1 << 20);
    pack_step(1, 2, 0, "here", &b);
    for (size_t n = 1; n < b.n; n++)
        assert_int_equal(sk_timeline_write(path, b.p, n, &err), -SK_EFORMAT);
    assert_int_equal(sk_timeline_write("/nowhere/at/all", b.p, b.n, &err), -SK_EIO);
    assert_string_equal(err.param, "timeline");
    assert_int_equal(sk_timeline_write("/dev/full", b.p, b.n, &err), -SK_EIO);
    sk_buf_done(&b);
}

static int make_file(void **state)
{
    return close(mkstemp(path));
}

static int remove_file(void **state)
{
    sk_clock_set(0);
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_processes_and_hosts_begin_together),
        cmocka_unit_test(what_does_not_fit_is_counted),
        cmocka_unit_test(without_a_timeline_nothing_happens),
        cmocka_unit_test(errors_are_said),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
