#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/linear.h"
#include "tests/unit/engine/fixture.h"

/* Ranks' shards against the whole. Weights are f32 and x small integers in steps of 1/8, but sums are rounded: 1e-4.
 * ref's addresses are the host's. */
enum { MAX_WIDTH = 512, N_ROW = 3 };
struct env {
    struct fixture f;
    struct sk_backend *be;
    struct sk_bind bind;
    float x[N_ROW * MAX_WIDTH];
};
static struct env e;

static int setup(void **state)
{
    struct sk_desc desc;
    struct sk_err err;
    fixture_desc(&desc);
    desc.n_head = 12;
    desc.n_kv_head = 4;
    desc.n_ffn = 96;
    desc.n_vocab = 90;
    desc.norm = SK_NORM_LAYER; /* has biases */
    fixture_open(&e.f, &desc, SK_F32, 5);
    sk_assert(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &e.be, &err) == 0);
    sk_assert(sk_bind_init(&e.bind, &e.f.w, e.be) == 0);
    for (int i = 0; i < N_ROW * MAX_WIDTH; i++)
        e.x[i] = (float)(i * 37 % 17 - 8) / 8;
    return 0;
}

static int teardown(void **state)
{
    sk_bind_done(&e.bind);
    e.be->close(e.be);
    fixture_close(&e.f);
    return 0;
}

static struct sk_dev dev(const float *p)
{
    return (struct sk_dev){(uintptr_t)p};
}

static void run(const struct sk_linear *l, const float *x, float *out)
{
    struct sk_linear_io io = {dev(out), dev(x), MAX_WIDTH, MAX_WIDTH, N_ROW, N_ROW, {0}};
    sk_linear_run(l, e.be, &io);
}

static void assert_columns(const float *got, uint32_t at, const float *want, uint32_t from, uint32_t n)
{
    for (uint32_t r = 0; r < N_ROW; r++)
        assert_memory_equal(got + r * MAX_WIDTH + at, want + r * MAX_WIDTH + from, n * sizeof *got);
}

static struct sk_shard shard_of(uint32_t rank, uint32_t size, struct sk_shard_units unit)
{
    struct sk_shard s;
    struct sk_err err;
    struct sk_shard_place place = {rank, size, 0, 1};
    assert_int_equal(sk_shard_init(&s, &e.f.dir.desc, &place, &unit, &err), 0);
    return s;
}

/* A rank's q, k and v are those columns of the whole, bit for bit: an output does not know who else computes. */
static void qkv_by_heads(void **state)
{
    struct sk_err err;
    const struct sk_desc *d = &e.f.dir.desc;
    struct sk_linear whole, part;
    static float all[N_ROW * MAX_WIDTH], out[N_ROW * MAX_WIDTH];
    struct sk_shard one = shard_of(0, 1, (struct sk_shard_units){1, 1, 0, 0});
    assert_int_equal(sk_linear_qkv(&whole, &e.bind, d, &one, "layer.0.qkv", &err), 0);
    assert_int_equal(whole.n_part, 1); /* one GEMM */
    assert_int_equal(whole.n_out, (12 + 2 * 4) * 16);
    run(&whole, e.x, all);

    for (uint32_t size = 2; size <= 4; size += 2) {
        for (uint32_t rank = 0; rank < size; rank++) {
            struct sk_shard s = shard_of(rank, size, (struct sk_shard_units){1, 1, 0, 0});
            assert_int_equal(sk_linear_qkv(&part, &e.bind, d, &s, "layer.0.qkv", &err), 0);
            run(&part, e.x, out);
            uint32_t q = s.head.n * 16, kv = s.kv_head.n * 16;
            assert_int_equal(q, 12 / size * 16);
            assert_int_equal(part.n_out, q + 2 * kv);
            assert_columns(out, 0, all, s.head.first * 16, q);
            assert_columns(out, q, all, (12 + s.kv_head.first) * 16, kv);
            assert_columns(out, q + kv, all, (16 + s.kv_head.first) * 16, kv);
        }
    }
}

static void gate_and_up_by_columns(void **state)
{
    struct sk_err err;
    struct sk_linear whole, part;
    struct sk_bind_want want = {"layer.1.gate_up", 192, 64};
    static float all[N_ROW * MAX_WIDTH], out[N_ROW * MAX_WIDTH];
    assert_int_equal(sk_linear_merged(&whole, &e.bind, &want, (struct sk_span){0, 96}, &err), 0);
    assert_int_equal(whole.n_part, 1);
    run(&whole, e.x, all);
    for (uint32_t rank = 0; rank < 2; rank++) {
        struct sk_shard s = shard_of(rank, 2, (struct sk_shard_units){1, 32, 0, 0});
        assert_int_equal(s.ffn.n, rank == 0 ? 64 : 32); /* three units of 32 over two ranks */
        assert_int_equal(sk_linear_merged(&part, &e.bind, &want, s.ffn, &err), 0);
        run(&part, e.x, out);
        assert_columns(out, 0, all, s.ffn.first, s.ffn.n);
        assert_columns(out, s.ffn.n, all, 96 + s.ffn.first, s.ffn.n);
    }
}

static int no_reduce(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    return 0;
}

static int lost(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    return -SK_EIO;
}

static int lost_gather(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    return -SK_EIO;
}

/* x + whole = x + sum of the ranks' partial sums, the bias in it once. */
static void row_partial_sums_add_up(void **state)
{
    struct sk_err err;
    struct sk_linear l;
    struct sk_bind_want want = {"layer.0.down", 64, 96};
    static float whole[N_ROW * MAX_WIDTH], sum[N_ROW * MAX_WIDTH], partial[N_ROW * MAX_WIDTH], dirty[N_ROW * MAX_WIDTH];
    for (int i = 0; i < N_ROW * MAX_WIDTH; i++) {
        whole[i] = sum[i] = (float)i / 1000;
        dirty[i] = NAN;
    }
    struct sk_group one = {.size = 1}, two = {.size = 2, .all_reduce = no_reduce};
    struct sk_linear_io io = {dev(whole), dev(e.x), MAX_WIDTH, MAX_WIDTH, N_ROW, 0, {0}};
    assert_int_equal(sk_linear_row(&l, &e.bind, &want, (struct sk_span){0, 96}, 0, &err), 0);
    assert_true(l.part[0].bias.a != 0);
    assert_int_equal(sk_linear_reduce(&l, e.be, &io, &one, dev(dirty)), 0);

    for (uint32_t rank = 0; rank < 2; rank++) {
        struct sk_shard s = shard_of(rank, 2, (struct sk_shard_units){1, 32, 0, 0});
        memset(partial, 0, sizeof partial);
        assert_int_equal(sk_linear_row(&l, &e.bind, &want, s.ffn, rank, &err), 0);
        io = (struct sk_linear_io){dev(sum), dev(e.x + s.ffn.first), MAX_WIDTH, MAX_WIDTH, N_ROW, 0, {0}};
        assert_int_equal(sk_linear_reduce(&l, e.be, &io, &two, dev(partial)), 0);
    }
    for (uint32_t r = 0; r < N_ROW; r++)
        for (uint32_t c = 0; c < 64; c++)
            assert_true(fabsf(sum[r * MAX_WIDTH + c] - whole[r * MAX_WIDTH + c]) < 1e-4f);

    two.all_reduce = lost;
    assert_int_equal(sk_linear_reduce(&l, e.be, &io, &two, dev(partial)), -SK_EIO);
}

static void cuts_fall_on_units(void **state)
{
    struct sk_err err = {0};
    struct sk_linear l;
    struct sk_bind_want down = {"layer.0.down", 64, 96}, up = {"layer.0.gate_up", 192, 64};
    assert_int_equal(sk_linear_row(&l, &e.bind, &down, (struct sk_span){0, 48}, 0, &err), -SK_EUNSUP);
    assert_string_equal(err.param, "layer.0.down");
    assert_int_equal(sk_linear_row(&l, &e.bind, &down, (struct sk_span){64, 64}, 0, &err), -SK_EUNSUP);
    assert_int_equal(sk_linear_row(&l, &e.bind, &down, (struct sk_span){0, 0}, 0, &err), -SK_EUNSUP);
    assert_int_equal(sk_linear_column(&l, &e.bind, &up, (struct sk_span){8, 16}, &err), -SK_EUNSUP);
    assert_int_equal(sk_linear_column(&l, &e.bind, &up, (struct sk_span){16, 40}, &err), -SK_EUNSUP);
    down.n_in = 64;
    assert_int_equal(sk_linear_row(&l, &e.bind, &down, (struct sk_span){0, 64}, 0, &err), -SK_EFORMAT);
}

/* Rank 1 of two as a group of its own: it has computed its piece, and what rank 0 sent lies there already. */
static int gather_as_second(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    memcpy((float *)(uintptr_t)dst + n, (const float *)(uintptr_t)src, n * sizeof(float));
    return 0;
}

/* Uneven spans, the last one not a multiple of 16: what every rank gets is the whole, bit for bit. */
static void a_gather_puts_pieces_in_place(void **state)
{
    struct sk_err err;
    struct sk_linear whole, part;
    struct sk_bind_want want = {"embed", 90, 64};
    static float all[N_ROW * MAX_WIDTH], out[N_ROW * MAX_WIDTH], piece[N_ROW * MAX_WIDTH], pieces[2 * N_ROW * 64];
    const struct sk_span span[2] = {{0, 64}, {64, 26}};
    struct sk_group two = {.rank = 1, .size = 2, .all_gather = gather_as_second};
    struct sk_linear_pieces p = {span, dev(piece), dev(pieces), 64};
    struct sk_linear_io io = {dev(out), dev(e.x), MAX_WIDTH, MAX_WIDTH, N_ROW, 0, {0}};
    assert_int_equal(sk_linear_replicated(&whole, &e.bind, &want, &err), 0);
    run(&whole, e.x, all);

    struct sk_linear_io first = {dev(pieces), dev(e.x), 64, MAX_WIDTH, N_ROW, 0, {0}};
    assert_int_equal(sk_linear_column(&part, &e.bind, &want, span[0], &err), 0);
    sk_linear_run(&part, e.be, &first);
    assert_int_equal(sk_linear_column(&part, &e.bind, &want, span[1], &err), 0);
    assert_int_equal(sk_linear_gather(&part, e.be, &io, &two, &p), 0);
    assert_columns(out, 0, all, 0, 96); /* zeros past 90, too */
    two.all_gather = lost_gather;
    assert_int_equal(sk_linear_gather(&part, e.be, &io, &two, &p), -SK_EIO);
}

/* The sum in one op where backend and group offer it: it gets out itself, not the scratch. */
static struct sk_op_linear seen;
static int reduce_in_one(struct sk_backend *be, const struct sk_op_linear *op, struct sk_group *group)
{
    seen = *op;
    return -SK_EIO;
}

static void a_window_makes_it_one_op(void **state)
{
    struct sk_err err;
    struct sk_linear l;
    struct sk_bind_want want = {"layer.0.down", 64, 96};
    static float out[N_ROW * MAX_WIDTH], partial[N_ROW * MAX_WIDTH];
    struct sk_backend be = *e.be;
    struct sk_group_window window = {.max = MAX_WIDTH};
    struct sk_group two = {.size = 2, .all_reduce = no_reduce, .window = &window};
    struct sk_linear_io io = {dev(out), dev(e.x), MAX_WIDTH, MAX_WIDTH, N_ROW, 0, {0}};
    be.linear_reduce = reduce_in_one;
    assert_int_equal(sk_linear_row(&l, &e.bind, &want, (struct sk_span){0, 64}, 0, &err), 0);
    assert_int_equal(sk_linear_reduce(&l, &be, &io, &two, dev(partial)), -SK_EIO);
    assert_true(seen.add && seen.out.a == dev(out).a && seen.bias.a != 0);
    two.window = NULL; /* ranks on several hosts: the backend is not asked */
    assert_int_equal(sk_linear_reduce(&l, &be, &io, &two, dev(partial)), 0);
}

/* A span that is asked for twice is there once, and nothing is brought that is only counted. */
static void pieces_are_bound_once(void **state)
{
    struct sk_err err;
    struct sk_bind b, count;
    struct sk_mat first, again, other;
    struct sk_bind_want want = {"embed", 90, 64};
    assert_int_equal(sk_bind_init(&b, &e.f.w, e.be), 0);
    assert_int_equal(sk_bind_count(&count, &e.f.w), 0);
    struct sk_bind *both[2] = {&b, &count};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sk_bind_rows(both[i], &want, (struct sk_span){16, 32}, &first, &err), 0);
        assert_int_equal(sk_bind_rows(both[i], &want, (struct sk_span){16, 32}, &again, &err), 0);
        assert_int_equal(sk_bind_rows(both[i], &want, (struct sk_span){48, 42}, &other, &err), 0);
        assert_int_equal(first.data.a, again.data.a);
        assert_int_equal(both[i]->n_piece, 2);
        assert_int_equal(both[i]->bytes, (32 + 48) * 64 * sizeof(float));
    }
    sk_bind_done(&b);
    sk_bind_done(&count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qkv_by_heads),
        cmocka_unit_test(gate_and_up_by_columns),
        cmocka_unit_test(row_partial_sums_add_up),
        cmocka_unit_test(cuts_fall_on_units),
        cmocka_unit_test(a_gather_puts_pieces_in_place),
        cmocka_unit_test(a_window_makes_it_one_op),
        cmocka_unit_test(pieces_are_bound_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
