#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "comm/base/mem.h"
#include "tests/unit/server/http/serve.h"

static char crt[2][512], key[2][512];

static int find_files(void **state)
{
    static const char *const names[] = {"first", "second"};
    const char *root = getenv("SK_SRCDIR");
    for (int i = 0; i < 2; i++) {
        snprintf(crt[i], sizeof crt[i], "%s/tests/golden/tls/%s.crt", root ? root : ".", names[i]);
        snprintf(key[i], sizeof key[i], "%s/tests/golden/tls/%s.key", root ? root : ".", names[i]);
    }
    return 0;
}

static void test_files(void **state)
{
    struct sk_tls *t = NULL;
    struct sk_err err;
    assert_int_equal(sk_tls_open(crt[0], key[0], &t, &err), 0);
    assert_int_equal(sk_tls_reload(t, crt[1], key[1], &err), 0);
    const char *before = sk_tls_cert_pem(t);
    assert_int_equal(sk_tls_reload(t, crt[0], key[1], &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, crt[0]));
    assert_non_null(strstr(err.msg, key[1]));
    assert_int_equal(sk_tls_reload(t, key[0], key[0], &err), -SK_EINVAL); /* a key is no certificate */
    assert_non_null(strstr(err.msg, "no certificate"));
    assert_int_equal(sk_tls_reload(t, crt[0], crt[0], &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "no private key"));
    assert_non_null(strstr(err.msg, crt[0]));
    assert_int_equal(sk_tls_reload(t, "/nowhere.crt", key[0], &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, "/nowhere.crt"));
    assert_int_equal(sk_tls_reload(t, "/dev/null", key[0], &err), -SK_EINVAL);
    assert_ptr_equal(sk_tls_cert_pem(t), before); /* after so many errors */
    sk_tls_close(t);
    sk_tls_close(NULL);
}

static void test_no_memory(void **state)
{
    struct sk_err err;
    for (uint64_t n = 1;; n++) {
        struct sk_tls *t = NULL;
        sk_mem_fail_at(n, 0);
        int rc = sk_tls_open(crt[0], key[0], &t, &err);
        uint64_t left = sk_mem_count();
        sk_mem_fail_at(0, 0);
        if (rc == 0) {
            sk_tls_close(t);
            assert_true(left > 0 && n > 2);
            return;
        }
        assert_int_equal(rc, -SK_ENOMEM);
    }
}

/* --- a client --- */

struct client {
    int fd;
    gnutls_certificate_credentials_t cred;
    gnutls_session_t session;
};

static int shake(struct client *c, const char *priorities)
{
    c->fd = dial();
    gnutls_certificate_allocate_credentials(&c->cred);
    gnutls_init(&c->session, GNUTLS_CLIENT);
    assert_int_equal(gnutls_priority_set_direct(c->session, priorities, NULL), 0);
    gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, c->cred);
    gnutls_transport_set_int(c->session, c->fd);
    gnutls_handshake_set_timeout(c->session, WAIT_MS);
    gnutls_record_set_timeout(c->session, WAIT_MS);
    int rc;
    do
        rc = gnutls_handshake(c->session);
    while (rc < 0 && !gnutls_error_is_fatal(rc));
    return rc;
}

static void leave(struct client *c, bool reset)
{
    gnutls_deinit(c->session);
    gnutls_certificate_free_credentials(c->cred);
    hang_up(c->fd, reset);
}

static void tell(struct client *c, const char *s)
{
    assert_int_equal(gnutls_record_send(c->session, s, strlen(s)), (ssize_t)strlen(s));
}

/* Until `end`, or the end. */
static char *listen_to(struct client *c, const char *end)
{
    size_t n = 0, cap = 1 << 16;
    char *s = calloc(1, cap);
    while (!end || !strstr(s, end)) {
        if (n + 20000 > cap)
            s = realloc(s, cap *= 2);
        ssize_t k = gnutls_record_recv(c->session, s + n, cap - n - 1);
        if (k == GNUTLS_E_AGAIN || k == GNUTLS_E_INTERRUPTED)
            continue;
        assert_int_not_equal(k, GNUTLS_E_TIMEDOUT);
        if (k <= 0)
            break;
        n += (size_t)k;
        s[n] = '\0';
    }
    return s;
}

static void expect_name(struct client *c, const char *cn)
{
    unsigned n;
    char name[64];
    size_t len = sizeof name;
    gnutls_x509_crt_t x;
    const gnutls_datum_t *list = gnutls_certificate_get_peers(c->session, &n);
    assert_true(list && n > 0);
    gnutls_x509_crt_init(&x);
    assert_int_equal(gnutls_x509_crt_import(x, list, GNUTLS_X509_FMT_DER), 0);
    assert_int_equal(gnutls_x509_crt_get_dn_by_oid(x, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len), 0);
    gnutls_x509_crt_deinit(x);
    assert_string_equal(name, cn);
}

static int setup(void **state)
{
    struct sk_err err;
    find_files(state);
    serve_reset("127.0.0.1:0");
    srv.limits.request_timeout_ms = *state ? 500 : 60000;
    assert_int_equal(sk_tls_open(crt[0], key[0], &srv.tls, &err), 0);
    return serve_start();
}

static int teardown(void **state)
{
    struct sk_tls *t = srv.tls;
    int rc = serve_stop();
    sk_tls_close(t);
    return rc;
}

static void test_answers(void **state)
{
    struct client c;
    assert_int_equal(shake(&c, "NORMAL"), 0);
    expect_name(&c, "first.example");
    for (int i = 0; i < 3; i++) {
        tell(&c, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
        char *s = listen_to(&c, "{\"late\":1}");
        assert_non_null(strstr(s, "HTTP/1.1 200"));
        free(s);
    }
    tell(&c, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\nGET /big HTTP/1.1\r\n" CLOSE "\r\n");
    char *s = listen_to(&c, NULL);
    assert_int_equal(count(s, "data: {\"i\":"), 200);
    assert_int_equal(count(s, "data: [DONE]\n\n"), 1);
    assert_int_equal(count(s, "bbbbbbbb"), SERVE_BIG / 8);
    free(s);
    leave(&c, false);
    assert_int_equal(srv.n_gone, 0);
}

static void test_versions(void **state)
{
    static const char *const good[] = {"NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"};
    static const char *const old[] = {"NORMAL:-VERS-ALL:+VERS-TLS1.1", "NORMAL:-VERS-ALL:+VERS-TLS1.0",
                                      "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA"};
    for (int i = 0; i < 2; i++) {
        struct client c;
        assert_int_equal(shake(&c, good[i]), 0);
        leave(&c, false);
    }
    for (int i = 0; i < 3; i++) {
        struct client c;
        assert_true(shake(&c, old[i]) < 0);
        leave(&c, false);
    }
}

static void reload(void *arg)
{
    struct sk_err err;
    assert_int_equal(sk_tls_reload(srv.tls, crt[1], key[1], &err), 0);
}

/* A stream that is under way goes on with what it has. */
static void test_reload(void **state)
{
    struct client c, next;
    assert_int_equal(shake(&c, "NORMAL"), 0);
    tell(&c, "GET /stream HTTP/1.1\r\n" CLOSE "\r\n");
    free(listen_to(&c, "data: "));
    serve_call(reload, NULL);
    assert_int_equal(shake(&next, "NORMAL"), 0);
    expect_name(&next, "second.example");
    char *s = listen_to(&c, NULL);
    assert_non_null(strstr(s, "data: [DONE]"));
    free(s);
    leave(&c, false);
    tell(&next, "GET /echo HTTP/1.1\r\n" CLOSE "\r\n");
    s = listen_to(&next, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 200"));
    free(s);
    leave(&next, false);
}

static void test_disconnect(void **state)
{
    static const char *const paths[] = {"/hang", "/silent", "/flood", "/silent", "/hang"};
    for (int i = 0; i < 5; i++) {
        struct client c;
        char request[128];
        int before = srv.n_request;
        assert_int_equal(shake(&c, "NORMAL"), 0);
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i]);
        tell(&c, request);
        wait_for(&srv.n_request, before + 1);
        if (i == 3)
            gnutls_bye(c.session, GNUTLS_SHUT_WR);
        if (i == 4)
            shutdown(c.fd, SHUT_WR);
        else
            leave(&c, i == 1);
        wait_for(&srv.n_gone, before + 1);
        wait_for(&srv.n_free, before + 1);
        if (i == 4)
            leave(&c, false);
    }
}

/* Plain HTTP, nothing at all, half a handshake, half a request. */
static void test_late_and_plain(void **state)
{
    int fd = dial();
    say(fd, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    char *s = hear(fd, NULL);
    assert_null(strstr(s, "HTTP/"));
    free(s);
    close(fd);
    fd = dial();
    free(hear(fd, NULL));
    close(fd);
    fd = dial();
    say_n(fd, "\x16\x03\x01\x02\x00\x01\x00", 7);
    free(hear(fd, NULL));
    close(fd);

    struct client c;
    assert_int_equal(shake(&c, "NORMAL"), 0);
    tell(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    s = listen_to(&c, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 408"));
    assert_non_null(strstr(s, "\"code\":\"request_timeout\"}}"));
    free(s);
    leave(&c, false);
    assert_int_equal(srv.n_request, 0);
}

/* Handshakes that do not go on cost no CPU time, and others are served. */
static void test_half_handshakes(void **state)
{
    enum { N = 40 };
    int fd[N];
    struct client c;
    struct timespec before, after;
    for (int i = 0; i < N; i++) {
        fd[i] = dial();
        say_n(fd[i], "\x16\x03\x01\x02\x00\x01\x00", (size_t)(i % 8));
    }
    assert_int_equal(shake(&c, "NORMAL"), 0);
    tell(&c, "GET /later HTTP/1.1\r\n" CLOSE "\r\n");
    char *s = listen_to(&c, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 200"));
    free(s);
    leave(&c, false);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(400000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    assert_true((double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9 < 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_handshakes, setup, teardown),
        cmocka_unit_test_prestate_setup_teardown(test_late_and_plain, setup, teardown, "hasty"),
    };
    return cmocka_run_group_tests(tests, find_files, NULL);
}
