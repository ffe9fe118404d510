/* Connections between hosts: who knows the key gets in and nobody else, a door that is not the leader's is noticed, and
 * a link is set up so that its loss is seen. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "comm/group/tcp.h"

static struct sk_err err;

static struct sk_tcp_door open_door(int *ret_fd)
{
    struct sk_tcp_door door;
    assert_int_equal(sk_tcp_listen(&door, ret_fd, &err), 0);
    assert_int_not_equal(door.port, 0);
    for (int i = 0; i < door.n_addr; i++)
        assert_string_not_equal(door.addr[i], "127.0.0.1");
    strcpy(door.addr[0], "127.0.0.1"); /* the only one that a test may use */
    door.n_addr = 1;
    return door;
}

static int dial(const struct sk_tcp_door *door)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(door->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

struct caller {
    struct sk_tcp_door door;
    int rank, fd, rc;
    struct sk_err err;
};

static void *call(void *arg)
{
    struct caller *c = arg;
    c->rc = sk_tcp_connect(&c->door, c->rank, 5000, &c->fd, &c->err);
    return NULL;
}

static int option(int fd, int level, int name)
{
    int v = -1;
    socklen_t n = sizeof v;
    assert_int_equal(getsockopt(fd, level, name, &v, &n), 0);
    return v;
}

static void check_options(int fd)
{
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 2);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 1);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 5000);
}

static void test_ranks(void **state)
{
    int listen_fd, fd[4] = {-1, -1, -1, -1};
    struct caller c[2] = {{.rank = 1}, {.rank = 3}};
    struct sk_tcp_door door = open_door(&listen_fd);
    pthread_t t[2];
    for (int i = 0; i < 2; i++) {
        c[i].door = door;
        assert_int_equal(pthread_create(&t[i], NULL, call, &c[i]), 0);
    }
    assert_int_equal(sk_tcp_accept(listen_fd, &door, 2, fd, 4, 5000, &err), 0);
    for (int i = 0; i < 2; i++) {
        char x;
        pthread_join(t[i], NULL);
        assert_int_equal(c[i].rc, 0);
        check_options(c[i].fd);
        check_options(fd[c[i].rank]);
        assert_int_equal(sk_tcp_send(c[i].fd, &(char){(char)('a' + i)}, 1, NULL, NULL), 0);
        assert_int_equal(recv(fd[c[i].rank], &x, 1, 0), 1);
        assert_int_equal(x, 'a' + i);
        close(c[i].fd);
        close(fd[c[i].rank]);
    }
    assert_int_equal(fd[0], -1);
    assert_int_equal(fd[2], -1);
    close(listen_fd);
}

static void *accept_one(void *arg)
{
    struct caller *c = arg;
    int fd[2] = {-1, -1};
    c->rc = sk_tcp_accept(c->fd, &c->door, 1, fd, 2, 20000, &c->err);
    c->fd = fd[1];
    return NULL;
}

/* Who says the wrong thing, or half of it and goes, is shown out; who was invited gets in all the same. */
static void test_strangers(void **state)
{
    struct caller leader, guest = {.rank = 1}, beyond = {.rank = 2};
    leader.door = open_door(&leader.fd);
    int listen_fd = leader.fd;
    guest.door = beyond.door = leader.door;
    pthread_t t;
    char x[200] = "GET / HTTP/1.1\r\n\r\n";
    assert_int_equal(pthread_create(&t, NULL, accept_one, &leader), 0);
    int stranger = dial(&leader.door), half = dial(&leader.door);
    assert_int_equal(send(stranger, x, sizeof x, MSG_NOSIGNAL), sizeof x);
    assert_true(recv(stranger, x, sizeof x, 0) <= 0);
    assert_int_equal(send(half, "SKEIN", 5, MSG_NOSIGNAL), 5);
    close(half);
    close(stranger);
    struct caller wrong = {.door = leader.door, .rank = 1};
    wrong.door.key[0][SK_TCP_KEY - 1] ^= 1;
    assert_int_equal(sk_tcp_connect(&wrong.door, 1, 100, &wrong.fd, &err), -SK_EIO);
    assert_int_equal(sk_tcp_connect(&beyond.door, 2, 100, &beyond.fd, &err), -SK_EIO);
    call(&guest);
    pthread_join(t, NULL);
    assert_int_equal(guest.rc, 0);
    assert_int_equal(leader.rc, 0);
    close(guest.fd);
    close(leader.fd);
    close(listen_fd);
}

static void *answer_wrongly(void *arg)
{
    char x[256] = {0};
    int fd;
    while ((fd = accept(*(int *)arg, NULL, NULL)) >= 0) {
        if (recv(fd, x, sizeof x, 0) <= 0 || x[0] == 'q') {
            close(fd);
            return NULL;
        }
        send(fd, x, SK_TCP_KEY, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static void test_another_door(void **state)
{
    int listen_fd, fd = -1;
    struct sk_tcp_door door = open_door(&listen_fd);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, answer_wrongly, &listen_fd), 0);
    assert_int_equal(sk_tcp_connect(&door, 1, 100, &fd, &err), -SK_EIO);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(err.msg, "127.0.0.1"));
    int quit = dial(&door);
    assert_int_equal(send(quit, "q", 1, 0), 1);
    pthread_join(t, NULL);
    close(quit);
    close(listen_fd);
}

static void test_nobody(void **state)
{
    int listen_fd, fd[2] = {-1, -1}, one;
    struct sk_tcp_door door = open_door(&listen_fd);
    assert_int_equal(sk_tcp_accept(listen_fd, &door, 1, fd, 2, 50, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "only 0 of 1"));
    close(listen_fd);
    assert_int_equal(sk_tcp_connect(&door, 1, 100, &one, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "refused"));
    door.n_addr = 0;
    assert_int_equal(sk_tcp_connect(&door, 1, 100, &one, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "no address"));
}

/* The peer takes nothing until it is told that the sender waits. */
static void drain(void *arg)
{
    int *fd = arg;
    char x[65536];
    ssize_t n;
    while ((n = recv(fd[0], x, sizeof x, MSG_DONTWAIT)) > 0)
        fd[1] += (int)n;
}

static void test_full(void **state)
{
    enum { N = 8 << 20 };
    int pair[2];
    char *x = calloc(1, N);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    int reader[2] = {pair[1], 0};
    assert_int_equal(sk_tcp_send(pair[0], x, N, drain, reader), 0);
    drain(reader);
    assert_int_equal(reader[1], N);
    close(pair[1]);
    assert_int_equal(sk_tcp_send(pair[0], x, N, drain, reader), -SK_EIO);
    close(pair[0]);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),  cmocka_unit_test(test_strangers), cmocka_unit_test(test_another_door),
        cmocka_unit_test(test_nobody), cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
