/* Jobs and the supervisor against a made-up engine. This program is also that engine, and the builder: started under
 * the name skein-engine or skein-build (links in a folder of the test's) it plays them, as the model's file name says:
 *   token i of an answer is 1000 * choice + i, whatever was done before, so that a token lost or doubled shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "comm/wire/board.h"
#include "comm/wire/chan.h"
#include "server/job/job.h"
#include "server/job/tenant.h"
#include "tests/unit/server/job/roledir.h"

/* ---- the engine ---- */

enum { FAKE_SEQS = 64, FAKE_PLACES = 3, FAKE_CREDIT = 2 * FAKE_PLACES, FAKE_LEN = 4096, POISON = 66 };

static struct {
    struct sk_chan chan;
    struct fake_seq {
        uint64_t job;
        uint32_t choice, n_done, max_tokens, n_prompt_lp, n_lp_sent, n_here;
        int32_t first; /* of its prompt */
        bool suspect, cancelled;
    } seq[FAKE_SEQS];
    uint32_t n_seq;
    uint64_t step;
    int32_t first;
    struct sk_board board;
    const char *dir;
    char digest[40];
} fake;

static bool plays(const char *role)
{
    return strstr(fake.dir, role) != NULL;
}

/* Things that happen in the first life only: a file remembers. */
static bool first_life(void)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/lived", fake.dir);
    if (access(path, F_OK) == 0)
        return false;
    fclose(fopen(path, "w"));
    return true;
}

static void fake_hello(void)
{
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC,
                              .version = SK_WIRE_VERSION,
                              .max_len = FAKE_LEN,
                              .max_seqs = FAKE_PLACES,
                              .n_group = 1,
                              .block_tok = 32,
                              .credit = FAKE_CREDIT,
                              .n_tp = 1,
                              .n_pp = 1,
                              .pid = (uint32_t)getpid()};
    snprintf(h.build, sizeof h.build, "%s", plays("other-version") ? "9.9" : SK_VERSION);
    snprintf(h.digest, sizeof h.digest, "%s", fake.digest);
    sk_wire_put_hello(&fake.chan.out, &h);
}

static void fake_seq(const struct sk_wire_seq *s)
{
    if (fake.n_seq == FAKE_CREDIT)
        _exit(77); /* more than it granted */
    fake.seq[fake.n_seq++] = (struct fake_seq){.job = s->job,
                                               .choice = s->choice,
                                               .n_done = s->n_done,
                                               .max_tokens = s->params.max_tokens,
                                               .n_prompt_lp = s->params.n_prompt_logprobs >= 0 ? 5 : 0,
                                               .first = fake.first,
                                               .suspect = s->flags & SK_SEQ_SUSPECT};
    const int32_t *done = sk_wire_seq_done(s);
    for (uint32_t i = 0; i < s->n_done; i++) {
        if (done[i] != (int32_t)(1000 * s->choice + i))
            _exit(78);
    }
}

static void fake_frame(const struct sk_frame *f)
{
    const struct sk_wire_cancel *c = (const struct sk_wire_cancel *)f;
    if (f->kind == SK_FRAME_PROMPT)
        fake.first = sk_wire_prompt_tok((const struct sk_wire_prompt *)f)[0];
    else if (f->kind == SK_FRAME_SEQ)
        fake_seq((const struct sk_wire_seq *)f);
    else if (f->kind == SK_FRAME_BEAT && !plays("deaf"))
        sk_wire_put_beat(&fake.chan.out, ((const struct sk_wire_beat *)f)->number, fake.step);
    else if (f->kind == SK_FRAME_QUIT)
        _exit(0);
    for (uint32_t i = 0; i < fake.n_seq && f->kind == SK_FRAME_CANCEL; i++) {
        if (fake.seq[i].job == c->job && (c->choice == SK_WIRE_ALL || c->choice == fake.seq[i].choice))
            fake.seq[i].cancelled = true;
    }
}

static uint32_t fake_items(struct fake_seq *s)
{
    struct sk_wire_item it = {.rank = 1};
    if (s->n_lp_sent < s->n_prompt_lp) { /* prompt log-probs, one a step */
        it.flags = SK_ITEM_PROMPT;
        it.id = (int32_t)s->n_lp_sent++;
    } else {
        it.id = (int32_t)(1000 * s->choice + s->n_done++);
    }
    sk_wire_tokens_item(&fake.chan.out, &it, NULL);
    return 1;
}

static bool on_probation(const struct fake_seq *s)
{
    return s->suspect && s->n_here < SK_SEQ_PROBATION;
}

/* Suspects run alone, in every other step, and a poisoned one ends the engine. */
static bool runs(const struct fake_seq *s)
{
    bool any[2] = {false};
    for (uint32_t i = 0; i < fake.n_seq; i++)
        any[on_probation(&fake.seq[i])] |= !fake.seq[i].cancelled;
    return s->cancelled || on_probation(s) == (any[1] && (fake.step % 2 || !any[0]));
}

static void fake_board(void)
{
    bool poison = false;
    sk_board_begin(&fake.board, fake.step, true);
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        if (!runs(&fake.seq[i]) || fake.seq[i].cancelled)
            continue;
        sk_board_add(&fake.board, fake.seq[i].job, fake.seq[i].choice);
        poison |= fake.seq[i].first == POISON;
    }
    if (poison)
        _exit(1);
}

static void fake_step(void)
{
    size_t at;
    uint32_t n = 0, kept = 0, n_seq = fake.n_seq;
    struct fake_seq seq[FAKE_SEQS];
    fake.step++;
    fake_board();
    sk_wire_tokens_begin(&fake.chan.out, &at, fake.step);
    for (uint32_t i = 0; i < n_seq; i++) {
        struct fake_seq s = fake.seq[i];
        bool last = s.n_done + 1 >= s.max_tokens && s.n_lp_sent == s.n_prompt_lp;
        struct sk_wire_entry e = {
            .job = s.job, .choice = s.choice, .n_item = 1, .finish = last ? SK_FINISH_LENGTH : SK_FINISH_NONE};
        if (s.cancelled) {
            e.n_item = 0;
            e.finish = SK_FINISH_CANCEL;
        }
        if (!runs(&fake.seq[i])) {
            seq[kept++] = s;
            continue;
        }
        n++;
        s.n_here++;
        sk_wire_tokens_entry(&fake.chan.out, &e);
        if (e.n_item)
            fake_items(&s);
        if (e.finish == SK_FINISH_NONE)
            seq[kept++] = s;
    }
    memcpy(fake.seq, seq, kept * sizeof seq[0]);
    fake.n_seq = kept;
    sk_board_end(&fake.board);
    sk_wire_tokens_end(&fake.chan.out, at, n, 0);
}

static int fake_engine(int argc, char **argv)
{
    struct sk_dir dir;
    struct sk_err err;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--dir=", 6) == 0)
            fake.dir = argv[i] + 6;
        if (strncmp(argv[i], "--board-fd=", 11) == 0 && sk_board_map(atoi(argv[i] + 11), &fake.board, &err) != 0)
            return 75;
    }
    if (sk_dir_open(fake.dir, &dir, &err) != 0)
        return 76;
    snprintf(fake.digest, sizeof fake.digest, "%s", dir.digest);
    sk_chan_init(&fake.chan, 3, 1 << 20);
    if (plays("dies-at-start"))
        return 3;
    if (plays("refuses")) {
        sk_wire_put_state(&fake.chan.out, 0, 1, "no such backend");
        sk_chan_flush(&fake.chan);
        return 1;
    }
    sk_wire_put_state(&fake.chan.out, 500, 0, "");
    fake_hello();
    bool mortal = plays("mortal") && first_life(), hangs = plays("hangs") && first_life();
    for (;;) {
        const struct sk_frame *f;
        struct pollfd p = {.fd = 3, .events = (short)(POLLIN | (sk_chan_pending(&fake.chan) ? POLLOUT : 0))};
        poll(&p, 1, fake.n_seq ? 1 : -1);
        if (sk_chan_fill(&fake.chan) != 0)
            return 0;
        while (sk_chan_next(&fake.chan, &f) > 0)
            fake_frame(f);
        if (fake.n_seq && fake.step == 7 && mortal)
            raise(SIGKILL);
        if (fake.n_seq && fake.step == 7 && hangs)
            pause();
        if (fake.n_seq)
            fake_step();
        sk_chan_flush(&fake.chan);
    }
}

/* ---- the builder ---- */

static int fake_build(int argc, char **argv)
{
    const char *out = getenv("FAKE_DIR");
    if (!out) {
        printf("error model.gguf: not a model at all\n");
        return 1;
    }
    printf("progress 10\nprogress 99\ndir %s\n", out);
    return 0;
}

/* ---- the test ---- */

static uv_loop_t loop;
static char folder[64], bin_dir[128];

struct side { /* what the daemon's side saw */
    struct sk_conf conf;
    struct sk_engine *engine;
    struct sk_tenants *tenants;
    int n_dir, n_state, n_step;
    enum sk_engine_state last;
    bool closed;
};

static void on_dir(void *arg, const char *path)
{
    ((struct side *)arg)->n_dir++;
}

static void on_state(void *arg)
{
    struct side *s = arg;
    struct sk_engine_status st;
    sk_engine_status(s->engine, &st);
    s->last = st.state;
    s->n_state++;
}

static void on_step(void *arg)
{
    ((struct side *)arg)->n_step++;
}

static void on_closed(void *arg)
{
    ((struct side *)arg)->closed = true;
}

/* An engine directory whose name says what the engine does. */
static const char *make_dir(const char *role)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, role);
    roledir_make(path);
    return path;
}

static void open_side(struct side *s, const char *model)
{
    struct sk_err err;
    memset(s, 0, sizeof *s);
    sk_conf_defaults(&s->conf);
    snprintf(s->conf.model, sizeof s->conf.model, "%s", model);
    s->conf.max_queue = 30;
    s->conf.engine_timeout = strstr(model, "hangs") ? 1000 : 60000;
    const struct sk_engine_conf ec = {
        .conf = &s->conf, .bin_dir = bin_dir, .arg = s, .on_dir = on_dir, .on_state = on_state, .on_step = on_step};
    if (sk_engine_open(&loop, &ec, &s->engine, &err) != 0 || sk_tenants_new(&s->tenants) != 0)
        fail_msg("%s", err.msg);
}

static void run_until_state(struct side *s, enum sk_engine_state state)
{
    while (s->last != state && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(s->last, state);
}

static void close_side(struct side *s)
{
    sk_engine_close(s->engine, on_closed, s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(s->closed);
    sk_tenants_free(s->tenants);
}

struct answer { /* of one job */
    struct sk_job *job;
    uint32_t n_tok[8], n_prompt_items[8], n_over, cancel_at;
    enum sk_finish finish[8];
    int32_t reason;
    bool wrong, poison;
};

static void on_job(void *arg, struct sk_job *job, const struct sk_job_event *ev)
{
    struct answer *a = arg;
    uint32_t k = ev->choice;
    const struct sk_wire_item *it = ev->entry->n_item ? sk_wire_item_first(ev->entry) : NULL;
    for (uint32_t i = 0; i < ev->entry->n_item; i++, it = sk_wire_item_next(it)) {
        if (it->flags & SK_ITEM_PROMPT)
            a->wrong |= it->id != (int32_t)a->n_prompt_items[k]++;
        else
            a->wrong |= it->id != (int32_t)(1000 * k + a->n_tok[k]++);
    }
    if (ev->entry->finish != SK_FINISH_NONE) {
        a->finish[k] = ev->entry->finish;
        a->reason = ev->entry->reason;
        a->n_over++;
    } else if (a->cancel_at && a->n_tok[k] == a->cancel_at) {
        sk_job_cancel(job, k);
        a->n_over++;
    }
}

static int submit(struct side *s, struct answer *a, uint32_t n_choice, uint32_t max_tokens, struct sk_err *err)
{
    const int32_t prompt[] = {a->poison ? POISON : 1, 2, 3, 4, 5, 6};
    struct sk_params p;
    struct sk_tenant *t;
    if (sk_tenants_get(s->tenants, "", &(struct sk_tenant_limits){.weight = 1}, 0, &t) != 0)
        return -SK_ENOMEM;
    sk_params_default(&p);
    p.seed = 1;
    p.max_tokens = max_tokens;
    if (a->wrong) { /* asks for prompt log-probs too */
        p.n_prompt_logprobs = 0;
        a->wrong = false;
    }
    const struct sk_job_req req = {
        .prompt = prompt, .n_prompt = 6, .n_choice = n_choice, .params = &p, .tenant = t, .cb = on_job, .arg = a};
    return sk_job_submit(s->engine, &req, &a->job, err);
}

static void run_until_over(struct answer *a, uint32_t n_choice)
{
    while (a->n_over < n_choice)
        assert_true(uv_run(&loop, UV_RUN_ONCE));
}

static void check_whole(const struct answer *a, uint32_t n_choice, uint32_t n_tok)
{
    assert_false(a->wrong);
    assert_int_equal(a->n_over, n_choice);
    for (uint32_t k = 0; k < n_choice; k++) {
        assert_int_equal(a->n_tok[k], n_tok);
        assert_int_equal(a->finish[k], SK_FINISH_LENGTH);
    }
}

/* Eight jobs of three choices want 24 sequences where 3 may be at once; `role` says what happens meanwhile. */
static void run_crowd(const char *role, uint32_t restarts)
{
    enum { N = 8 };
    struct side s;
    struct answer a[N] = {0};
    struct sk_engine_status st;
    struct sk_err err;
    open_side(&s, make_dir(role));
    assert_int_equal(submit(&s, &a[0], 1, 5, &err), -SK_EUNAVAIL);
    run_until_state(&s, SK_ENGINE_READY);
    for (int i = 0; i < N; i++) {
        a[i].wrong = i == 0; /* that one wants prompt log-probs */
        assert_int_equal(submit(&s, &a[i], 3, 20, &err), 0);
    }
    for (int i = 0; i < N; i++) {
        run_until_over(&a[i], 3);
        check_whole(&a[i], 3, 20);
        sk_job_free(a[i].job);
    }
    for (uint32_t k = 0; k < 3; k++)
        assert_int_equal(a[0].n_prompt_items[k], 5);
    sk_engine_status(s.engine, &st);
    assert_true(st.restarts >= restarts && (st.restarts > 0) == (restarts > 0));
    assert_int_equal(st.n_running + st.n_waiting, 0);
    assert_int_equal(st.hello.max_len, FAKE_LEN);
    assert_true(s.n_step > 0 && s.n_dir == 1);
    close_side(&s);
}

static void test_steady(void **state)
{
    run_crowd("steady", 0);
}

/* SIGKILL in the middle of streams: no token lost, none doubled, prompt log-probs neither. */
static void test_killed(void **state)
{
    run_crowd("mortal", 1);
}

static void test_hung(void **state)
{
    run_crowd("hangs", 1);
}

static void test_more_choices_than_credit(void **state)
{
    struct side s;
    struct answer a = {0}, b = {0};
    struct sk_err err;
    open_side(&s, make_dir("steady"));
    run_until_state(&s, SK_ENGINE_READY);
    assert_int_equal(submit(&s, &a, 8, 10, &err), 0);
    assert_int_equal(submit(&s, &b, 1, 10, &err), 0);
    run_until_over(&a, 8);
    run_until_over(&b, 1);
    check_whole(&a, 8, 10);
    check_whole(&b, 1, 10);
    sk_job_free(a.job);
    sk_job_free(b.job);
    close_side(&s);
}

static void test_cancel(void **state)
{
    struct side s;
    struct answer a[4] = {0};
    struct sk_engine_status st;
    struct sk_err err;
    open_side(&s, make_dir("steady"));
    run_until_state(&s, SK_ENGINE_READY);
    for (int i = 0; i < 4; i++) {
        a[i].cancel_at = i == 0 ? 5 : 0;
        assert_int_equal(submit(&s, &a[i], 2, 30, &err), 0);
    }
    sk_job_free(a[1].job); /* running */
    sk_job_free(a[3].job); /* waiting */
    run_until_over(&a[0], 2);
    assert_int_equal(a[0].n_tok[0], 5);
    run_until_over(&a[2], 2);
    check_whole(&a[2], 2, 30);
    assert_int_equal(a[0].n_tok[1], 5); /* nothing after the cancel */
    assert_int_equal(a[1].n_over + a[3].n_over, 0);
    sk_job_free(a[0].job);
    sk_job_free(a[2].job);
    do
        sk_engine_status(s.engine, &st);
    while (st.n_running && uv_run(&loop, UV_RUN_ONCE));
    close_side(&s);
}

/* Two sick requests among well ones, in an engine that really ends: both are found, the rest goes on. */
static void test_poison(void **state)
{
    enum { N = 6 };
    struct side s;
    struct answer a[N] = {0};
    struct sk_engine_status st;
    struct sk_err err;
    open_side(&s, make_dir("steady"));
    run_until_state(&s, SK_ENGINE_READY);
    for (int i = 0; i < N; i++) {
        a[i].poison = i % 3 == 1;
        assert_int_equal(submit(&s, &a[i], 2, 20, &err), 0);
    }
    for (int i = 0; i < N; i++) {
        run_until_over(&a[i], 2);
        if (a[i].poison) {
            assert_int_equal(a[i].finish[1], SK_FINISH_ERROR);
            assert_int_equal(a[i].reason, SK_EPOISON);
        } else {
            check_whole(&a[i], 2, 20);
        }
        sk_job_free(a[i].job);
    }
    sk_engine_status(s.engine, &st);
    assert_in_range(st.restarts, 2, 4);
    run_until_state(&s, SK_ENGINE_READY);
    close_side(&s);
}

static void expect_failure(const char *model, const char *holds)
{
    struct side s;
    struct sk_engine_status st;
    open_side(&s, model);
    run_until_state(&s, SK_ENGINE_FAILED);
    sk_engine_status(s.engine, &st);
    if (!strstr(st.text, holds))
        fail_msg("%s", st.text);
    close_side(&s);
}

static void test_start_failures(void **state)
{
    char file[128], dir[sizeof bin_dir];
    expect_failure(make_dir("refuses"), "no such backend");
    expect_failure(make_dir("other-version"), "another version");
    expect_failure(make_dir("dies-at-start"), "status 3");
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    fclose(fopen(file, "w"));
    expect_failure(file, "not a model at all");

    struct side s = {0};
    struct sk_err err;
    sk_conf_defaults(&s.conf);
    snprintf(s.conf.model, sizeof s.conf.model, "/no/such/model");
    const struct sk_engine_conf ec = {.conf = &s.conf, .bin_dir = bin_dir};
    assert_int_equal(sk_engine_open(&loop, &ec, &s.engine, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "/no/such/model"));

    snprintf(dir, sizeof dir, "%s", bin_dir);
    snprintf(bin_dir, sizeof bin_dir, "/nowhere");
    expect_failure(make_dir("steady"), "cannot start /nowhere/skein-engine: No such file");
    snprintf(bin_dir, sizeof bin_dir, "%s", dir);
}

static void test_build(void **state)
{
    struct side s;
    char file[128];
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    fclose(fopen(file, "w"));
    setenv("FAKE_DIR", make_dir("steady"), 1);
    open_side(&s, file);
    run_until_state(&s, SK_ENGINE_READY);
    assert_int_equal(s.n_dir, 1);
    close_side(&s);
    unsetenv("FAKE_DIR");
}

static int setup(void **state)
{
    char self[1024], link_path[256];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    static const char *const names[] = {"skein-engine", "skein-build"};
    if (n < 0)
        return -1;
    self[n] = '\0';
    snprintf(folder, sizeof folder, "/tmp/skein-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(bin_dir, sizeof bin_dir, "%s/bin", folder);
    mkdir(bin_dir, 0700);
    for (int i = 0; i < 2; i++) {
        snprintf(link_path, sizeof link_path, "%s/%s", bin_dir, names[i]);
        if (symlink(self, link_path) != 0)
            return -1;
    }
    signal(SIGPIPE, SIG_IGN);
    sk_log_init("test", SK_LOG_ERROR);
    return uv_loop_init(&loop);
}

static int teardown(void **state)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    return uv_loop_close(&loop) || system(cmd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steady), cmocka_unit_test(test_killed),
        cmocka_unit_test(test_hung),   cmocka_unit_test(test_more_choices_than_credit),
        cmocka_unit_test(test_cancel), cmocka_unit_test(test_poison),
        cmocka_unit_test(test_build),  cmocka_unit_test(test_start_failures),
    };
    if (strstr(argv[0], "/skein-engine"))
        return fake_engine(argc, argv);
    if (strstr(argv[0], "/skein-build"))
        return fake_build(argc, argv);
    return cmocka_run_group_tests(tests, setup, teardown);
}
