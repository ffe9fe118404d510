/* Requests during which the n-th allocation fails, for each n: the client gets a whole answer or is hung up on, and the
 * next one is served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "tests/unit/server/http/serve.h"

enum { N_FAIL = 12 };

static const char *const requests[] = {
    "POST /echo HTTP/1.1\r\n" CLOSE "X-Request-Id: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "GET /later HTTP/1.1\r\n" CLOSE "\r\n",
    "GET /stream HTTP/1.1\r\n" CLOSE "\r\n",
    "GET /big HTTP/1.1\r\n" CLOSE "\r\n",
    "GET /nope HTTP/1.1\r\n" CLOSE "\r\n",
    "GET /later HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
};

static int start(void **state)
{
    serve_reset("127.0.0.1:0");
    return serve_start();
}

static int stop(void **state)
{
    return serve_stop();
}

static void ask(const char *request, uint64_t n, int forever)
{
    int fd = dial();
    sk_mem_fail_at(n, forever);
    say(fd, request);
    char *s = hear(fd, NULL);
    sk_mem_fail_at(0, 0);
    assert_true(s[0] == '\0' || strncmp(s, "HTTP/1.1 ", 9) == 0);
    free(s);
    close(fd);
}

static void test_each(void **state)
{
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        for (uint64_t n = 1; n <= N_FAIL; n++) {
            ask(requests[i], n, 0);
            ask(requests[i], n, 1);
        }
        expect_answer("GET /later HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200", "{\"late\":1}");
    }
    assert_int_equal(srv.n_request, srv.n_free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_each, start, stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
