#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "comm/base/err.h"
#include "server/http/head.h"

static const struct {
    const char *version, *fields[6]; /* names and values in turn */
    int rc, status;
} cases[] = {
    {"HTTP/1.1", {"Host", "h"}, 0, 0},
    {"HTTP/1.1", {"host", "h", "content-length", "100", "X", NULL}, 0, 0},
    {"HTTP/1.1", {"HOST", "h", "transfer-encoding", "Chunked"}, 0, 0},
    {"HTTP/1.1", {"Host", "h", "Content-Encoding", "identity"}, 0, 0},
    {"HTTP/1.0", {NULL}, 0, 0},
    {"HTTP/1.1", {NULL}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length ", "3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "X\tY", "3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "", "3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "X", "a\rContent-Length: 3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length3", ""}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "transfer-encodingchunked", ""}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Type", ""}, 0, 0},
    {"HTTP/1.1", {"Host", "a", "Host", "a"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "3", "Content-Length", "3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "3", "Transfer-Encoding", "chunked"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", ""}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "+3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "3, 3"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "18446744073709551617"}, -SK_EINVAL, 400},
    {"HTTP/1.0", {"Host", "h", "Transfer-Encoding", "chunked"}, -SK_EINVAL, 400},
    {"HTTP/1.1", {"Host", "h", "Transfer-Encoding", "gzip"}, -SK_ENOTIMPL, 501},
    {"HTTP/1.1", {"Host", "h", "Transfer-Encoding", "chunked", "Transfer-Encoding", "chunked"}, -SK_ENOTIMPL, 501},
    {"HTTP/1.1", {"Host", "h", "Content-Encoding", "gzip"}, -SK_EMEDIA, 415},
    {"HTTP/1.1", {"Host", "h", "Content-Length", "101"}, -SK_ETOOBIG, 413},
    {"HTTP/1.1",
     {"Host", "h", "X", "0123456789012345678901234567890123456789012345678901234567890123456789"},
     -SK_ETOOBIG,
     431},
};

static void test_table(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sk_head h;
        int status = 0;
        const char *why = NULL;
        sk_head_init(&h, cases[i].version);
        for (int k = 0; k < 6 && cases[i].fields[k]; k += 2)
            sk_head_add(&h, cases[i].fields[k], cases[i].fields[k + 1]);
        int rc = sk_head_check(&h, 70, 100, &status, &why);
        if (rc != cases[i].rc || status != cases[i].status || !why != !rc)
            fail_msg("case %zu: rc %d status %d %s", i, rc, status, why ? why : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
