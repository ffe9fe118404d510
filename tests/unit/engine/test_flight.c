/* The flight recorder of a real rank: what it kept of a workload with prefix hits, preemption, several choices,
 * penalties and suspects, looked at now and then, runs again to the same bits on a rank opened as the recording says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "engine/load.h"
#include "tests/unit/engine/enginedir.h"
#include "tests/unit/engine/fixture.h"
#include "tests/unit/engine/requests.h"

struct model {
    const char *name, *device;
    enum sk_dtype dtype;
    const char *kv_dtype;
    uint32_t window; /* of the second layer */
};
static const struct model models[] = {{"ref f32", "ref", SK_F32, "f32", 0},
                                      {"ref q8, window", "ref", SK_Q8, "bf16", 40},
                                      {"cpu q8", "cpu", SK_Q8, "q8", 0},
                                      {"cpu q4, window", "cpu", SK_Q4, "bf16", 40},
                                      {"cpu bf16", "cpu", SK_BF16, "f32", 0}};

enum { MAX_PLAN = 40, SEGMENT_BYTES = 4 << 20, LOOK_EVERY = 25, PREEMPT_EVERY = 7 };

static void on_load(void *arg, uint32_t permille, const char *text)
{
}

static struct sk_conf conf_of(const struct model *m, const char *dir)
{
    struct sk_conf c;
    sk_conf_defaults(&c);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    snprintf(c.device, sizeof c.device, "%s", m->device);
    snprintf(c.kv_dtype, sizeof c.kv_dtype, "%s", m->kv_dtype);
    c.threads = 1;
    c.huge_pages = false;
    c.max_seqs = 32;
    c.max_step_tokens = 64;
    c.kv_memory = 256 << 10;
    return c;
}

/* Row for row; a segment that was there counts. */
static void replay(const struct sk_conf *c, const struct sk_board *b, int index, struct sk_replay_stats *sum)
{
    struct sk_err err = {0};
    struct sk_buf bytes;
    struct sk_player *p;
    struct sk_record_head h;
    struct sk_load l;
    struct sk_replay_stats s = {0};
    uint64_t number;
    char path[64];
    sk_buf_init(&bytes, b->segment_bytes);
    if (sk_board_copy_segment(b, index, &bytes, &number) == 1) {
        FILE *f = tmpfile();
        assert_non_null(f);
        assert_int_equal(fwrite(bytes.p, 1, bytes.n, f), bytes.n);
        assert_int_equal(fflush(f), 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(f));
        assert_int_equal(sk_player_open(path, &p, &h, &err), 0);
        const struct sk_load_conf lc = {.options = c, .replay = &h, .cb = on_load};
        struct sk_crew *crew;
        if (sk_load_open(&lc, &l, &err) || sk_load_crew(&l, &crew, &err) || sk_replay(p, crew, true, &s, &err))
            fail_msg("segment %llu: %s", (unsigned long long)number, err.msg);
        sk_crew_close(crew);
        sk_load_close(&l);
        sk_player_close(p);
        fclose(f);
        assert_int_equal(s.n_bare, 0);
        sum->n_step += s.n_step;
        sum->n_row += s.n_row;
    }
    sk_buf_done(&bytes);
}

static void replay_both(const struct sk_conf *c, const struct sk_board *b, struct sk_replay_stats *sum)
{
    replay(c, b, 0, sum);
    replay(c, b, 1, sum);
}

static void preempt_youngest(struct sk_loop *l)
{
    struct sk_seq *q = l->seqs->run.last;
    if (!q || q == l->seqs->run.first)
        return;
    sk_apply_leave(l, q);
    q->n_preempt++;
    l->stats.preemptions++;
    sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
}

static void run(const struct model *m, const char *dir)
{
    struct sk_conf c = conf_of(m, dir), recording = c;
    struct sk_err err = {0};
    struct sk_load l;
    struct sk_load_loop ll;
    struct sk_board board;
    struct front front;
    struct sk_replay_stats sum = {0};
    int fd;
    assert_int_equal(sk_board_make(32, MAX_PLAN, SEGMENT_BYTES, &fd, &board, &err), 0);
    recording.board_fd = fd;
    if (sk_load_open(&(struct sk_load_conf){.options = &c, .cb = on_load}, &l, &err))
        fail_msg("%s", err.msg);
    if (sk_load_loop_open(&l, &recording, &ll, &err))
        fail_msg("%s", err.msg);
    ll.loop->conf.draft.always = true;
    close(fd);

    struct request *reqs = sk_calloc(N_REQ, sizeof *reqs);
    assert_non_null(reqs);
    requests_make(reqs, l.dir.desc.n_vocab);
    front_init(&front, ll.loop);
    for (uint32_t i = 0; i < N_REQ; i++) {
        reqs[i].req.suspect = i % 9 == 5;
        reqs[i].req.urgent = i % 5 == 2;
        for (int k = 0; (i % 3 == 0 && k < 8) || front.n_open + MAX_CHOICE > sk_loop_credit(ll.loop); k++)
            front_step(&front);
        front_submit(&front, &reqs[i].req);
    }
    for (uint32_t n = 1; front_step(&front); n++) {
        if (n % PREEMPT_EVERY == 0)
            preempt_youngest(ll.loop);
        if (n % LOOK_EVERY == 0)
            replay_both(&c, &board, &sum);
    }
    replay_both(&c, &board, &sum);
    assert_true(sum.n_row > 1000);
    assert_true(sk_board_progress(&board) > ll.loop->step); /* and it showed that its steps went on */
    assert_true(ll.loop->stats.preemptions > 5 && ll.loop->stats.cache_hit_tok > 300);
    assert_true(ll.loop->stats.draft_tok > ll.loop->stats.accept_tok && ll.loop->stats.accept_tok > 0);
    front_done(&front);
    sk_free(reqs);
    sk_load_loop_close(&ll);
    sk_load_close(&l);
    sk_board_unmap(&board);
}

static bool available(const struct model *m)
{
    struct sk_err err = {0};
    struct sk_backend *be;
    struct sk_backend_conf bc = {.n_thread = 1};
    if (strcmp(m->device, "ref") == 0)
        return true;
    int rc = sk_cpu_open(&bc, &be, &err);
    if (rc == 0)
        be->close(be);
    else
        print_message("%s is not tested here: %s\n", m->name, err.msg);
    return rc == 0;
}

static void test_flight(void **state)
{
    const struct model *m = *state;
    char dir[] = "/tmp/skein-test-flight-XXXXXX";
    struct sk_desc desc;
    if (!available(m))
        skip();
    assert_non_null(mkdtemp(dir));
    fixture_desc(&desc);
    desc.layers[1].window = m->window;
    enginedir_write(&desc, m->dtype, dir);
    run(m, dir);
    enginedir_remove(dir);
}

int main(void)
{
    enum { N_MODEL = sizeof models / sizeof models[0] };
    struct CMUnitTest tests[N_MODEL];
    sk_log_level_set(SK_LOG_ERROR);
    for (size_t i = 0; i < N_MODEL; i++)
        tests[i] = (struct CMUnitTest){models[i].name, test_flight, NULL, NULL, (void *)&models[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
