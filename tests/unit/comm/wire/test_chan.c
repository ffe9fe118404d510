/* The channel over a socketpair: frames arrive whole however they are cut, writing stops where the socket is full, ends
 * are seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/wire/chan.h"

struct pair {
    struct sk_chan c;
    int peer;
};

static void pair_open(struct pair *p, size_t max_out)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    sk_chan_init(&p->c, fd[0], max_out);
    p->peer = fd[1];
}

static void pair_close(struct pair *p)
{
    sk_chan_done(&p->c);
    if (p->peer >= 0)
        close(p->peer);
}

/* Three frames of different sizes, as bytes. */
static void put_three(struct sk_buf *b, const int32_t *tok, uint32_t n_tok)
{
    assert_int_equal(sk_wire_put_beat(b, 7, 0), 0);
    assert_int_equal(sk_wire_put_prompt(b, 1, 1, tok, n_tok), 0);
    assert_int_equal(sk_wire_put_quit(b), 0);
}

static void take_three(struct pair *p, uint32_t n_tok)
{
    const struct sk_frame *f;
    assert_int_equal(sk_chan_next(&p->c, &f), 1);
    assert_int_equal(f->kind, SK_FRAME_BEAT);
    assert_int_equal(((const struct sk_wire_beat *)f)->number, 7);
    assert_int_equal(sk_chan_next(&p->c, &f), 1);
    assert_int_equal(f->kind, SK_FRAME_PROMPT);
    assert_int_equal((uintptr_t)f % 8, 0);
    assert_int_equal(((const struct sk_wire_prompt *)f)->n_tok, n_tok);
    assert_int_equal(sk_chan_next(&p->c, &f), 1);
    assert_int_equal(f->kind, SK_FRAME_QUIT);
    assert_int_equal(sk_chan_next(&p->c, &f), 0);
}

/* Cut into two at every byte: nothing comes before it is whole, and nothing is lost. */
static void test_short_reads(void **state)
{
    const int32_t tok[] = {1, 2, 3, 4, 5};
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    put_three(&b, tok, 5);
    for (size_t cut = 0; cut <= b.n; cut++) {
        struct pair p;
        const struct sk_frame *f;
        uint32_t n = 0;
        pair_open(&p, 4096);
        assert_int_equal(write(p.peer, b.p, cut), cut);
        assert_int_equal(sk_chan_fill(&p.c), 0);
        while (sk_chan_next(&p.c, &f) == 1)
            n++;
        assert_int_equal(n, (cut >= 24) + (cut >= b.n - 8) + (cut >= b.n));
        assert_int_equal(write(p.peer, b.p + cut, b.n - cut), b.n - cut);
        assert_int_equal(sk_chan_fill(&p.c), 0);
        while (sk_chan_next(&p.c, &f) == 1)
            n++;
        assert_int_equal(n, 3);
        pair_close(&p);
    }
    sk_buf_done(&b);
}

static void test_byte_by_byte(void **state)
{
    const int32_t tok[] = {1, 2, 3};
    struct pair p;
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    put_three(&b, tok, 3);
    pair_open(&p, 4096);
    for (size_t i = 0; i < b.n; i++) {
        assert_int_equal(write(p.peer, b.p + i, 1), 1);
        assert_int_equal(sk_chan_fill(&p.c), 0);
    }
    take_three(&p, 3);
    pair_close(&p);
    sk_buf_done(&b);
}

/* More than the socket takes: flush says so, and goes on where it stopped. */
static void test_short_writes(void **state)
{
    enum { N_TOK = 300000 };
    struct pair p;
    const struct sk_frame *f;
    struct sk_chan other;
    int size = 4096, n_partial = 0, rc;
    int32_t *tok = calloc(N_TOK, sizeof *tok);
    assert_non_null(tok);
    for (int32_t i = 0; i < N_TOK; i++)
        tok[i] = i;
    pair_open(&p, 4 << 20);
    assert_int_equal(setsockopt(p.c.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    sk_chan_init(&other, p.peer, 0);
    p.peer = -1;
    put_three(&p.c.out, tok, N_TOK);
    assert_true(sk_chan_pending(&p.c));
    while ((rc = sk_chan_flush(&p.c)) == 1) {
        n_partial++;
        assert_true(sk_chan_pending(&p.c));
        assert_int_equal(sk_chan_fill(&other), 0);
    }
    assert_int_equal(rc, 0);
    assert_true(n_partial > 10);
    assert_false(sk_chan_pending(&p.c));
    assert_int_equal(sk_chan_fill(&other), 0);
    assert_int_equal(sk_chan_next(&other, &f), 1);
    assert_int_equal(sk_chan_next(&other, &f), 1);
    const int32_t *got = sk_wire_prompt_tok((const void *)f);
    assert_memory_equal(got, tok, N_TOK * sizeof *tok);
    assert_int_equal(sk_chan_next(&other, &f), 1);
    assert_int_equal(f->kind, SK_FRAME_QUIT);
    sk_chan_done(&other);
    pair_close(&p);
    free(tok);
}

/* What came before the end is still handed out; then the end is -SK_EIO, and writing fails without a signal. */
static void test_end(void **state)
{
    const int32_t tok[] = {1, 2, 3};
    struct pair p;
    struct sk_buf b;
    sk_buf_init(&b, 4096);
    put_three(&b, tok, 3);
    pair_open(&p, 4096);
    assert_int_equal(write(p.peer, b.p, b.n), b.n);
    close(p.peer);
    p.peer = -1;
    assert_int_equal(sk_chan_fill(&p.c), 0);
    take_three(&p, 3);
    assert_int_equal(sk_chan_fill(&p.c), -SK_EIO);
    sk_wire_put_quit(&p.c.out);
    assert_int_equal(sk_chan_flush(&p.c), -SK_EIO);
    pair_close(&p);
    sk_buf_done(&b);
}

static void test_malformed(void **state)
{
    const struct sk_frame bad[] = {
        {.bytes = 0, .kind = SK_FRAME_QUIT},
        {.bytes = 4, .kind = SK_FRAME_QUIT},
        {.bytes = 12, .kind = SK_FRAME_QUIT},
        {.bytes = 8, .kind = SK_FRAME_BEAT},
        {.bytes = 0xfffffff8, .kind = SK_FRAME_PROMPT},
        {.bytes = 8, .kind = 0},
        {.bytes = SK_FRAME_MAX + 8, .kind = SK_FRAME_PROMPT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct pair p;
        const struct sk_frame *f;
        pair_open(&p, 4096);
        assert_int_equal(write(p.peer, &bad[i], sizeof bad[i]), sizeof bad[i]);
        assert_int_equal(sk_chan_fill(&p.c), 0);
        assert_int_equal(sk_chan_next(&p.c, &f), -SK_EPROTO);
        pair_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_reads), cmocka_unit_test(test_byte_by_byte), cmocka_unit_test(test_short_writes),
        cmocka_unit_test(test_end),         cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
