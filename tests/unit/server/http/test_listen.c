#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "server/http/listen.h"

static char dir[64], path[128], address[140];

static int setup(void **state)
{
    strcpy(dir, "/tmp/skein-listen-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    snprintf(address, sizeof address, "unix:%s", path);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    return rmdir(dir); /* nothing else is left in it */
}

static void test_tcp(void **state)
{
    struct sk_listen l, again;
    struct sk_err err;
    assert_int_equal(sk_listen_open("127.0.0.1:0", 0, &l, &err), 0);
    assert_false(l.is_unix);
    assert_int_equal(strncmp(l.name, "127.0.0.1:", 10), 0);
    assert_true(atoi(l.name + 10) > 0);
    assert_true(fcntl(l.fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(l.fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(sk_listen_open(l.name, 0, &again, &err), -SK_EBUSY);
    assert_non_null(strstr(err.msg, "127.0.0.1"));
    sk_listen_close(&l, true);
    assert_int_equal(l.fd, -1);

    assert_int_equal(sk_listen_open(":0", 0, &l, &err), 0);
    assert_true(strncmp(l.name, "[::]:", 5) == 0 || strncmp(l.name, "0.0.0.0:", 8) == 0);
    sk_listen_close(&l, false);
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {"",     "8080",         "127.0.0.1", "127.0.0.1:",      "127.0.0.1:65536",
                                      "h:-1", "127.0.0.1:1x", "unix:",     "no such host:80", "127.0.0.1:8080 ",
                                      "[::1", "::1]:80",      "[[::1]]:80"};
    struct sk_listen l;
    struct sk_err err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (sk_listen_open(bad[i], 0600, &l, &err) != -SK_EINVAL)
            fail_msg("\"%s\" is taken for an address", bad[i]);
    }
    char longer[200] = "unix:/tmp/";
    memset(longer + strlen(longer), 'p', 150);
    assert_int_equal(sk_listen_open(longer, 0600, &l, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "107"));
    assert_int_equal(sk_listen_open("unix:/nowhere/at/all", 0600, &l, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "/nowhere/at/all"));
}

static void test_unix(void **state)
{
    struct sk_listen l, again;
    struct sk_err err;
    struct stat st;
    assert_int_equal(sk_listen_open(address, 0640, &l, &err), 0);
    assert_true(l.is_unix);
    assert_string_equal(l.name, address);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(sk_listen_open(address, 0600, &again, &err), -SK_EBUSY); /* somebody listens */
    assert_non_null(strstr(err.msg, path));
    sk_listen_close(&l, true);
    assert_int_equal(stat(path, &st), -1);
}

static void test_stale_file(void **state)
{
    struct sk_listen old, l;
    struct sk_err err;
    struct stat st;
    assert_int_equal(sk_listen_open(address, 0600, &old, &err), 0);
    int dead = old.fd;
    close(dead); /* as a crash does */
    old.fd = -1;
    assert_int_equal(sk_listen_open(address, 0666, &l, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666);
    sk_listen_close(&old, true); /* the file is no longer its own */
    assert_int_equal(stat(path, &st), 0);
    sk_listen_close(&l, true);
    assert_int_equal(stat(path, &st), -1);
}

/* What is no socket is never replaced. */
static void test_other_file(void **state)
{
    struct sk_listen l;
    struct sk_err err;
    FILE *f = fopen(path, "w");
    fputs("precious", f);
    fclose(f);
    assert_int_equal(sk_listen_open(address, 0600, &l, &err), -SK_EBUSY);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 8);
}

static void test_take(void **state)
{
    struct sk_listen l, taken;
    struct sk_err err;
    int pair[2];
    static const char *const addresses[] = {"127.0.0.1:0", address};
    for (int i = 0; i < 2; i++) {
        struct stat st;
        assert_int_equal(sk_listen_open(addresses[i], 0600, &l, &err), 0);
        int fd = dup(l.fd); /* without close-on-exec; the flags of the file are shared */
        fcntl(fd, F_SETFL, 0);
        assert_int_equal(sk_listen_take(fd, &taken, &err), 0);
        assert_int_equal(taken.fd, fd);
        assert_int_equal(taken.is_unix, i == 1);
        assert_string_equal(taken.name, l.name);
        assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        sk_listen_close(&taken, true); /* whoever made the file removes it */
        assert_int_equal(i == 1 && stat(path, &st) != 0, 0);
        sk_listen_close(&l, true);
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(sk_listen_take(pair[0], &taken, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "listening"));
    close(pair[0]);
    assert_int_equal(sk_listen_take(pair[0], &taken, &err), -SK_EINVAL);
    close(pair[1]);
    assert_int_equal(sk_listen_take(0, &taken, &err), -SK_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tcp),
        cmocka_unit_test_setup_teardown(test_bad_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_take, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
