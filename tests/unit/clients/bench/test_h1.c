#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "clients/bench/h1.h"
#include "clients/bench/piece.h"

/* Feeds `s` in pieces of `step` bytes; its body goes to ret[256]. */
static int feed(struct sk_h1 *h, const char *s, size_t step, char *ret, size_t *ret_left)
{
    size_t n = strlen(s), n_body = 0;
    sk_h1_init(h);
    *ret_left = 0;
    for (size_t i = 0; i < n; i += step) {
        const char *p = s + i, *body;
        size_t left = n - i < step ? n - i : step, n_piece;
        int rc;
        while ((rc = sk_h1_next(h, &p, &left, &body, &n_piece, NULL)) == 1) {
            memcpy(ret + n_body, body, n_piece);
            n_body += n_piece;
        }
        if (rc)
            return rc;
        *ret_left += left;
    }
    ret[n_body] = '\0';
    return 0;
}

static void test_replies(void **state)
{
    static const struct {
        const char *reply, *body;
        int status;
        bool keep, events, ends; /* ends: with the connection */
    } all[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true, false, false},
        {"HTTP/1.1 204\r\n\r\n", "", 204, true, false, false},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", "", 200, true, false, false},
        {"HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\nTransfer-Encoding: "
         "chunked\n\n3;x=y\r\nabc\r\n"
         "00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
         "abc0123456789", 200, true, true, false},
        {"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", "no", 503, false, false, false},
        {"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\nto the end", "to the end", 200, false, false, true},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (size_t step = 1; step < 300; step = step * 3) {
            struct sk_h1 h;
            char body[256];
            size_t left;
            assert_int_equal(feed(&h, all[i].reply, step, body, &left), 0);
            assert_int_equal(h.status, all[i].status);
            assert_string_equal(body, all[i].body);
            assert_int_equal(h.keep, all[i].keep);
            assert_int_equal(h.event_stream, all[i].events);
            assert_int_equal(left, 0);
            assert_int_equal(h.state == SK_H1_DONE, !all[i].ends);
            assert_int_equal(sk_h1_end(&h), 0);
        }
}

static void test_bad(void **state)
{
    static const char *const all[] = {
        "SSH-2.0\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffffff\r\n",
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sk_h1 h;
        char body[256];
        size_t left;
        assert_int_equal(feed(&h, all[i], 7, body, &left), -SK_EPROTO);
    }
    static char huge[SK_H1_MAX_LINE + 100] = "HTTP/1.1 200 OK\r\nX: ";
    struct sk_h1 h;
    char body[256];
    size_t left;
    memset(huge + 20, 'x', sizeof huge - 21);
    assert_int_equal(feed(&h, huge, 1000, body, &left), -SK_EPROTO);
}

static void test_cut(void **state)
{
    static const char *const all[] = {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
                                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sk_h1 h;
        char body[256];
        size_t left;
        assert_int_equal(feed(&h, all[i], 100, body, &left), 0);
        assert_int_equal(sk_h1_end(&h), -SK_EPROTO);
    }
}

static struct sk_piece read_piece(const char *s)
{
    struct sk_piece p;
    size_t at;
    assert_int_equal(sk_piece_read(s, strlen(s), &p, &at), 0);
    return p;
}

static void test_pieces(void **state)
{
    struct sk_piece p =
        read_piece("{\"id\":\"}]\\\"\",\"choices\":[{\"index\":0,\"logprobs\":{\"a\":[1,{}]},\"text\":\" a\\n\","
                   "\"finish_reason\":null}, {\"text\":\"other\"}],\"usage\":null}");
    assert_int_equal(p.n_text, 4);
    assert_memory_equal(p.text, " a\\n", 4);
    assert_true(!p.finished && p.n_in == -1 && p.n_out == -1 && !p.error);

    p = read_piece(" { \"choices\" : [ { \"delta\" : { \"role\":\"assistant\", \"content\" : \"\" } } ] } ");
    assert_true(p.text && p.n_text == 0);
    p = read_piece("{\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"hm\"}}]}");
    assert_int_equal(p.n_text, 2);
    p = read_piece("{\"choices\":[{\"delta\":{\"tool_calls\":[{}]},\"finish_reason\":\"stop\"}]}");
    assert_true(p.has_tool && p.finished && !p.text);
    p = read_piece("{\"choices\":[{\"message\":{\"content\":\"hi\"}}],\"usage\":{\"prompt_tokens\":12,\"x\":{\"y\":1},"
                   "\"completion_tokens\":0}}");
    assert_true(p.n_text == 2 && p.n_in == 12 && p.n_out == 0);
    p = read_piece("{\"choices\":[],\"error\":{\"code\":1,\"message\":\"no\"}}");
    assert_true(p.n_error == 2 && memcmp(p.error, "no", 2) == 0);
    p = read_piece("{\"error\":\"Unauthorized\"}");
    assert_int_equal(p.n_error, 12);
    assert_null(read_piece("{\"error\":null}").error);
}

static void test_bad_pieces(void **state)
{
    static const char *const all[] = {"",
                                      "[]",
                                      "{",
                                      "{\"choices\":[{\"text\":\" wo",
                                      "{\"choices\":[{}",
                                      "{\"a\":1,}x",
                                      "{\"a\" 1}",
                                      "{\"a\":1}}",
                                      "{\"a\":\"\\",
                                      "{a:1}"};
    struct sk_piece p;
    size_t at;
    char deep[512];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        assert_int_equal(sk_piece_read(all[i], strlen(all[i]), &p, &at), -SK_EJSON);
    snprintf(deep, sizeof deep, "{\"a\":%0200d", 0);
    memset(deep + 5, '[', 200);
    assert_int_equal(sk_piece_read(deep, strlen(deep), &p, &at), -SK_EJSON);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replies), cmocka_unit_test(test_bad),
                                       cmocka_unit_test(test_cut), cmocka_unit_test(test_pieces),
                                       cmocka_unit_test(test_bad_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
