/* Frames: what is put is what is read, and nothing that is cut, padded or counted wrongly passes the check. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "comm/wire/wire.h"

static struct sk_buf b;

static int setup(void **state)
{
    sk_buf_init(&b, 1 << 20);
    return 0;
}

static int teardown(void **state)
{
    sk_buf_done(&b);
    return 0;
}

static const void *only_frame(enum sk_frame_kind kind)
{
    const struct sk_frame *f = (const void *)b.p;
    assert_int_equal(f->kind, kind);
    assert_int_equal(f->bytes, b.n);
    assert_int_equal(f->bytes % 8, 0);
    assert_int_equal(sk_wire_check(f), 0);
    return f;
}

/* Lengths one word off, odd lengths, unknown kinds and a non-zero `zero` are refused. */
static void refuses_damage(void)
{
    struct sk_frame *f = (void *)b.p, good = *f;
    assert_int_equal(sk_buf_add(&b, "\0\0\0\0\0\0\0\0", 8), 0);
    f = (void *)b.p;
    f->bytes = good.bytes + 8;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
    f->bytes = good.bytes - 8;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
    f->bytes = good.bytes + 4;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
    *f = good;
    f->kind = SK_FRAME_VECTOR;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
    f->kind = SK_FRAME_KIND_COUNT;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
    *f = good;
    f->zero = 1;
    assert_int_equal(sk_wire_check(f), -SK_EPROTO);
}

static void test_hello(void **state)
{
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC,
                              .version = 1,
                              .build = "0.1",
                              .n_group = 2,
                              .n_blk = {7, 8},
                              .credit = 9,
                              .kv_bytes = 1ull << 40};
    assert_int_equal(sk_wire_put_hello(&b, &h), 0);
    const struct sk_wire_hello *r = only_frame(SK_FRAME_HELLO);
    assert_string_equal(r->build, "0.1");
    assert_int_equal(r->n_blk[1], 8);
    assert_true(r->kv_bytes == 1ull << 40);
    struct sk_wire_hello *w = (void *)b.p;
    memset(w->isa, 'x', sizeof w->isa); /* no NUL */
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->isa[0] = '\0';
    w->n_group = 5;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->n_group = 4;
    w->magic++;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->magic--;
    refuses_damage();
}

static void test_state(void **state)
{
    char text[1000];
    memset(text, 'a', sizeof text);
    text[999] = '\0';
    assert_int_equal(sk_wire_put_state(&b, 300, 1, text), 0);
    const struct sk_wire_state *r = only_frame(SK_FRAME_STATE);
    assert_int_equal(r->permille, 300);
    assert_int_equal(r->failed, 1);
    assert_int_equal(strlen(r->text), sizeof r->text - 1);
    ((struct sk_wire_state *)b.p)->text[sizeof r->text - 1] = 'a';
    assert_int_equal(sk_wire_check(&r->frame), -SK_EPROTO);
    ((struct sk_wire_state *)b.p)->text[0] = '\0';
    refuses_damage();
}

static void test_prompt(void **state)
{
    const int32_t tok[] = {5, 6, 7};
    for (uint32_t n = 0; n <= 3; n++) {
        sk_buf_clear(&b);
        assert_int_equal(sk_wire_put_prompt(&b, 77, 2, tok, n), 0);
        const struct sk_wire_prompt *r = only_frame(SK_FRAME_PROMPT);
        assert_int_equal(r->job, 77);
        assert_int_equal(r->n_choice, 2);
        assert_int_equal(r->n_tok, n);
        assert_memory_equal(sk_wire_prompt_tok(r), tok, n * 4);
    }
    ((struct sk_wire_prompt *)b.p)->n_tok = 0xffffffff; /* no overflow makes it fit */
    assert_int_equal(sk_wire_check((void *)b.p), -SK_EPROTO);
    ((struct sk_wire_prompt *)b.p)->n_tok = 3;
    refuses_damage();
}

static void test_seq(void **state)
{
    const int32_t list[] = {1, 2, 3}, done[] = {4, 5, 6, 7, 8};
    struct sk_wire_seq s = {.job = 9, .choice = 3, .n_list = 3, .n_done = 5};
    sk_params_default(&s.params);
    s.params.seed = 12345;
    assert_int_equal(sk_wire_put_seq(&b, &s, list, done), 0);
    const struct sk_wire_seq *r = only_frame(SK_FRAME_SEQ);
    assert_int_equal(r->choice, 3);
    assert_int_equal(r->params.seed, 12345);
    assert_memory_equal(sk_wire_seq_list(r), list, sizeof list);
    assert_memory_equal(sk_wire_seq_done(r), done, sizeof done);
    struct sk_wire_seq *w = (void *)b.p;
    w->n_list = 0x80000003u;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->n_list = 3;
    w->n_done = 0xfffffffe;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->n_done = 5;
    w->flags = SK_SEQ_SUSPECT;
    assert_int_equal(sk_wire_check(&w->frame), 0);
    w->flags = SK_SEQ_URGENT;
    assert_int_equal(sk_wire_check(&w->frame), 0);
    w->flags = 4;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->flags = 0;
    refuses_damage();
}

static void test_peek(void **state)
{
    const int32_t tok[] = {4, 5, 6};
    assert_int_equal(sk_wire_put_peek(&b, 7, 1ull << 60, tok, 3), 0);
    const struct sk_wire_peek *r = only_frame(SK_FRAME_PEEK);
    assert_int_equal(r->number, 7);
    assert_true(r->salt == 1ull << 60);
    assert_int_equal(r->n_tok, 3);
    assert_memory_equal(sk_wire_peek_tok(r), tok, sizeof tok);
    struct sk_wire_peek *w = (void *)b.p;
    w->n_tok = 0x40000003u;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->n_tok = 3;
    w->zero = 1;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    w->zero = 0;
    refuses_damage();
    sk_buf_clear(&b);
    assert_int_equal(sk_wire_put_peek(&b, 8, 0, NULL, 0), 0);
    only_frame(SK_FRAME_PEEK);
}

static void test_view(void **state)
{
    const struct sk_wire_view_seq seqs[] = {{.job = 5, .choice = 1, .state = SK_VIEW_RUNNING, .n_blk = 9},
                                            {.job = 6, .n_preempt = 3}};
    struct sk_wire_view v = {.number = 7, .n_seq = 2, .n_cached = 64, .stats = {.steps = 12}};
    assert_int_equal(sk_wire_put_view(&b, &v, seqs), 0);
    const struct sk_wire_view *r = only_frame(SK_FRAME_VIEW);
    assert_int_equal(r->number, 7);
    assert_int_equal(r->n_cached, 64);
    assert_int_equal(r->stats.steps, 12);
    assert_memory_equal(sk_wire_view_seqs(r), seqs, sizeof seqs);
    struct sk_wire_view *w = (void *)b.p;
    const uint32_t n_seq[] = {1, 3, 0xffffffff, 0x66666668};
    for (int i = 0; i < 4; i++) {
        w->n_seq = n_seq[i];
        assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    }
    w->n_seq = 2;
    refuses_damage();
    sk_buf_clear(&b);
    v.n_seq = 0;
    assert_int_equal(sk_wire_put_view(&b, &v, NULL), 0);
    only_frame(SK_FRAME_VIEW);
    v.n_seq = SK_FRAME_MAX / sizeof seqs[0];
    assert_int_equal(sk_wire_put_view(&b, &v, seqs), -SK_ETOOBIG);
}

static void test_ranks(void **state)
{
    struct sk_wire_rank ranks[] = {{.rank = 0, .pid = 10, .host = "a"}, {.rank = 1, .stage = 1, .host = "b"}};
    assert_int_equal(sk_wire_put_ranks(&b, ranks, 2), 0);
    const struct sk_wire_ranks *r = only_frame(SK_FRAME_RANKS);
    assert_int_equal(r->n_rank, 2);
    assert_memory_equal(sk_wire_ranks_list(r), ranks, sizeof ranks);
    refuses_damage();
    struct sk_wire_rank *w = (void *)((struct sk_wire_ranks *)b.p + 1);
    memset(w[1].host, 'b', sizeof w[1].host);
    assert_int_equal(sk_wire_check(&r->frame), -SK_EPROTO);
    sk_buf_clear(&b);
    assert_int_equal(sk_wire_put_ranks(&b, NULL, 0), 0);
    assert_int_equal(sk_wire_check((const struct sk_frame *)b.p), -SK_EPROTO);
}

static void test_seats(void **state)
{
    const struct sk_wire_seat seats[] = {{.job = 3, .choice = 1}, {.job = 4}};
    const struct sk_wire_seats s = {.step = 9, .progress = 2};
    for (uint32_t n = 0; n <= 2; n++) {
        struct sk_wire_seats some = s;
        some.n_seat = n;
        sk_buf_clear(&b);
        assert_int_equal(sk_wire_put_seats(&b, &some, seats), 0);
        const struct sk_wire_seats *r = only_frame(SK_FRAME_SEATS);
        assert_int_equal(r->step, 9);
        assert_int_equal(r->progress, 2);
        assert_int_equal(r->n_seat, n);
        assert_memory_equal(sk_wire_seats_list(r), seats, n * sizeof *seats);
        refuses_damage();
    }
}

static void test_small(void **state)
{
    struct sk_wire_stats st = {.steps = 3, .blk_cached = 4};
    assert_int_equal(sk_wire_put_cancel(&b, 5, SK_WIRE_ALL), 0);
    assert_int_equal(((const struct sk_wire_cancel *)only_frame(SK_FRAME_CANCEL))->choice, SK_WIRE_ALL);
    refuses_damage();
    sk_buf_clear(&b);
    assert_int_equal(sk_wire_put_stats(&b, &st), 0);
    assert_int_equal(((const struct sk_wire_stats *)only_frame(SK_FRAME_STATS))->blk_cached, 4);
    refuses_damage();
    sk_buf_clear(&b);
    assert_int_equal(sk_wire_put_beat(&b, 8, 9), 0);
    assert_int_equal(((const struct sk_wire_beat *)only_frame(SK_FRAME_BEAT))->step, 9);
    refuses_damage();
    sk_buf_clear(&b);
    assert_int_equal(sk_wire_put_quit(&b), 0);
    only_frame(SK_FRAME_QUIT);
}

static size_t put_tokens(void)
{
    const struct sk_wire_top top[] = {{1, -1.5f}, {2, -2.5f}};
    size_t at;
    sk_wire_tokens_begin(&b, &at, 55);
    sk_wire_tokens_entry(&b, &(struct sk_wire_entry){.job = 1, .n_item = 2});
    sk_wire_tokens_item(
        &b, &(struct sk_wire_item){.id = 10, .logprob = -0.5f, .rank = 1, .n_top = 2, .flags = SK_ITEM_PROMPT}, top);
    sk_wire_tokens_item(&b, &(struct sk_wire_item){.id = 11, .logprob = -0.25f, .rank = 2}, NULL);
    sk_wire_tokens_entry(
        &b, &(struct sk_wire_entry){
                .job = 2, .choice = 4, .finish = SK_FINISH_EOS, .reason = 2, .cpu_us = 1ull << 40, .blk_us = 6});
    assert_int_equal(sk_wire_tokens_end(&b, at, 2, 3), 0);
    return at;
}

static void test_tokens(void **state)
{
    put_tokens();
    const struct sk_wire_tokens *t = only_frame(SK_FRAME_TOKENS);
    assert_int_equal(t->step, 55);
    assert_int_equal(t->n_waiting, 3);
    const struct sk_wire_entry *e = sk_wire_first(t);
    const struct sk_wire_item *it = sk_wire_item_first(e);
    assert_int_equal(it->id, 10);
    assert_int_equal(it->flags, SK_ITEM_PROMPT);
    assert_int_equal(sk_wire_item_top(it)[1].id, 2);
    it = sk_wire_item_next(it);
    assert_int_equal(it->id, 11);
    assert_int_equal(it->rank, 2);
    e = sk_wire_next(t, e);
    assert_int_equal(e->choice, 4);
    assert_int_equal(e->finish, SK_FINISH_EOS);
    assert_true(e->cpu_us == 1ull << 40 && e->blk_us == 6);
    assert_null(sk_wire_next(t, e));
    refuses_damage();

    sk_buf_clear(&b);
    put_tokens();
    struct sk_wire_tokens *w = (void *)b.p;
    struct sk_wire_entry *we = (void *)(w + 1);
    struct sk_wire_item *wi = (void *)(we + 1);
    const uint32_t n_entry[] = {1, 3, 0xffffffff};
    for (int i = 0; i < 3; i++) {
        w->n_entry = n_entry[i];
        assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    }
    w->n_entry = 2;
    we->n_item = 0xffffffff;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    we->n_item = 2;
    wi->n_top = 0xffff;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    wi->n_top = 2;
    we->finish = SK_FINISH_ERROR + 1;
    assert_int_equal(sk_wire_check(&w->frame), -SK_EPROTO);
    we->finish = 0;
    assert_int_equal(sk_wire_check(&w->frame), 0);
}

/* A step in which nothing happened writes no frame; what stood before it stays. */
static void test_tokens_empty(void **state)
{
    size_t at, before;
    sk_wire_put_beat(&b, 1, 1);
    before = b.n;
    sk_wire_tokens_begin(&b, &at, 1);
    assert_int_equal(sk_wire_tokens_end(&b, at, 0, 0), 0);
    assert_int_equal(b.n, before);
}

/* A frame is put whole or not at all. */
static void test_full(void **state)
{
    struct sk_buf small;
    const int32_t tok[3] = {0};
    sk_buf_init(&small, 50);
    assert_int_equal(sk_wire_put_beat(&small, 1, 1), 0);
    size_t n = small.n;
    assert_int_equal(sk_wire_put_prompt(&small, 1, 1, tok, 3), -SK_ETOOBIG);
    assert_int_equal(small.n, n);
    sk_buf_done(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hello, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prompt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seq, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peek, setup, teardown),
        cmocka_unit_test_setup_teardown(test_view, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seats, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
