#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "server/notify.h"

enum { FIRST_FD = 3, N_FD = 3 };

/* A manager's end: a datagram socket with a path, or an abstract name. */
static int listen_at(const char *name)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(un.sun_path, name, n);
    if (name[0] == '@')
        un.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)), 0);
    return fd;
}

/* One datagram; *ret_fd: what came along, -1 = nothing. */
static void receive(int fd, char *ret, size_t n, int *ret_fd)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {.iov_base = ret, .iov_len = n - 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &m, 0);
    assert_true(got > 0);
    ret[got] = '\0';
    *ret_fd = -1;
    if (CMSG_FIRSTHDR(&m))
        memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof *ret_fd);
}

static void check_sending(const char *name)
{
    struct sk_notify n;
    char text[2 * SK_NOTIFY_MAX_BYTES], big[2 * SK_NOTIFY_MAX_BYTES];
    int fd, pipes[2], manager = listen_at(name);
    struct stat a, b;
    setenv("NOTIFY_SOCKET", name, 1);
    sk_notify_open(&n);
    assert_true(n.fd >= 0);
    assert_null(getenv("NOTIFY_SOCKET"));

    assert_true(sk_notify_send(&n, "READY=1\nSTATUS=serving %s", "x"));
    receive(manager, text, sizeof text, &fd);
    assert_string_equal(text, "READY=1\nSTATUS=serving x");
    assert_int_equal(fd, -1);

    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    assert_true(sk_notify_send(&n, "STATUS=%s", big));
    receive(manager, text, sizeof text, &fd);
    assert_int_equal(strlen(text), SK_NOTIFY_MAX_BYTES - 1);

    assert_int_equal(pipe(pipes), 0);
    assert_true(sk_notify_store(&n, pipes[0], "addr=127.0.0.1;80"));
    receive(manager, text, sizeof text, &fd);
    assert_string_equal(text, "FDSTORE=1\nFDNAME=addr=127.0.0.1;80");
    assert_int_equal(fstat(fd, &a), 0);
    assert_int_equal(fstat(pipes[0], &b), 0);
    assert_true(fd != pipes[0] && a.st_ino == b.st_ino && a.st_dev == b.st_dev);

    close(fd);
    close(pipes[0]);
    close(pipes[1]);
    close(manager);
    assert_false(sk_notify_send(&n, "STATUS=nobody listens"));
    sk_notify_close(&n);
    assert_false(sk_notify_send(&n, "STATUS=closed"));
    sk_notify_close(&n);
}

static void test_sending(void **state)
{
    char name[64];
    snprintf(name, sizeof name, "/tmp/sk-notify-%d", (int)getpid());
    check_sending(name);
    unlink(name);
    snprintf(name, sizeof name, "@sk-notify-%d", (int)getpid());
    check_sending(name);
}

/* A manager that does not read must not hold up the daemon. */
static void test_full(void **state)
{
    char name[64];
    struct sk_notify n;
    snprintf(name, sizeof name, "@sk-notify-full-%d", (int)getpid());
    int manager = listen_at(name), sent = 0;
    setenv("NOTIFY_SOCKET", name, 1);
    sk_notify_open(&n);
    while (sent < 100000 && sk_notify_send(&n, "WATCHDOG=1"))
        sent++;
    assert_in_range(sent, 1, 99999);
    sk_notify_close(&n);
    close(manager);
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {"", "/", "@", "vsock:2:1234", "relative/path"};
    char longer[200];
    struct sk_notify n;
    memset(longer, 'a', sizeof longer - 1);
    longer[0] = '/';
    longer[sizeof longer - 1] = '\0';
    for (size_t i = 0; i <= sizeof bad / sizeof bad[0]; i++) {
        setenv("NOTIFY_SOCKET", i < sizeof bad / sizeof bad[0] ? bad[i] : longer, 1);
        setenv("WATCHDOG_USEC", "1000000", 1);
        sk_notify_open(&n);
        assert_int_equal(n.fd, -1);
        assert_int_equal(n.watchdog_us, 0);
        assert_null(getenv("NOTIFY_SOCKET"));
        assert_null(getenv("WATCHDOG_USEC"));
    }
    sk_notify_open(&n);
    assert_int_equal(n.fd, -1);
}

static void test_watchdog(void **state)
{
    static const struct {
        const char *us, *pid; /* "self" = ours */
        uint64_t want_us;
    } cases[] = {{"180000000", NULL, 180000000}, {"5", "self", 5}, {"5", "1", 0}, {"x", NULL, 0}, {NULL, "self", 0}};
    char name[64], self[16];
    struct sk_notify n;
    snprintf(self, sizeof self, "%d", (int)getpid());
    snprintf(name, sizeof name, "@sk-notify-dog-%d", (int)getpid());
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv("NOTIFY_SOCKET", name, 1);
        if (cases[i].us)
            setenv("WATCHDOG_USEC", cases[i].us, 1);
        if (cases[i].pid)
            setenv("WATCHDOG_PID", strcmp(cases[i].pid, "self") == 0 ? self : cases[i].pid, 1);
        sk_notify_open(&n);
        assert_true(n.fd >= 0);
        assert_int_equal(n.watchdog_us, cases[i].want_us);
        assert_null(getenv("WATCHDOG_PID"));
        sk_notify_close(&n);
    }
}

/* Descriptors 3.. of a test are its own: they are put aside for a while. */
static int aside[N_FD];

static void pass(const char *fds, const char *pid, const char *names)
{
    char self[16];
    snprintf(self, sizeof self, "%d", (int)getpid());
    for (int i = 0; i < N_FD; i++) {
        aside[i] = fcntl(FIRST_FD + i, F_DUPFD_CLOEXEC, 100);
        assert_int_equal(dup2(0, FIRST_FD + i), FIRST_FD + i);
    }
    setenv("LISTEN_FDS", fds, 1);
    setenv("LISTEN_PID", pid ? pid : self, 1);
    if (names)
        setenv("LISTEN_FDNAMES", names, 1);
}

static void put_back(void)
{
    for (int i = 0; i < N_FD; i++) {
        close(FIRST_FD + i);
        if (aside[i] >= 0) {
            dup2(aside[i], FIRST_FD + i);
            close(aside[i]);
        }
    }
    assert_null(getenv("LISTEN_FDS"));
    assert_null(getenv("LISTEN_PID"));
    assert_null(getenv("LISTEN_FDNAMES"));
}

static void test_sockets(void **state)
{
    struct sk_notify_socket got[N_FD] = {0};
    pass("3", NULL, "admin::addr=[;;1];80");
    assert_int_equal(sk_notify_sockets(got, N_FD), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(got[i].fd, FIRST_FD + i);
        assert_int_equal(fcntl(FIRST_FD + i, F_GETFD), FD_CLOEXEC);
    }
    assert_string_equal(got[0].name, "admin");
    assert_string_equal(got[1].name, "");
    assert_string_equal(got[2].name, "addr=[;;1];80");
    put_back();

    pass("3", NULL, "one"); /* fewer names; more descriptors than wanted */
    assert_int_equal(sk_notify_sockets(got, 2), 2);
    assert_string_equal(got[0].name, "one");
    assert_string_equal(got[1].name, "");
    assert_int_equal(fcntl(FIRST_FD + 2, F_GETFD), -1);
    put_back();

    pass("3", "1", NULL); /* meant for another process */
    assert_int_equal(sk_notify_sockets(got, N_FD), 0);
    assert_int_equal(fcntl(FIRST_FD, F_GETFD), 0);
    put_back();

    assert_int_equal(sk_notify_sockets(got, N_FD), 0);
}

/* Numbers that lie: nothing but what is there is taken, and it ends soon. */
static void test_numbers_that_lie(void **state)
{
    static const char *const lies[] = {"-1", "99999999999999999999", "0x", "", "1000000000"};
    struct sk_notify_socket got[1];
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        pid_t child = fork(); /* it may lose its descriptors */
        if (child == 0) {
            pass(lies[i], NULL, NULL);
            _exit(sk_notify_sockets(got, 1) <= 1 && !getenv("LISTEN_FDS") ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sending),       cmocka_unit_test(test_full),
                                       cmocka_unit_test(test_bad_addresses), cmocka_unit_test(test_watchdog),
                                       cmocka_unit_test(test_sockets),       cmocka_unit_test(test_numbers_that_lie)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
