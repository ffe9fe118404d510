/* The leader's loop over a real socket, in a process of its own: answers, a daemon that does not read, QUIT, a daemon
 * that goes away, sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "tests/unit/engine/batch/rig.h"

enum { EXIT_OK = 0, EXIT_PROTO = 3, EXIT_OTHER = 4 };

/* The engine's side; never returns. Its exit says how serving ended, and that its memory did not grow past the
 * channel's maximum. */
static void engine(int fd, size_t max_out)
{
    struct sk_loop_conf c = rig_conf();
    c.max_queue = 300;
    struct sk_loop *l;
    struct sk_chan chan;
    struct sk_err err = {0};
    c.crew = pretend_new(&c);
    sk_assert(sk_loop_open(&c, &l, &err) == 0);
    pretend_bind(c.crew, l);
    sk_chan_init(&chan, fd, max_out ? max_out : 2 * sk_loop_max_out(l));
    int rc = sk_loop_serve(l, &chan, &err);
    sk_assert(chan.out.cap <= chan.out.max + 1);
    sk_chan_done(&chan);
    sk_loop_close(l);
    pretend_free(c.crew);
    _exit(rc == 0 ? EXIT_OK : rc == -SK_EPROTO ? EXIT_PROTO : EXIT_OTHER);
}

struct link {
    struct sk_chan c;
    pid_t pid;
};

static void link_open(struct link *k, int sndbuf)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    if (sndbuf)
        assert_int_equal(setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf), 0);
    k->pid = fork();
    assert_true(k->pid >= 0);
    if (k->pid == 0) {
        close(fd[0]);
        engine(fd[1], 0);
    }
    close(fd[1]);
    sk_chan_init(&k->c, fd[0], 8 << 20);
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    assert_int_equal(sk_wire_put_hello(&k->c.out, &h), 0);
}

static int link_close(struct link *k)
{
    int status;
    sk_chan_done(&k->c);
    assert_int_equal(waitpid(k->pid, &status, 0), k->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void put_request(struct link *k, uint64_t job, uint32_t max_tokens)
{
    int32_t prompt[10];
    struct sk_wire_seq s = {.job = job};
    for (int i = 0; i < 10; i++)
        prompt[i] = (int32_t)(job + (uint64_t)i * 3) % PRETEND_VOCAB;
    sk_params_default(&s.params);
    s.params.max_tokens = max_tokens;
    s.params.flags = SK_PARAMS_IGNORE_EOS;
    s.params.n_logprobs = 20;
    assert_int_equal(sk_wire_put_prompt(&k->c.out, job, 1, prompt, 10), 0);
    assert_int_equal(sk_wire_put_seq(&k->c.out, &s, NULL, NULL), 0);
}

/* Sends what is pending and waits for bytes. */
static void turn(struct link *k)
{
    int rc = sk_chan_flush(&k->c);
    struct pollfd p = {.fd = k->c.fd, .events = (short)(POLLIN | (rc == 1 ? POLLOUT : 0))};
    assert_true(rc >= 0);
    assert_true(poll(&p, 1, 60000) > 0);
    assert_int_equal(sk_chan_fill(&k->c), 0);
}

/* Reads until n sequences have ended; returns the answer tokens. */
static uint32_t read_ends(struct link *k, uint32_t n)
{
    const struct sk_frame *f;
    uint32_t n_item = 0;
    while (n > 0) {
        turn(k);
        while (sk_chan_next(&k->c, &f) == 1) {
            const struct sk_wire_tokens *t = (const void *)f;
            if (f->kind != SK_FRAME_TOKENS)
                continue;
            for (const struct sk_wire_entry *e = sk_wire_first(t); e; e = sk_wire_next(t, e)) {
                n_item += e->n_item;
                n -= e->finish != SK_FINISH_NONE;
            }
        }
    }
    return n_item;
}

static void test_quit(void **state)
{
    struct link k;
    link_open(&k, 0);
    put_request(&k, 1, 7);
    put_request(&k, 2, 9);
    assert_int_equal(read_ends(&k, 2), 16);
    sk_wire_put_quit(&k.c.out);
    assert_int_equal(sk_chan_flush(&k.c), 0);
    assert_int_equal(link_close(&k), EXIT_OK);
}

/* The daemon goes away in the middle of an answer: the engine ends. */
static void test_gone(void **state)
{
    struct link k;
    link_open(&k, 0);
    put_request(&k, 1, 100);
    turn(&k);
    assert_int_equal(link_close(&k), EXIT_OK);
}

static void test_garbage(void **state)
{
    struct link k;
    link_open(&k, 0);
    assert_int_equal(sk_buf_add(&k.c.out, "not a frame, not at all.", 24), 0);
    assert_int_equal(sk_chan_flush(&k.c), 0);
    struct pollfd p = {.fd = k.c.fd, .events = POLLIN};
    while (sk_chan_fill(&k.c) == 0)
        assert_true(poll(&p, 1, 60000) > 0);
    assert_int_equal(link_close(&k), EXIT_PROTO);
}

/* The daemon asks for far more than the channel holds and does not read: the engine stops stepping, does not grow, and
 * goes on where it stopped. */
static void test_stalled(void **state)
{
    enum { N = 200, EACH = 100 };
    struct link k;
    link_open(&k, 4096);
    for (uint64_t job = 1; job <= N; job++)
        put_request(&k, job, EACH);
    struct pollfd p = {.fd = k.c.fd, .events = POLLIN};
    for (int i = 0; i < 20; i++) { /* everything that it takes, without reading any of it */
        sk_chan_flush(&k.c);
        assert_true(poll(&p, 1, 60000) > 0);
        usleep(10000);
    }
    assert_int_equal(read_ends(&k, N), N * EACH);
    sk_wire_put_quit(&k.c.out);
    assert_int_equal(sk_chan_flush(&k.c), 0);
    assert_int_equal(link_close(&k), EXIT_OK);
}

/* With nothing to do it sleeps: no processor time over a while of nothing. */
static void test_idle(void **state)
{
    struct link k;
    struct rusage u0, u1;
    link_open(&k, 0);
    put_request(&k, 1, 3);
    assert_int_equal(read_ends(&k, 1), 3);
    usleep(300000);
    sk_wire_put_quit(&k.c.out);
    assert_int_equal(sk_chan_flush(&k.c), 0);
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &u0), 0);
    assert_int_equal(link_close(&k), EXIT_OK);
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &u1), 0);
    assert_true(u1.ru_nvcsw - u0.ru_nvcsw < 200); /* times it slept: it did not wake and sleep again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quit),    cmocka_unit_test(test_gone), cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_stalled), cmocka_unit_test(test_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
