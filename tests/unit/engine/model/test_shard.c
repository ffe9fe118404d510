#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/shard.h"
#include "tests/unit/engine/fixture.h"

enum { MAX_TP = 71 };

struct shape {
    uint32_t n_head, n_kv_head, head_dim, n_ffn, n_vocab, n_layer;
};
static const struct shape shapes[] = {
    {9, 3, 64, 1536, 49152, 30},    {32, 8, 64, 8192, 128256, 16}, {12, 12, 64, 3072, 50257, 12},
    {40, 8, 128, 13824, 32000, 40}, {71, 1, 64, 18176, 65024, 32}, {64, 8, 128, 28672, 128256, 80},
};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static struct sk_desc desc_of(const struct shape *x)
{
    struct sk_desc d;
    fixture_desc(&d);
    d.n_head = x->n_head;
    d.n_kv_head = x->n_kv_head;
    d.head_dim = x->head_dim;
    d.n_embd = x->n_head * x->head_dim;
    d.n_ffn = x->n_ffn;
    d.n_vocab = x->n_vocab;
    d.n_layer = x->n_layer;
    return d;
}

/* Weights of a rank's shard of all layers, embedding and head. */
static uint64_t weights_of(const struct sk_desc *d, const struct sk_shard *s)
{
    uint64_t head = 2 * sk_desc_head_stride(d);
    return (uint64_t)d->n_embd * (d->n_layer * ((s->head.n + s->kv_head.n) * head + 3 * (uint64_t)s->ffn.n) +
                                  (d->tied ? 1 : 2) * (uint64_t)s->vocab.n);
}

static uint32_t spread(const uint32_t *n, uint32_t size)
{
    uint32_t least = n[0], most = n[0];
    for (uint32_t i = 1; i < size; i++) {
        least = n[i] < least ? n[i] : least;
        most = n[i] > most ? n[i] : most;
    }
    return most - least;
}

/* Spans follow one another and are all there is; heads find their KV heads where the attention op looks. */
static void every_cut_is_whole(const struct sk_desc *d, uint32_t size, const struct sk_shard_units *unit)
{
    uint32_t head = 0, ffn = 0, vocab = 0, n_head[MAX_TP], n_ffn[MAX_TP], n_vocab[MAX_TP],
             ratio = d->n_head / d->n_kv_head;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t rank = 0; rank < size; rank++) {
        struct sk_shard_place place = {rank, size, 0, 1};
        struct sk_shard s;
        struct sk_err err;
        assert_int_equal(sk_shard_init(&s, d, &place, unit, &err), 0);
        assert_true(s.rank == rank && s.size == size && s.first && s.last);
        assert_true(s.head.n > 0 && s.ffn.n > 0 && s.vocab.n > 0);
        assert_true(s.head.first == head && s.ffn.first == ffn && s.vocab.first == vocab);
        assert_true(s.head.n % unit->head == 0 && s.ffn.n % unit->ffn == 0);
        assert_true(s.vocab.n % 16 == 0 || rank == size - 1);
        assert_int_equal(s.head_ratio, ratio);
        for (uint32_t h = 0; h < s.head.n; h++) {
            uint32_t kv = (s.head_at + h) / s.head_ratio;
            assert_true(kv < s.kv_head.n);
            assert_int_equal(s.kv_head.first + kv, (s.head.first + h) / ratio);
        }
        assert_int_equal((s.head_at + s.head.n - 1) / ratio, s.kv_head.n - 1); /* none is there that nobody reads */
        head += n_head[rank] = s.head.n;
        ffn += n_ffn[rank] = s.ffn.n;
        vocab += n_vocab[rank] = s.vocab.n;
        uint64_t w = weights_of(d, &s);
        least = w < least ? w : least;
        most = w > most ? w : most;
    }
    assert_true(head == d->n_head && ffn == sk_desc_ffn_stride(d) && vocab == d->n_vocab);
    assert_true(spread(n_head, size) <= unit->head && spread(n_ffn, size) <= unit->ffn);
    assert_true(spread(n_vocab, size) < 32); /* a unit, and the last one may be short */
    uint64_t hs = sk_desc_head_stride(d), layer = (uint64_t)d->n_embd * d->n_layer;
    assert_true(most - least <= layer * (4 * hs * unit->head + 3 * unit->ffn) + 64 * d->n_embd);
}

static void shapes_are_cut_over_any_number_of_ranks(void **state)
{
    for (int i = 0; i < N_SHAPE; i++) {
        struct sk_desc d = desc_of(&shapes[i]);
        struct sk_shard_units unit = {1, 64, 1, 1};
        for (uint32_t size = 1; size <= d.n_head && size <= 64; size++)
            every_cut_is_whole(&d, size, &unit);
        unit.head = 2; /* an older directory: slabs of two heads */
        for (uint32_t size = 1; d.n_head % 2 == 0 && size <= d.n_head / 2 && size <= 64; size++)
            every_cut_is_whole(&d, size, &unit);
    }
}

static struct sk_shard cut(const struct sk_desc *d, uint32_t rank, uint32_t size, const struct sk_shard_units *unit)
{
    struct sk_shard_place place = {rank, size, 0, 1};
    struct sk_shard s;
    struct sk_err err;
    assert_int_equal(sk_shard_init(&s, d, &place, unit, &err), 0);
    return s;
}

static void smollm2_over_two_and_four(void **state)
{
    struct sk_desc d = desc_of(&shapes[0]);
    const struct sk_shard_units unit = {1, 128, 1, 1};
    struct sk_shard a = cut(&d, 0, 2, &unit), b = cut(&d, 1, 2, &unit);
    assert_true(a.head.n == 5 && b.head.n == 4 && a.kv_head.n == 2 && b.kv_head.n == 2);
    assert_true(a.kv_head.first == 0 && a.head_at == 0 && b.kv_head.first == 1 && b.head_at == 2);
    assert_true(a.ffn.n == 768 && b.ffn.n == 768 && a.vocab.n == 24576);

    /* 9 heads and 12 units of MLP over five: 2 2 2 2 1 heads; the two units left over go to who has least. */
    uint32_t n_ffn[5];
    for (uint32_t i = 0; i < 5; i++)
        n_ffn[i] = cut(&d, i, 5, &unit).ffn.n;
    assert_int_equal(n_ffn[4], 3 * 128);
    assert_int_equal(n_ffn[0] + n_ffn[1] + n_ffn[2] + n_ffn[3], 9 * 128);
}

static void what_cannot_be_cut_is_said_with_numbers(void **state)
{
    struct sk_desc d = desc_of(&shapes[0]);
    struct sk_shard_units unit = {1, 128, 1, 1};
    struct sk_shard s;
    struct sk_err err;
    assert_int_equal(sk_shard_init(&s, &d, &(struct sk_shard_place){0, 10, 0, 1}, &unit, &err), -SK_EUNSUP);
    assert_string_equal(err.param, "tp");
    assert_non_null(strstr(err.msg, "--tp 10"));
    assert_non_null(strstr(err.msg, "9 query heads"));
    unit.head = 3;
    assert_int_equal(sk_shard_init(&s, &d, &(struct sk_shard_place){0, 4, 0, 1}, &unit, &err), -SK_EUNSUP);
    assert_non_null(strstr(err.msg, "3 parts"));
    assert_non_null(strstr(err.msg, "skein-build"));
    unit = (struct sk_shard_units){1, 512, 1, 1};
    assert_int_equal(sk_shard_init(&s, &d, &(struct sk_shard_place){3, 4, 0, 1}, &unit, &err), -SK_EUNSUP);
    assert_non_null(strstr(err.msg, "layer.*.down"));
    assert_int_equal(sk_shard_init(&s, &d, &(struct sk_shard_place){0, 1, 30, 31}, &unit, &err), -SK_EUNSUP);
    assert_string_equal(err.param, "pp");
    assert_non_null(strstr(err.msg, "30 layers"));
    unit.ffn = 16;
    d.n_vocab = 40; /* three panels */
    assert_int_equal(sk_shard_init(&s, &d, &(struct sk_shard_place){0, 4, 0, 1}, &unit, &err), -SK_EUNSUP);
    assert_non_null(strstr(err.msg, "40 words"));
}

static void stages_of(const struct sk_desc *d, uint32_t n_pp, uint64_t head_bytes, uint32_t *ret_n)
{
    const struct sk_shard_units unit = {1, 64, 100, head_bytes};
    uint32_t at = 0;
    for (uint32_t pp = 0; pp < n_pp; pp++) {
        struct sk_shard s;
        struct sk_err err;
        assert_int_equal(sk_shard_init(&s, d, &(struct sk_shard_place){1, 2, pp, n_pp}, &unit, &err), 0);
        assert_true(s.layer.first == at && s.layer.n > 0);
        assert_true(s.first == (pp == 0) && s.last == (pp == n_pp - 1));
        at += ret_n[pp] = s.layer.n;
    }
    assert_int_equal(at, d->n_layer);
}

static void stages_cost_alike(void **state)
{
    struct sk_desc d = desc_of(&shapes[0]);
    uint32_t n[30];
    stages_of(&d, 1, 1200, n);
    stages_of(&d, 2, 0, n);
    assert_true(n[0] == 15 && n[1] == 15);
    stages_of(&d, 2, 1200, n); /* the head is worth three layers */
    assert_true(n[0] == 16 && n[1] == 14);
    stages_of(&d, 4, 1200, n);
    assert_true(n[0] == 8 && n[1] == 8 && n[2] == 8 && n[3] == 6);
    stages_of(&d, 30, 1200, n);
    assert_true(n[0] == 1 && n[29] == 1);
    stages_of(&d, 2, 1000000, n);
    assert_true(n[0] == 29 && n[1] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_cut_over_any_number_of_ranks),
        cmocka_unit_test(smollm2_over_two_and_four),
        cmocka_unit_test(what_cannot_be_cut_is_said_with_numbers),
        cmocka_unit_test(stages_cost_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
