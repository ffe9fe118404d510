/* The supervisor with an engine of several ranks, which are this program under the real mpirun: who is to blame for
 * their end, and that nothing of them is left. And with one that another launcher started. */
#define _GNU_SOURCE /* memmem */
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
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "comm/wire/chan.h"
#include "comm/wire/join.h"
#include "server/job/procs.h"
#include "server/job/super.h"
#include "server/metrics/metrics.h"
#include "tests/unit/server/job/roledir.h"

enum { MAX_SEQS = 8, SHORT_MS = 1000 /* --engine-timeout */ };

static bool is(const char *role, const char *name)
{
    return strcmp(role, name) == 0;
}

/* ---- a rank: what it does in its first life is the name of the engine directory, RANK-WHAT ---- */

static int count_life(const char *dir, int rank)
{
    char path[300];
    snprintf(path, sizeof path, "%s/lives-%d", dir, rank);
    FILE *f = fopen(path, "a");
    fputc('x', f);
    int n = (int)ftell(f);
    fclose(f);
    return n;
}

static void end_so(const char *what)
{
    if (is(what, "kill"))
        raise(SIGKILL);
    if (is(what, "stop"))
        raise(SIGSTOP);
    if (is(what, "exit"))
        _exit(1);
    if (is(what, "segv")) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would exit instead */
        raise(SIGSEGV);
    }
    pause();
}

static const char *value_of(char **argv, const char *name)
{
    for (int i = 1; argv[i]; i++) {
        if (strncmp(argv[i], name, strlen(name)) == 0)
            return argv[i] + strlen(name);
    }
    return "";
}

static void say_hello(struct sk_chan *c, const char *dir, uint32_t n_tp)
{
    struct sk_dir d;
    struct sk_err err;
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION, .credit = 4, .n_tp = n_tp, .n_pp = 1};
    struct sk_wire_rank ranks[2] = {{.rank = 0, .pid = getpid(), .host = "here", .step = 3, .busy_us = 2500000},
                                    {.rank = 1, .tp_rank = 1, .pid = getppid(), .host = "there", .rss_bytes = 4096}};
    if (sk_dir_open(dir, &d, &err) != 0)
        _exit(76);
    snprintf(h.build, sizeof h.build, "%s", SK_VERSION);
    snprintf(h.digest, sizeof h.digest, "%s", d.digest);
    sk_wire_put_hello(&c->out, &h);
    sk_wire_put_ranks(&c->out, ranks, 2);
    sk_chan_flush(c);
}

static void wait_for_cancel(struct sk_chan *c)
{
    const struct sk_frame *f;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    for (int n; (n = sk_chan_next(c, &f)) != 1 || f->kind != SK_FRAME_CANCEL;) { /* the daemon has seen READY */
        if (n == 1)
            continue;
        poll(&p, 1, -1);
        if (sk_chan_fill(c) != 0)
            _exit(0);
    }
}

static int until_quit(struct sk_chan *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    const struct sk_frame *f;
    do {
        while (sk_chan_next(c, &f) > 0) {
            if (f->kind == SK_FRAME_QUIT)
                return 0;
        }
        poll(&p, 1, -1);
    } while (sk_chan_fill(c) == 0);
    return 0;
}

/* Rank 0 lets the others know by a file that it is over, or that they are to come to their end. */
static void tell(const char *dir, const char *what, int life)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s-%d", dir, what, life);
    FILE *f = fopen(path, "w");
    fclose(f);
}

static bool is_told(const char *dir, const char *what, int life)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s-%d", dir, what, life);
    return access(path, F_OK) == 0;
}

static int follow(const char *dir, const char *role, int rank, int life)
{
    char mine[16];
    snprintf(mine, sizeof mine, "%d-", rank);
    while (!is_told(dir, "over", life)) {
        if (is_told(dir, "go", life) && strncmp(role, mine, 2) == 0)
            end_so(role + 2);
        usleep(1000);
    }
    return 0;
}

static int lead(const char *connect, const char *dir, const char *role, uint32_t n_tp, int life)
{
    struct sk_err err;
    struct sk_board b = {0};
    struct sk_chan c;
    int fd, board_fd;
    if (sk_join_connect(connect, getenv("SKEIN_ENGINE_TOKEN"), &fd, &board_fd, &err) != 0) {
        fprintf(stderr, "rank 0: %s\n", err.msg);
        return 77;
    }
    if (board_fd >= 0 && sk_board_map(board_fd, &b, &err) != 0)
        return 78;
    sk_chan_init(&c, fd, 1 << 20);
    if (is(role, "0-refuses")) {
        sk_wire_put_state(&c.out, 0, SK_STATE_FAILED, "rank 1 on there: no memory");
        sk_chan_flush(&c);
        return 1;
    }
    say_hello(&c, dir, is(role, "0-shape") ? 7 : n_tp);
    wait_for_cancel(&c);
    if (life == 1 && b.head) {
        sk_board_begin(&b, 17, true);
        sk_board_add(&b, 5, 2);
        sk_board_add(&b, 6, 0);
    }
    if (life == 1 && !b.head) {
        const struct sk_wire_seat seats[2] = {{.job = 5, .choice = 2}, {.job = 6}};
        sk_wire_put_seats(&c.out, &(struct sk_wire_seats){.step = 17, .progress = 1, .n_seat = 2}, seats);
        sk_chan_flush(&c);
    }
    if (life == 1) {
        tell(dir, "go", life);
        if (is(role, "0-lost")) {
            sk_wire_put_state(&c.out, 0, SK_STATE_LOST, "rank 1 on there was lost");
            sk_chan_flush(&c);
            return 1;
        }
        if (strncmp(role, "0-", 2) == 0)
            end_so(role + 2);
    }
    int rc = until_quit(&c);
    tell(dir, "over", life);
    return rc;
}

static int rank_main(char **argv)
{
    const char *dir = value_of(argv, "--dir="), *number = getenv("OMPI_COMM_WORLD_RANK");
    const char *role = strrchr(dir, '/') + 1;
    int rank = number ? atoi(number) : 0, life = count_life(dir, rank);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return rank ? follow(dir, role, rank, life)
                : lead(value_of(argv, "--connect="), dir, role, (uint32_t)atoi(value_of(argv, "--tp=")), life);
}

/* ---- the daemon's side ---- */

static uv_loop_t loop;
static char folder[64];

struct side {
    struct sk_conf conf;
    struct sk_metrics *metrics;
    struct sk_super *super;
    int n_up, n_lost, n_hopeless, kill_mpirun;
    uint32_t n_seat;
    bool closed;
};

static void on_dir(void *arg, const char *path)
{
}

static void on_state(void *arg)
{
}

static void on_up(void *arg, const struct sk_wire_hello *h)
{
    struct side *s = arg;
    struct sk_engine_status st = {0};
    s->n_up++;
    sk_wire_put_cancel(sk_link_out(sk_super_link(s->super)), 1, 0);
    sk_link_flush(sk_super_link(s->super));
    sk_super_status(s->super, &st);
    if (s->n_up == 1 && s->kill_mpirun)
        kill(st.pid, s->kill_mpirun);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
}

static void on_lost(void *arg, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct side *s = arg;
    s->n_lost++;
    s->n_seat = n_seat;
    assert_true(n_seat == 0 || (n_seat == 2 && seat[0].job == 5 && seat[0].choice == 2 && seat[1].job == 6));
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
    char dir[128];
    struct sk_err err;
    snprintf(dir, sizeof dir, "%s/%s", folder, role);
    roledir_make(dir);
    snprintf(s->conf.model, sizeof s->conf.model, "%s", dir);
    snprintf(s->conf.flight_dir, sizeof s->conf.flight_dir, "%s/flight", folder);
    s->conf.max_seqs = MAX_SEQS;
    s->conf.engine_timeout = strstr(role, "stop") || strstr(role, "hang") ? SHORT_MS : 60000;
    assert_int_equal(sk_metrics_new(&s->metrics), 0);
    const struct sk_super_conf sc = {.conf = &s->conf,
                                     .bin_dir = folder,
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

static void with_ranks(struct side *s, int n)
{
    *s = (struct side){0};
    sk_conf_defaults(&s->conf);
    s->conf.tp = n;
}

/* Processes of the job, and its folders. */
static void check_nothing_left(void)
{
    char job[32];
    int pid[1];
    snprintf(job, sizeof job, "/job-%d-", (int)getpid());
    assert_int_equal(sk_procs_find(job, pid, 1), 0);
    const char *const bases[] = {folder, "/dev/shm", "/tmp"};
    for (int i = 0; i < 3; i++) {
        char path[300];
        snprintf(path, sizeof path, i == 0 ? "%s/skein" : "%s/skein-%u", bases[i], (unsigned)geteuid());
        DIR *d = opendir(path);
        for (const struct dirent *e; d && (e = readdir(d));)
            assert_null(strstr(e->d_name, job + 1));
        if (d)
            closedir(d);
    }
}

static void close_side(struct side *s)
{
    sk_super_close(s->super, on_closed, s);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(s->closed);
    sk_metrics_free(s->metrics);
    check_nothing_left();
}

static void until_up(struct side *s, int n)
{
    while (s->n_up < n && uv_run(&loop, UV_RUN_ONCE))
        ;
}

static void ends(const char *role, const char *reason, uint32_t n_seat, int kill_mpirun)
{
    struct side s;
    with_ranks(&s, 2);
    s.kill_mpirun = kill_mpirun;
    open_side(&s, role);
    until_up(&s, 2);
    assert_int_equal(s.n_lost, 1);
    assert_int_equal(s.n_seat, n_seat);
    assert_int_equal(s.n_hopeless, 0);
    assert_int_equal(sk_metric_value(s.metrics, SK_METRIC_ENGINE_ENDS, reason, NULL), 1);
    close_side(&s);
}

/* Any rank, or all of them, from outside: nobody's fault. */
static void test_from_outside(void **state)
{
    ends("0-kill", "killed", 0, 0);
    ends("1-kill", "killed", 0, 0);
    ends("9-term", "killed", 0, SIGTERM);
    ends("9-kill", "killed", 0, SIGKILL);
}

static void test_crash(void **state)
{
    ends("0-segv", "crash", 2, 0);
    ends("1-segv", "crash", 2, 0);
}

static void test_lost(void **state)
{
    ends("0-lost", "killed", 0, 0);
}

static void test_stopped(void **state)
{
    ends("0-stop", "killed", 0, 0);
    ends("0-hang", "hang", 2, 0);
}

/* Another rank is stopped: its leader waits for it, and answers no heartbeat. */
static void test_other_stopped(void **state)
{
    ends("1-stop", "killed", 0, 0);
}

static void test_ranks(void **state)
{
    struct side s;
    uint32_t n = 0;
    const struct sk_wire_rank *r = NULL;
    with_ranks(&s, 2);
    open_side(&s, "9-lives");
    until_up(&s, 1);
    while (!(r = sk_super_ranks(s.super, &n)) && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(n, 2);
    assert_int_equal(r[1].rank, 1);
    assert_string_equal(r[1].host, "there");
    close_side(&s);
}

/* One that never was READY and says why is given up at once. */
static void test_refusal(void **state)
{
    struct side s;
    struct sk_engine_status st = {0};
    with_ranks(&s, 2);
    open_side(&s, "0-refuses");
    while (sk_super_state(s.super) != SK_ENGINE_FAILED && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s.super, &st);
    assert_string_equal(st.text, "rank 1 on there: no memory");
    close_side(&s);
}

static void test_wrong_shape(void **state)
{
    struct side s;
    struct sk_engine_status st = {0};
    with_ranks(&s, 2);
    open_side(&s, "0-shape");
    while (sk_super_state(s.super) != SK_ENGINE_FAILED && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s.super, &st);
    assert_string_equal(st.text, "the engine has tp 7 x pp 1 ranks, it should have 2 x 1");
    close_side(&s);
}

/* It is closed before a rank has come. */
static void test_close_early(void **state)
{
    struct side s;
    with_ranks(&s, 2);
    open_side(&s, "9-early");
    while (sk_super_state(s.super) != SK_ENGINE_STARTING && uv_run(&loop, UV_RUN_ONCE))
        ;
    close_side(&s);
}

/* ---- another launcher's ---- */

static pid_t start_elsewhere(struct side *s, const char *role, const char *token)
{
    char dir[128], connect[100], tp[] = "--tp=1", program[100];
    const char *port;
    struct sk_engine_status st = {0};
    while (sk_super_state(s->super) != SK_ENGINE_STARTING && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s->super, &st);
    assert_non_null(port = strstr(st.text, "waiting for an engine at "));
    snprintf(connect, sizeof connect, "--connect=%s", port + strlen("waiting for an engine at "));
    snprintf(dir, sizeof dir, "--dir=%s/%s", folder, role);
    snprintf(program, sizeof program, "%s/skein-engine", folder);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("SKEIN_ENGINE_TOKEN", token, 1);
        execl(program, program, dir, connect, tp, NULL);
        _exit(1);
    }
    return pid;
}

/* One with another token is sent off; one that hangs up is waited for again, and was to blame if it said no word. */
static void test_elsewhere(void **state)
{
    struct side s;
    int status;
    char token[SK_JOIN_TOKEN + 1], other[SK_JOIN_TOKEN + 1];
    sk_join_make_token(token);
    sk_join_make_token(other);
    setenv("SKEIN_ENGINE_TOKEN", token, 1);
    with_ranks(&s, 1);
    strcpy(s.conf.engine_listen, "127.0.0.1:0");
    open_side(&s, "0-segv");
    pid_t wrong = start_elsewhere(&s, ".", other);
    while (waitpid(wrong, &status, WNOHANG) == 0)
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(WEXITSTATUS(status), 77);
    pid_t pid = start_elsewhere(&s, "0-segv", token);
    until_up(&s, 1);
    while (s.n_lost == 0 && uv_run(&loop, UV_RUN_ONCE))
        ;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(s.n_seat, 2);
    pid = start_elsewhere(&s, "0-segv", token);
    until_up(&s, 2);
    close_side(&s);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    unsetenv("SKEIN_ENGINE_TOKEN");
}

static void test_no_token(void **state)
{
    struct side s;
    struct sk_engine_status st = {0};
    with_ranks(&s, 1);
    strcpy(s.conf.engine_listen, "127.0.0.1:0");
    open_side(&s, "9-token");
    while (sk_super_state(s.super) < SK_ENGINE_BACKOFF && uv_run(&loop, UV_RUN_ONCE))
        ;
    sk_super_status(s.super, &st);
    assert_non_null(strstr(st.text, "--engine-listen needs $SKEIN_ENGINE_TOKEN"));
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
        cmocka_unit_test(test_from_outside), cmocka_unit_test(test_crash),         cmocka_unit_test(test_lost),
        cmocka_unit_test(test_stopped),      cmocka_unit_test(test_other_stopped), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_refusal),      cmocka_unit_test(test_wrong_shape),   cmocka_unit_test(test_close_early),
        cmocka_unit_test(test_elsewhere),    cmocka_unit_test(test_no_token),
    };
    char self[512], path[300], cmd[200];
    if (strcmp(basename(argv[0]), "skein-engine") == 0)
        _exit(rank_main(argv)); /* as it says, whatever a sanitizer thinks of its last words */
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    snprintf(folder, sizeof folder, "/tmp/skein-test-ranks-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    setenv("XDG_RUNTIME_DIR", folder, 1);
    unsetenv("RUNTIME_DIRECTORY");
    snprintf(path, sizeof path, "%s/skein-engine", folder);
    if (symlink(self, path) != 0)
        return 1;
    int rc = cmocka_run_group_tests(tests, setup, teardown);
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    return system(cmd) != 0 || rc != 0;
}
