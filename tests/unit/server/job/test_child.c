/* What a child does between fork and exec: a signal that comes there is for it alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <uv.h>
#include "server/job/child.h"

static uv_loop_t loop;
static bool raises;
static int n_heard, status = -1;

static void in_child(void)
{
    if (raises)
        raise(SIGTERM);
}

static void on_signal(uv_signal_t *s, int signum)
{
    n_heard++;
}

static void on_exit_status(void *arg, int wait_status)
{
    status = wait_status;
}

static void run_true(void)
{
    static char *const argv[] = {"/bin/true", NULL};
    const struct sk_child_conf conf = {.argv = argv, .fd = {-1, -1}, .on_exit = on_exit_status};
    struct sk_child *c;
    struct sk_err err;
    status = -1;
    assert_int_equal(sk_child_start(&loop, &conf, &c, &err), 0);
    while (status < 0)
        uv_run(&loop, UV_RUN_ONCE);
    uv_run(&loop, UV_RUN_NOWAIT);
}

/* Handlers of ours would tell the parent, whose pipe they write into. */
static void test_signal_before_exec(void **state)
{
    sigset_t before, after;
    uv_signal_t s;
    uv_loop_init(&loop);
    uv_signal_init(&loop, &s);
    uv_signal_start(&s, on_signal, SIGTERM);
    pthread_sigmask(SIG_SETMASK, NULL, &before);

    run_true();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(n_heard, 0);

    assert_int_equal(pthread_atfork(NULL, NULL, in_child), 0);
    raises = true;
    run_true();
    raises = false;
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    assert_int_equal(n_heard, 0);

    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
    raise(SIGTERM); /* ours is heard as before */
    while (n_heard == 0)
        uv_run(&loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&s, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_signal_before_exec)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
