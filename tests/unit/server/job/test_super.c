/* The supervisor with an engine that is this program: who is to blame for its end, what is written down, and that it is
 * tried again for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "comm/wire/chan.h"
#include "server/job/dump.h"
#include "server/job/super.h"
#include "server/metrics/metrics.h"
#include "tests/unit/server/job/roledir.h"

/* ---- the engine: what it does is the name of its directory ---- */

enum { EXIT_ENVIRONMENT = 90, SICK_LIVES = 7, WEAK_LIVES = 4, MAX_SEQS = 8, SHORT_MS = 1000 /* --engine-timeout */ };

static const char *const ours_alone[] = {"NOTIFY_SOCKET", "LISTEN_FDS",   "LISTEN_PID",           "LISTEN_FDNAMES",
                                         "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"};

static int count_life(const char *dir)
{
    char path[300];
    snprintf(path, sizeof path, "%s/lives", dir);
    FILE *f = fopen(path, "a");
    fputc('x', f);
    int n = (int)ftell(f);
    fclose(f);
    return n;
}

static void say_hello(struct sk_chan *c, const char *dir)
{
    struct sk_dir d;
    struct sk_err err;
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION, .credit = 4, .n_tp = 1, .n_pp = 1};
    if (sk_dir_open(dir, &d, &err) != 0)
        _exit(76);
    snprintf(h.build, sizeof h.build, "%s", SK_VERSION);
    snprintf(h.digest, sizeof h.digest, "%s", d.digest);
    sk_wire_put_hello(&c->out, &h);
    sk_chan_flush(c);
}

static bool is(const char *role, const char *name)
{
    return strcmp(role, name) == 0;
}

/* One step of three times --engine-timeout that says nothing, but goes on. */
static void work_slowly(struct sk_board *b)
{
    for (int ms = 0; ms < 3 * SHORT_MS; ms += 20) {
        usleep(20000);
        b->head->progress++;
    }
}

static void seat_two(struct sk_board *b)
{
    sk_board_begin(b, 17, true);
    sk_board_add(b, 5, 2);
    sk_board_add(b, 6, 0);
}

static void end_so(const char *role)
{
    if (strcmp(role, "segv") == 0 || strcmp(role, "idle") == 0) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would exit instead */
        raise(SIGSEGV);
    }
    if (strcmp(role, "exits") == 0)
        _exit(1);
    if (strcmp(role, "killed") == 0)
        raise(SIGKILL);
    if (strcmp(role, "stopped") == 0)
        raise(SIGSTOP);
    if (is(role, "hangs") || is(role, "babbles"))
        pause();
}

static int engine(char **argv)
{
    const char *dir = NULL;
    struct sk_board b;
    struct sk_chan c;
    struct sk_err err;
    for (int i = 1; argv[i]; i++) {
        if (strncmp(argv[i], "--dir=", 6) == 0)
            dir = argv[i] + 6;
    }
    for (size_t i = 0; i < sizeof ours_alone / sizeof ours_alone[0]; i++) {
        if (getenv(ours_alone[i]))
            return EXIT_ENVIRONMENT;
    }
    const char *role = strrchr(dir, '/') + 1;
    int life = count_life(dir);
    if (sk_board_map(4, &b, &err) != 0 || sk_board_seats(&b) != 0 || b.max_seat != 2 * MAX_SEQS)
        return 91;
    if (strcmp(role, "never") == 0 || (strcmp(role, "sick") == 0 && life > 1 && life < SICK_LIVES))
        return 3;
    if (is(role, "hunted") && life > 1 && life < SICK_LIVES)
        raise(SIGKILL);
    sk_chan_init(&c, 3, 1 << 20);
    if (life == 1) {
        memcpy(sk_board_segment_data(&b, 0), "plans", 5);
        sk_board_segment_open(&b, 0, 5);
    }
    if (life == 1 && is(role, "deaf"))
        seat_two(&b);
    say_hello(&c, dir);
    if (life == 1 && is(role, "deaf"))
        pause();
    bool is_weak = strcmp(role, "works") == 0 || strcmp(role, "shirks") == 0;
    if ((life == 1 && strcmp(role, "lives") != 0) || (is_weak && life < WEAK_LIVES)) {
        const struct sk_frame *f;
        struct pollfd p = {.fd = 3, .events = POLLIN};
        for (int n; (n = sk_chan_next(&c, &f)) != 1 || f->kind != SK_FRAME_CANCEL;) { /* the daemon has seen READY */
            if (n == 1)
                continue;
            poll(&p, 1, -1);
            if (sk_chan_fill(&c) != 0)
                return 0;
        }
        seat_two(&b);
        if (is(role, "slow"))
            work_slowly(&b);
        if (is(role, "babbles")) {
            sk_buf_add(&c.out, "what is not a frame", 16);
            sk_chan_flush(&c);
        }
        if (strcmp(role, "idle") == 0)
            sk_board_end(&b);
        if (strcmp(role, "works") == 0) {
            sk_wire_put_beat(&c.out, 0, 17);
            sk_chan_flush(&c);
        }
        end_so(is_weak || is(role, "slow") || is(role, "hunted") ? "killed" : role);
        return 4;
    }
    for (const struct sk_frame *f;;) {
        struct pollfd p = {.fd = 3, .events = POLLIN};
        poll(&p, 1, -1);
        if (sk_chan_fill(&c) != 0)
            return 0;
        while (sk_chan_next(&c, &f) > 0) {
            if (f->kind == SK_FRAME_QUIT)
                return 0;
        }
    }
}

/* ---- the daemon's side ---- */

static uv_loop_t loop;
static char folder[64], bin_dir[200];

struct side {
    struct sk_conf conf;
    struct sk_metrics *metrics;
    struct sk_super *super;
    int n_up, n_lost, n_hopeless;
    bool overflow; /* more is sent than the channel holds */
    int n_wait;    /* times that the next start was put off */
    uint32_t n_seat;
    struct sk_board_seat seat[8];
    bool closed;
};

static void on_dir(void *arg, const char *path)
{
}

static void on_state(void *arg)
{
    struct side *s = arg;
    struct sk_engine_status st = {0};
    if (sk_super_state(s->super) != SK_ENGINE_BACKOFF)
        return;
    sk_super_status(s->super, &st);
    s->n_wait += strstr(st.text, "starting again in 0.0 s") == NULL;
}

/* The first engine is told that it is READY, and comes to its end. */
static void on_up(void *arg, const struct sk_wire_hello *h)
{
    struct side *s = arg;
    s->n_up++;
    struct sk_buf *out = sk_link_out(sk_super_link(s->super));
    sk_wire_put_cancel(out, 1, 0);
    if (s->overflow)
        assert_int_not_equal(sk_buf_reserve(out, out->max), 0);
    s->overflow = false;
    sk_link_flush(sk_super_link(s->super));
}

static void on_frame(void *arg, const struct sk_frame *f)
{
}

static void on_lost(void *arg, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct side *s = arg;
    s->n_lost++;
    s->n_seat = n_seat;
    for (uint32_t i = 0; i < n_seat; i++)
        s->seat[i] = seat[i];
}

static void on_hopeless(void *arg)
{
    ((struct side *)arg)->n_hopeless++;
}

static bool is_busy(void *arg)
{
    return ((struct side *)arg)->n_up == 1;
}

static void on_closed(void *arg)
{
    ((struct side *)arg)->closed = true;
}

static void open_side(struct side *s, const char *role)
{
    char dir[128], cmd[200];
    struct sk_err err;
    snprintf(dir, sizeof dir, "%s/%s", folder, role);
    snprintf(cmd, sizeof cmd, "rm -rf %s/flight", folder);
    assert_int_equal(system(cmd), 0);
    roledir_make(dir);

    *s = (struct side){0};
    sk_conf_defaults(&s->conf);
    snprintf(s->conf.model, sizeof s->conf.model, "%s", dir);
    snprintf(s->conf.flight_dir, sizeof s->conf.flight_dir, "%s/flight", folder);
    s->conf.max_seqs = MAX_SEQS;
    s->conf.engine_timeout = is(role, "hangs") || is(role, "stopped") || is(role, "slow") ? SHORT_MS : 60000;
    s->overflow = is(role, "deaf");
    assert_int_equal(sk_metrics_new(&s->metrics), 0);
    const struct sk_super_conf sc = {.conf = &s->conf,
                                     .bin_dir = bin_dir,
                                     .metrics = s->metrics,
                                     .arg = s,
                                     .on_dir = on_dir,
                                     .on_state = on_state,
                                     .on_up = on_up,
                                     .on_frame = on_frame,
                                     .on_lost = on_lost,
                                     .on_hopeless = on_hopeless,
                                     .is_busy = is_busy};
    if (sk_super_open(&loop, &sc, &s->super, &err) != 0)
        fail_msg("%s", err.msg);
}

static void close_side(struct side *s)
{
    sk_super_close(s->super, on_closed, s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(s->closed);
    sk_metrics_free(s->metrics);
}

static int count_dumps(void)
{
    char path[128];
    struct stat st;
    struct dirent **names;
    snprintf(path, sizeof path, "%s/flight", folder);
    int n = scandir(path, &names, NULL, alphasort), count = 0;
    for (int i = 0; i < n; i++) {
        char file[400];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && stat(file, &st) == 0) {
            count++;
            assert_int_equal(st.st_mode & 0777, 0600);
            assert_int_equal(st.st_size, 5);
        }
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return count;
}

/* An engine ends so after it was READY: who is blamed, how it is counted, and whether its last steps are written. */
static void ends(const char *role, const char *reason, uint32_t n_seat, int n_dump)
{
    struct side s;
    struct sk_engine_status st = {0};
    open_side(&s, role);
    while (s.n_up < 2 && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(s.n_lost, 1);
    assert_int_equal(s.n_seat, n_seat);
    if (n_seat > 0) {
        assert_int_equal(s.seat[0].job, 5);
        assert_int_equal(s.seat[0].choice, 2);
        assert_int_equal(s.seat[1].job, 6);
    }
    assert_int_equal(count_dumps(), n_dump);
    assert_int_equal(s.n_hopeless, 0);
    assert_int_equal(sk_metric_value(s.metrics, SK_METRIC_ENGINE_ENDS, reason, NULL), 1);
    sk_super_status(s.super, &st);
    assert_int_equal(st.state, SK_ENGINE_READY);
    assert_int_equal(st.restarts, 1);
    assert_true(st.pid > 0 && st.making_progress);
    close_side(&s);
}

static void test_crash(void **state)
{
    ends("segv", "crash", 2, 1);
    ends("exits", "crash", 2, 1);
    ends("idle", "crash", 0, 1); /* between steps: nobody was on board */
}

static void test_from_outside(void **state)
{
    ends("killed", "killed", 0, 0);
    ends("stopped", "killed", 0, 0);
}

/* A slow step is no hang: this one is over, and then its engine is killed from outside. */
static void test_slow_step(void **state)
{
    ends("slow", "killed", 0, 0);
}

/* What we cannot send is not for those on board to answer for; what the engine sends may be. */
static void test_channel(void **state)
{
    ends("deaf", "killed", 0, 0);
    ends("babbles", "crash", 2, 1);
}

/* Killed from outside again and again while it loads: it did serve, so who waits for it is not told to go. */
static void test_hunted(void **state)
{
    struct side s;
    open_side(&s, "hunted");
    while (s.n_up < 2 && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(s.n_hopeless, 0);
    assert_int_equal(s.n_lost, 1);
    assert_true(s.n_wait >= SICK_LIVES - 2); /* and not as fast as it can be */
    assert_int_equal(sk_metric_value(s.metrics, SK_METRIC_ENGINE_ENDS, "killed", NULL), SICK_LIVES - 1);
    assert_int_equal(sk_metric_value(s.metrics, SK_METRIC_ENGINE_ENDS, "start", NULL), 0);
    close_side(&s);
}

static void test_hang(void **state)
{
    ends("hangs", "hang", 2, 1);
}

/* It was READY once, and then cannot be started any more: it is tried again, and who waits is told once. */
static void test_hopeless(void **state)
{
    struct side s;
    struct sk_engine_status st = {0};
    open_side(&s, "sick");
    while (s.n_hopeless == 0 && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s.super, &st);
    assert_int_equal(st.state, SK_ENGINE_BACKOFF);
    assert_non_null(strstr(st.text, "status 3, starting again in"));
    assert_int_equal(st.pid, 0);
    assert_false(st.making_progress);
    while (s.n_up < 2 && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(s.n_hopeless, 1);
    assert_int_equal(s.n_lost, 1);
    assert_int_equal(sk_metric_value(s.metrics, SK_METRIC_ENGINE_ENDS, "start", NULL), SICK_LIVES - 2);
    close_side(&s);
}

/* Engines that end again and again: after some work the next is there at once, without any it waits. */
static void test_weak(void **state)
{
    static const char *const roles[] = {"works", "shirks"};
    for (int i = 0; i < 2; i++) {
        struct side s;
        open_side(&s, roles[i]);
        while (s.n_up < WEAK_LIVES && uv_run(&loop, UV_RUN_ONCE))
            ;
        assert_int_equal(s.n_lost, WEAK_LIVES - 1);
        assert_int_equal(s.n_wait, i == 0 ? 0 : WEAK_LIVES - 2);
        close_side(&s);
    }
}

/* One that never was READY is given up. */
static void test_never(void **state)
{
    struct side s;
    struct sk_engine_status st = {0};
    open_side(&s, "never");
    while (sk_super_state(s.super) != SK_ENGINE_FAILED && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s.super, &st);
    assert_string_equal(st.text, "the engine exited with status 3");
    assert_int_equal(s.n_lost, 1);
    assert_int_equal(s.n_hopeless, 0);
    close_side(&s);
}

/* What a service manager gave to the daemon alone is not the engine's: else it would not come up. */
static void test_environment(void **state)
{
    for (size_t i = 0; i < sizeof ours_alone / sizeof ours_alone[0]; i++)
        setenv(ours_alone[i], "x", 1);
    ends("exits", "crash", 2, 1);
    for (size_t i = 0; i < sizeof ours_alone / sizeof ours_alone[0]; i++)
        unsetenv(ours_alone[i]);
}

/* A file of somebody's in the folder of dumps. */
static void put_file(const char *name, char *ret_path, size_t n)
{
    snprintf(ret_path, n, "%s/flight/%s", folder, name);
    FILE *f = fopen(ret_path, "w");
    assert_non_null(f);
    assert_true(fputs("plans", f) >= 0);
    fclose(f);
    assert_int_equal(chmod(ret_path, 0600), 0);
}

/* On demand, of an engine that runs, and when there is nothing; a few of each kind are kept, whatever else is there,
 * also of those made within a millisecond. */
static void test_dump(void **state)
{
    struct side s;
    struct sk_err err;
    static const char *const others[] = {"flight-plan.txt", "flight-20200101T000000.000-1-asked-000001.txt",
                                         "flight-20200101T000000-1-asked-000001"};
    enum { N_OTHER = sizeof others / sizeof others[0] };
    char path[SK_DUMP_MAX_PATH], other[N_OTHER][SK_DUMP_MAX_PATH], crash[SK_DUMP_MAX_PATH];
    open_side(&s, "lives");
    assert_int_equal(sk_super_dump_flight(s.super, "asked", path, &err), -SK_ENOENT);
    while (s.n_up < 1 && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(sk_super_dump_flight(s.super, "Asked/..", path, &err), 0);
    assert_non_null(strstr(path, "--sked----000001"));
    for (int i = 0; i < N_OTHER; i++)
        put_file(others[i], other[i], sizeof other[i]);
    put_file("flight-20200101T000000.000-1-crash-000001", crash, sizeof crash);
    for (int i = 0; i < SK_DUMP_MAX_FILES + 3; i++) {
        assert_int_equal(sk_super_dump_flight(s.super, "asked", path, &err), 0);
    }
    assert_int_equal(count_dumps(), SK_DUMP_MAX_FILES + N_OTHER + 2); /* and one of a crash, and of the first why */
    for (int i = 0; i < N_OTHER; i++)
        assert_int_equal(access(other[i], R_OK), 0);
    assert_int_equal(access(crash, R_OK), 0);
    for (int i = 0; i < SK_DUMP_MAX_FILES; i++)
        assert_int_equal(sk_super_dump_flight(s.super, "crash", path, &err), 0);
    assert_int_not_equal(access(crash, R_OK), 0); /* the oldest of them */
    assert_int_equal(access(path, R_OK), 0);
    assert_int_equal(s.n_lost, 0);
    close_side(&s);
}

static int setup(void **state)
{
    sk_log_level_set(SK_LOG_ERROR);
    uv_loop_init(&loop);
    return 0;
}

static int teardown(void **state)
{
    return uv_loop_close(&loop);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash),       cmocka_unit_test(test_from_outside), cmocka_unit_test(test_hang),
        cmocka_unit_test(test_hopeless),    cmocka_unit_test(test_weak),         cmocka_unit_test(test_never),
        cmocka_unit_test(test_environment), cmocka_unit_test(test_dump),         cmocka_unit_test(test_slow_step),
        cmocka_unit_test(test_channel),     cmocka_unit_test(test_hunted),
    };
    char self[512], link[300], cmd[200];
    if (strcmp(basename(argv[0]), "skein-engine") == 0)
        _exit(engine(argv)); /* as it says, whatever a sanitizer thinks of its last words */
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    snprintf(folder, sizeof folder, "/tmp/skein-test-super-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(bin_dir, sizeof bin_dir, "%s", folder);
    snprintf(link, sizeof link, "%s/skein-engine", folder);
    if (symlink(self, link) != 0)
        return 1;
    int rc = cmocka_run_group_tests(tests, setup, teardown);
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    return system(cmd) != 0 || rc != 0;
}
