/* Figures, bills, views and questions of an engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "server/job/engine.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[16];

static void again(uint32_t max_seqs)
{
    memset(answers, 0, sizeof answers);
    fake.max_seqs = max_seqs;
    fake_up();
}

static double metric(enum sk_metric id)
{
    return sk_metric_value(fake.metrics, id, NULL, NULL);
}

/* Engines count from 0, the daemon goes on. */
static void test_totals(void **state)
{
    struct sk_engine_status st;
    again(4);
    assert_int_equal((int)sk_metric_value(fake.metrics, SK_METRIC_KV_BLOCKS, "free", NULL), 100);
    fake.stats = true;
    fake_ask(&answers[0], "", 1, 100, 50);
    for (int i = 0; i < 10; i++)
        fake_step();
    fake_down(NULL, 0);
    sk_engine_status(fake.engine, &st);
    assert_int_equal(st.stats.running, 0);
    assert_int_equal(st.stats.decode_tok, 10);
    fake_up();
    for (int i = 0; i < 10; i++)
        fake_step();
    sk_engine_status(fake.engine, &st);
    assert_int_equal(st.stats.steps, 20);
    assert_int_equal(st.stats.decode_tok, 20);
    assert_int_equal(st.stats.prompt_tok, 100 + 110);
    assert_int_equal(st.stats.running, 1);
    assert_int_equal(st.journal_tok, 120);
    assert_int_equal(st.restarts, 1);
    assert_int_equal((int)metric(SK_METRIC_STEPS), 20);
    assert_int_equal((int)metric(SK_METRIC_GENERATION_TOKENS), 20);
    assert_int_equal((int)metric(SK_METRIC_PROMPT_TOKENS), 210);
    assert_int_equal((int)metric(SK_METRIC_READMISSIONS), 1);
    assert_int_equal((int)metric(SK_METRIC_RUNNING), 1);
    assert_int_equal((int)metric(SK_METRIC_JOURNAL_TOKENS), 120);
    fake_run_out();
    fake_check_whole(&answers[0], 50);
    assert_int_equal((int)metric(SK_METRIC_JOURNAL_TOKENS), 0);
    assert_int_equal((int)metric(SK_METRIC_RUNNING), 0);
}

/* Times of the job, costs of all that was spent on it. */
static void test_bill(void **state)
{
    struct sk_job_bill b;
    again(1);
    fake_ask(&answers[0], "", 1, 100, 5);
    fake_ask(&answers[1], "", 2, 100, 5);
    uint64_t step_us = fake.base_us + fake.row_us, fill_us = fake.base_us + 100 * fake.row_us;
    for (int i = 0; i < 8; i++)
        fake_step();
    sk_job_bill(answers[1].job, &b); /* its third token has come */
    assert_int_equal(b.queue_us, fill_us + 4 * step_us);
    assert_int_equal(b.prefill_us, fill_us);
    assert_int_equal(b.decode_us, 2 * step_us);
    assert_int_equal(b.cpu_us, 30);
    assert_int_equal(b.blk_us, 300);
    fake_pass(1000);
    fake_down(NULL, 0);
    fake_pass(5000);
    fake_run_out();
    sk_job_bill(answers[1].job, &b);
    assert_int_equal(b.queue_us, fill_us + 4 * step_us);
    assert_int_equal(b.decode_us, 2 * step_us + 6000 + fill_us + 3 * fake.row_us + step_us);
    assert_int_equal(b.cpu_us, 30 + 20);
    assert_int_equal(b.blk_us, 300 + 200);
    assert_int_equal(b.n_readmit, 1);
    fake_pass(1000000); /* it is over: nothing grows */
    struct sk_job_bill later;
    sk_job_bill(answers[1].job, &later);
    assert_memory_equal(&later, &b, sizeof b);
    sk_job_bill(answers[0].job, &b);
    assert_int_equal(b.n_readmit, 0);
    fake_check_whole(&answers[0], 5);
    fake_check_whole(&answers[1], 5);
}

static struct sk_job_view views[16];
static uint32_t n_view;

static void note_view(void *arg, const struct sk_job_view *v)
{
    assert_ptr_equal(arg, views);
    views[n_view++] = *v;
}

static void test_each(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(2);
    fake_ask(&answers[0], "someone", 1, 10, 2);
    struct sk_job_req req = fake_req(&answers[1], &p, 2, 20, 7);
    req.n_choice = 2;
    req.id = "the second";
    p.priority = 3;
    assert_int_equal(fake_submit(&answers[1], &req, &err), 0);
    fake_step();
    n_view = 0;
    sk_engine_each(fake.engine, note_view, views);
    assert_int_equal(n_view, 3);
    assert_string_equal(views[0].tenant, "someone");
    assert_string_equal(views[1].id, "the second");
    assert_int_equal(views[0].n_done, 1);
    assert_true(views[0].wire == fake.seq[0].job && views[1].wire == fake.seq[1].job && views[2].wire == 0);
    assert_true(views[0].state == SK_JOB_SENT && views[2].state == SK_JOB_WAITING);
    assert_int_equal(views[2].choice, 1);
    assert_int_equal(views[2].n_prompt, 20);
    assert_int_equal(views[2].max_tokens, 7);
    assert_int_equal(views[2].priority, 3);
    assert_int_equal(views[2].age_us, fake.now_us - answers[1].submit_us);
    fake_run_out();
    n_view = 0;
    sk_engine_each(fake.engine, note_view, views);
    assert_int_equal(n_view, 0);
    fake_check_whole(&answers[0], 2);
    fake_check_whole(&answers[1], 7);
}

static struct seen {
    uint32_t n, n_null, n_cached;
} seen[SK_ENGINE_MAX_PEEKS + 1];

static void on_view(void *arg, const struct sk_wire_view *v)
{
    struct seen *s = arg;
    s->n++;
    s->n_null += v == NULL;
    s->n_cached = v ? v->n_cached : 0;
}

static int peek(uint32_t i)
{
    static const int32_t tok[] = {1, 2, 3};
    return sk_engine_peek(fake.engine, tok, 3, 0, on_view, &seen[i]);
}

static void test_peek(void **state)
{
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++)
        assert_int_equal(peek(i), 0);
    assert_int_equal(peek(SK_ENGINE_MAX_PEEKS), -SK_EBUSY);
    assert_int_equal(fake.n_peek, SK_ENGINE_MAX_PEEKS);
    fake_view(3, 17); /* the numbers begin at 1 */
    fake_view(3, 18); /* and each is answered once */
    fake_view(0, 1);
    fake_view(1000, 1);
    assert_int_equal(seen[2].n, 1);
    assert_int_equal(seen[2].n_cached, 17);
    sk_engine_unpeek(fake.engine, &seen[5]);
    fake_view(6, 1);
    assert_int_equal(seen[5].n, 0);
    assert_int_equal(peek(5), 0);
    fake_down(NULL, 0); /* the rest is lost with the engine */
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        assert_int_equal(seen[i].n, 1);
        assert_int_equal(seen[i].n_null, i != 2);
    }
    assert_int_equal(peek(0), -SK_EUNAVAIL);
    fake_up();
    assert_int_equal(peek(0), 0);
    fake_view(SK_ENGINE_MAX_PEEKS + 2, 1);
    assert_int_equal(seen[0].n, 2);
}

/* Much waits in the channel: a question would only make it more. */
static void test_peek_full_channel(void **state)
{
    struct sk_buf *out = sk_link_out(sk_replica_link(&fake.engine->replicas[0]));
    memset(seen, 0, sizeof seen);
    assert_int_equal(sk_buf_reserve(out, ENGINE_MAX_PENDING_BYTES + 1), 0);
    memset(out->p, 0, ENGINE_MAX_PENDING_BYTES + 1);
    out->n = ENGINE_MAX_PENDING_BYTES + 1;
    assert_int_equal(peek(0), -SK_EBUSY);
    sk_buf_clear(out);
    assert_int_equal(peek(0), 0);
    fake_view(1, 3);
    assert_int_equal(seen[0].n_cached, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_totals, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_bill, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_each, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_peek, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_peek_full_channel, fake_open, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
