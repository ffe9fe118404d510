/* Rank 0 comes to the daemon: the other side of each is made by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/wire/join.h"

static char folder[64], token[SK_JOIN_TOKEN + 1];

struct daemon { /* takes one guest */
    pthread_t thread;
    char name[300];
    int fd, board_fd;
    int found; /* what sk_join_check said last */
};

static void *serve(void *arg)
{
    struct daemon *d = arg;
    char said[sizeof(struct sk_join_hello)];
    size_t n = 0;
    int peer;
    while ((peer = sk_join_accept(d->fd)) < 0)
        usleep(1000);
    do {
        ssize_t k = recv(peer, said + n, 1, 0); /* a byte at a time */
        n += k > 0 ? (size_t)k : 0;
        d->found = sk_join_check(said, n, token);
        if (k < 0)
            usleep(1000);
    } while (d->found == 0);
    if (d->found == 1)
        assert_int_equal(sk_join_answer(peer, d->board_fd), 0);
    close(peer);
    return NULL;
}

static void begin(struct daemon *d, const char *addr, int board_fd)
{
    struct sk_err err;
    d->board_fd = board_fd;
    if (sk_join_listen(addr, &d->fd, d->name, &err) != 0)
        fail_msg("%s", err.msg);
    pthread_create(&d->thread, NULL, serve, d);
}

static void end(struct daemon *d)
{
    pthread_join(d->thread, NULL);
    close(d->fd);
}

static void test_unix(void **state)
{
    struct daemon d;
    struct sk_err err;
    struct stat st, board;
    char addr[100];
    int fd, board_fd, null = open("/dev/null", O_RDONLY);
    snprintf(addr, sizeof addr, "unix:%s/daemon", folder);
    begin(&d, addr, null);
    assert_true(stat(addr + 5, &st) == 0 && (st.st_mode & 0777) == 0600);
    assert_int_equal(sk_join_connect(addr, token, &fd, &board_fd, &err), 0);
    assert_int_equal(d.found, 1);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC && fcntl(board_fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fstat(null, &st) == 0 && fstat(board_fd, &board) == 0 && st.st_rdev == board.st_rdev);
    end(&d);
    close(fd);
    close(board_fd);
    close(null);
}

static void test_tcp(void **state)
{
    static const char *const addrs[] = {"127.0.0.1:0", "[::1]:0"};
    for (int i = 0; i < 2; i++) {
        struct daemon d;
        struct sk_err err;
        int fd, board_fd, on = 0;
        socklen_t n = sizeof on;
        begin(&d, addrs[i], -1);
        assert_int_equal(sk_join_connect(d.name, token, &fd, &board_fd, &err), 0);
        assert_int_equal(board_fd, -1);
        assert_true(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &n) == 0 && on);
        end(&d);
        close(fd);
    }
}

static void test_wrong_token(void **state)
{
    struct daemon d;
    struct sk_err err;
    char other[SK_JOIN_TOKEN + 1];
    int fd = 77, board_fd = 78;
    sk_join_make_token(other);
    assert_string_not_equal(token, other);
    begin(&d, "127.0.0.1:0", -1);
    assert_int_equal(sk_join_connect(d.name, other, &fd, &board_fd, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "refuses us"));
    assert_true(fd == 77 && board_fd == 78);
    end(&d);
    assert_int_equal(d.found, -SK_EPROTO);
}

static void refused(const char *addr, const char *with, const char *why)
{
    struct sk_err err = {0};
    int fd, board_fd, rc = sk_join_connect(addr, with, &fd, &board_fd, &err);
    assert_true(rc < 0);
    if (!strstr(err.msg, why))
        fail_msg("\"%s\" is not in \"%s\"", why, err.msg);
}

static void test_refused(void **state)
{
    char addr[100];
    snprintf(addr, sizeof addr, "unix:%s/nobody", folder);
    refused(addr, token, "no daemon at unix:");
    refused(addr, NULL, "no token");
    refused(addr, "", "no token");
    refused(addr, "0123", "no token");
    refused("unix:", token, "a path has");
    refused("localhost", token, "is no address");
    refused(":80", token, "is no address");
    refused("localhost:", token, "is no address");
    refused("no-such-host.invalid:80", token, "no-such-host.invalid:80: ");
}

static void test_bad_listen(void **state)
{
    struct sk_err err;
    char name[300], addr[200] = "unix:";
    int fd;
    memset(addr + 5, 'x', 150);
    assert_int_equal(sk_join_listen(addr, &fd, name, &err), -SK_EINVAL);
    assert_int_equal(sk_join_listen("unix:/nowhere/at/all", &fd, name, &err), -SK_EIO);
    assert_int_equal(sk_join_listen("192.0.2.1:0", &fd, name, &err), -SK_EIO); /* not ours: RFC 5737 */
}

static void test_check(void **state)
{
    struct sk_join_hello h = {.magic = SK_JOIN_MAGIC};
    memcpy(h.token, token, sizeof h.token);
    for (size_t n = 0; n < sizeof h; n++)
        assert_int_equal(sk_join_check(&h, n, token), 0);
    assert_int_equal(sk_join_check(&h, sizeof h, token), 1);
    assert_int_equal(sk_join_check(&h, sizeof h + 1, token), -SK_EPROTO);
    h.token[63] ^= 1;
    assert_int_equal(sk_join_check(&h, sizeof h, token), -SK_EPROTO);
    assert_int_equal(sk_join_check("GET ", 4, token), -SK_EPROTO); /* what does not begin well is not waited for */
}

static int setup(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/skein-test-join-XXXXXX");
    sk_join_make_token(token);
    return mkdtemp(folder) && sk_join_is_token(token) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix),    cmocka_unit_test(test_tcp),        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_bad_listen), cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
