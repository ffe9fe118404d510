#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "comm/wire/plan.h"

static const struct sk_plan_limits lim = {
    .max_slot = 4, .max_len = 128, .n_vocab = 100, .n_group = 2, .n_blk = {8, 4}, .max_row = 64, .max_result = 16};
static const int32_t ids[3] = {5, 6, 99}, blks[3] = {0, 3, 2}, stop[1] = {7};

static void put_open(struct sk_buf *b, uint32_t slot)
{
    struct sk_plan_open o = {.slot = slot, .n_prompt = 3, .seq = 41, .n_list = 1};
    sk_params_default(&o.params);
    o.params.n_stop_ids = 1;
    sk_plan_put_open(b, &o, stop);
}

/* One record of each kind and a run with drafts: six rows, three results. */
static void put_all(struct sk_buf *b)
{
    sk_plan_begin(b, 12);
    sk_plan_put_close(b, 3);
    sk_plan_put_trim(b, 1, 40);
    sk_plan_put_drop(b, 1, 1, 2);
    put_open(b, 0);
    sk_plan_put_append(b, 0, 1, blks, 3);
    sk_plan_put_tok(b, 0, 0, ids, 3);
    sk_plan_put_run(b, 0, 0, 3, SK_RUN_SAMPLE, 0);
    sk_plan_put_run(b, 1, 39, 3, SK_RUN_SAMPLE, 2);
    assert_int_equal(sk_plan_end(b, 6, 4), 0);
}

static int check(const struct sk_buf *b)
{
    struct sk_err err = {0};
    int rc = sk_plan_check(b->p, b->n, &lim, &err);
    assert_true(rc == 0 || (rc == -SK_EPROTO && err.code == SK_EPROTO && err.msg[0]));
    return rc;
}

static void what_is_written_is_read(void **state)
{
    static const uint16_t kind[] = {SK_PLAN_CLOSE,  SK_PLAN_TRIM, SK_PLAN_DROP, SK_PLAN_OPEN,
                                    SK_PLAN_APPEND, SK_PLAN_TOK,  SK_PLAN_RUN,  SK_PLAN_RUN};
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    put_all(&b);
    assert_int_equal(check(&b), 0);

    const struct sk_plan_head *head = (const struct sk_plan_head *)b.p;
    assert_int_equal(head->step, 12);
    assert_int_equal(head->n_rec, 8);
    size_t i = 0;
    for (const struct sk_plan_rec *r = sk_plan_first(b.p); r; r = sk_plan_next(b.p, r))
        assert_int_equal(r->kind, kind[i++]);
    assert_int_equal(i, 8);

    const struct sk_plan_rec *r = sk_plan_first(b.p);
    for (i = 0; i < 4; i++)
        r = sk_plan_next(b.p, r);
    const struct sk_plan_append *a = (const struct sk_plan_append *)r;
    assert_int_equal(a->n, 3);
    assert_memory_equal(a + 1, blks, sizeof blks);
    sk_buf_done(&b);
}

static void an_empty_plan_is_a_plan(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    sk_plan_begin(&b, 1);
    assert_int_equal(sk_plan_end(&b, 0, 0), 0);
    assert_int_equal(check(&b), 0);
    assert_null(sk_plan_first(b.p));
    sk_buf_done(&b);
}

static void dump_is_one_line_a_record(void **state)
{
    struct sk_buf b, text;
    sk_buf_init(&b, 4096);
    sk_buf_init(&text, 8192);
    put_all(&b);
    assert_int_equal(sk_plan_dump(b.p, &text), 0);
    static const char *const want[] = {
        "plan step=12 rows=6 results=4\nclose slot=3\ntrim slot=1 pos=40\ndrop slot=1 group=1 n=2\nopen slot=0 seq=41",
        "stop=1 bias=0 allowed=0 bad=0 list=7\nappend slot=0 group=1 blk=0,3,2\ntok slot=0 pos=0 id=5,6,99\n",
        "run slot=0 pos=0 n=3 sample\nrun slot=1 pos=39 n=3 sample drafts=2\n"};
    for (int i = 0; i < 3; i++)
        assert_non_null(strstr(text.p, want[i]));
    sk_buf_done(&b);
    sk_buf_done(&text);
}

static void every_length_but_the_right_one_is_refused(void **state)
{
    struct sk_buf b;
    struct sk_err err;
    sk_buf_init(&b, 4096);
    put_all(&b);
    for (size_t n = 0; n < b.n; n++)
        assert_int_equal(sk_plan_check(b.p, n, &lim, &err), -SK_EPROTO);
    ((struct sk_plan_head *)b.p)->bytes += 8;
    assert_int_equal(sk_plan_check(b.p, b.n, &lim, &err), -SK_EPROTO);
    sk_buf_done(&b);
}

/* Writes `value` over the word at `at` of the plan's record number `rec` (head: -1) and expects a refusal. */
static void refuse_word(int rec, size_t at, uint32_t value)
{
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    put_all(&b);
    char *p = b.p;
    if (rec >= 0) {
        const struct sk_plan_rec *r = sk_plan_first(b.p);
        while (rec-- > 0)
            r = sk_plan_next(b.p, r);
        p = b.p + ((const char *)r - b.p);
    }
    memcpy(p + at, &value, sizeof value);
    assert_int_equal(check(&b), -SK_EPROTO);
    sk_buf_done(&b);
}

static void every_number_has_bounds(void **state)
{
    enum { CLOSE, TRIM, DROP, OPEN, APPEND, TOK, RUN, DRAFTS };
    refuse_word(-1, offsetof(struct sk_plan_head, magic), 1);
    refuse_word(-1, offsetof(struct sk_plan_head, version), SK_PLAN_VERSION + 1);
    refuse_word(-1, offsetof(struct sk_plan_head, n_rec), 9);
    refuse_word(-1, offsetof(struct sk_plan_head, n_rec), 7);
    refuse_word(-1, offsetof(struct sk_plan_head, n_row), 7);
    refuse_word(-1, offsetof(struct sk_plan_head, n_row), 65);
    refuse_word(-1, offsetof(struct sk_plan_head, n_result), 17);
    for (int rec = CLOSE; rec <= DRAFTS; rec++) {
        refuse_word(rec, 0, SK_PLAN_KIND_COUNT); /* kind */
        refuse_word(rec, 0, 0);
        refuse_word(rec, 4, 0); /* bytes */
        refuse_word(rec, 4, 8);
        refuse_word(rec, 4, UINT32_MAX - 7);
        refuse_word(rec, 8, 4); /* slot */
    }
    refuse_word(CLOSE, offsetof(struct sk_plan_close, zero), 1);
    refuse_word(TRIM, offsetof(struct sk_plan_trim, pos), 129);
    refuse_word(DROP, offsetof(struct sk_plan_drop, group), 2);
    refuse_word(DROP, offsetof(struct sk_plan_drop, n), 0);
    refuse_word(OPEN, offsetof(struct sk_plan_open, n_prompt), 0);
    refuse_word(OPEN, offsetof(struct sk_plan_open, n_prompt), 129);
    refuse_word(OPEN, offsetof(struct sk_plan_open, n_list), UINT32_MAX);
    refuse_word(OPEN, offsetof(struct sk_plan_open, n_list), 3);
    refuse_word(OPEN, offsetof(struct sk_plan_open, params.n_stop_ids), 2);
    refuse_word(OPEN, sizeof(struct sk_plan_open), 100); /* stop id */
    refuse_word(APPEND, offsetof(struct sk_plan_append, group), 2);
    refuse_word(APPEND, offsetof(struct sk_plan_append, n), 0);
    refuse_word(APPEND, offsetof(struct sk_plan_append, n), 5);
    refuse_word(APPEND, offsetof(struct sk_plan_append, n), UINT32_MAX);
    refuse_word(APPEND, sizeof(struct sk_plan_append), 4); /* group 1 has blocks 0..3 */
    refuse_word(APPEND, sizeof(struct sk_plan_append) + 8, UINT32_MAX);
    refuse_word(TOK, offsetof(struct sk_plan_tok, pos), 126);
    refuse_word(TOK, offsetof(struct sk_plan_tok, pos), UINT32_MAX);
    refuse_word(TOK, offsetof(struct sk_plan_tok, n), 0);
    refuse_word(TOK, sizeof(struct sk_plan_tok) + 4, 100);
    refuse_word(RUN, offsetof(struct sk_plan_run, n), 0);
    refuse_word(RUN, offsetof(struct sk_plan_run, n), UINT32_MAX);
    refuse_word(RUN, offsetof(struct sk_plan_run, pos), 125); /* no room for the token that is drawn */
    refuse_word(RUN, offsetof(struct sk_plan_run, pos), UINT32_MAX);
    refuse_word(RUN, offsetof(struct sk_plan_run, want), 8);
    refuse_word(RUN, offsetof(struct sk_plan_run, zero), 1);
    refuse_word(RUN, offsetof(struct sk_plan_run, n_draft), 3); /* one row is of a token that was drawn */
    refuse_word(RUN, offsetof(struct sk_plan_run, n_draft), UINT32_MAX);
    refuse_word(DRAFTS, offsetof(struct sk_plan_run, want), 0); /* drafts, and nothing is drawn */
}

static void order_is_checked(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    sk_plan_begin(&b, 1);
    put_open(&b, 0);
    sk_plan_put_close(&b, 1);
    sk_plan_end(&b, 0, 0);
    assert_int_equal(check(&b), -SK_EPROTO); /* what frees comes first */

    sk_plan_begin(&b, 1);
    sk_plan_put_run(&b, 0, 0, 1, 0, 0);
    sk_plan_put_tok(&b, 0, 0, ids, 1);
    sk_plan_end(&b, 1, 0);
    assert_int_equal(check(&b), -SK_EPROTO); /* runs come last */

    sk_plan_begin(&b, 1);
    sk_plan_put_append(&b, 0, 0, blks, 1);
    sk_plan_put_drop(&b, 1, 0, 1);
    sk_plan_put_run(&b, 0, 0, 1, 0, 0);
    sk_plan_put_run(&b, 1, 0, 1, 0, 0);
    sk_plan_end(&b, 2, 0);
    assert_int_equal(check(&b), 0);
    sk_buf_done(&b);
}

static void a_full_buffer_is_an_error_of_end(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 100);
    sk_plan_begin(&b, 1);
    sk_plan_put_close(&b, 0);
    put_open(&b, 0);
    sk_plan_put_close(&b, 0);
    assert_int_equal(sk_plan_end(&b, 0, 0), -SK_ETOOBIG);
    sk_plan_begin(&b, 2);
    assert_int_equal(sk_plan_end(&b, 0, 0), 0);
    sk_buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),          cmocka_unit_test(an_empty_plan_is_a_plan),
        cmocka_unit_test(dump_is_one_line_a_record),        cmocka_unit_test(every_length_but_the_right_one_is_refused),
        cmocka_unit_test(every_number_has_bounds),          cmocka_unit_test(order_is_checked),
        cmocka_unit_test(a_full_buffer_is_an_error_of_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
