/* AMX: emulated tile products against the manual's pseudo-code in scalar C, and the real ones where the CPU has them;
 * linear on tiles against the level below where it promises the same bits, and over many rows. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"
#include "kernels/cpu/isa.h"
#include "tests/unit/kernels/emulated_amx.h"
#include "tests/unit/kernels/tiles_emulated.h"
#include "tests/unit/kernels/tiles_real.h"

enum { TILE_WORDS = 256, WIDTH = 16 };

static const struct tiles shapes[] = {{16, 16, 16, false}, {16, 8, 16, false}, {1, 1, 1, false},  {7, 3, 5, false},
                                      {16, 16, 1, false},  {16, 16, 16, true}, {16, 8, 16, true}, {3, 5, 9, true}};

/* A bf16 with any sign and fraction: one in four denormal, the others 2^-67..2^53, so that products underflow and sums
 * never overflow. */
static uint32_t any_bf16(uint32_t stream, uint32_t i)
{
    const uint32_t bits = kern_below(stream, i, 1 << 16), e = 60 + kern_below(stream + 1, i, 121);
    return (bits & 0x807f) | (kern_below(stream + 2, i, 4) == 0 ? 0 : e << 7);
}

/* normal: of moderate size, in which the order of a sum shows. */
static void make_tile(uint32_t stream, bool normal, uint32_t *ret)
{
    for (uint32_t i = 0; i < TILE_WORDS; i++) {
        uint32_t half[2];
        for (uint32_t odd = 0; odd < 2; odd++)
            half[odd] = normal ? sk_f32_to_bf16(kern_normal(stream, 2 * i + odd)) : any_bf16(stream, 2 * i + odd);
        ret[i] = half[0] | half[1] << 16;
    }
}

static float flush(float f)
{
    return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f;
}

static float half_of(uint32_t word, int odd)
{
    return flush(sk_bf16_to_f32((uint16_t)(word >> 16 * odd)));
}

static uint32_t want_bf16(const struct tiles *t, uint32_t c, const uint32_t *a, const uint32_t *b)
{
    float sum[2] = {0, 0}, f;
    for (uint32_t k = 0; k < t->n_group; k++)
        for (int odd = 0; odd < 2; odd++)
            sum[odd] = flush(fmaf(half_of(a[k], odd), half_of(b[k * WIDTH], odd), sum[odd]));
    memcpy(&f, &c, sizeof f);
    f = flush(flush(f) + flush(sum[0] + sum[1]));
    memcpy(&c, &f, sizeof f);
    return c;
}

static uint32_t want_su8(const struct tiles *t, uint32_t c, const uint32_t *a, const uint32_t *b)
{
    for (uint32_t k = 0; k < t->n_group; k++)
        for (int j = 0; j < 32; j += 8)
            c += (uint32_t)((int8_t)(a[k] >> j) * (uint8_t)(b[k * WIDTH] >> j));
    return c;
}

static void check_tiles(void (*product)(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b))
{
    uint32_t a[TILE_WORDS], b[TILE_WORDS], c[TILE_WORDS], got[TILE_WORDS];

    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes * 2; i++) {
        const struct tiles *t = &shapes[i / 2];
        make_tile(10 * i, i % 2, a), make_tile(10 * i + 3, i % 2, b), make_tile(10 * i + 6, i % 2, c);
        memcpy(got, c, sizeof got);
        product(t, got, a, b);
        for (uint32_t j = 0; j < TILE_WORDS; j++) {
            const uint32_t row = j / WIDTH, column = j % WIDTH;
            uint32_t want = c[j]; /* outside of the tile nothing is written */
            if (row < t->n_row && column < t->n_column)
                want = (t->bytes ? want_su8 : want_bf16)(t, c[j], a + row * WIDTH, b + column);
            if (got[j] != want)
                fail_msg("%s, %u x %u x %u: row %u, column %u is %08x, not %08x", t->bytes ? "bytes" : "bf16", t->n_row,
                         t->n_group, t->n_column, row, column, got[j], want);
        }
    }
}

static void emulated_products(void **state)
{
    if (!sk_isa_has(sk_isa_detect(), SK_ISA_AVX512_BF16)) {
        print_message("emulated AMX is not tested here: it needs AVX-512 BF16\n");
        skip();
    }
    check_tiles(tiles_emulated);
}

static void real_products(void **state)
{
    if (sk_isa_detect() != SK_ISA_AMX) {
        print_message("AMX is not tested here: this CPU has none\n");
        skip();
    }
    check_tiles(tiles_real);
}

typedef int open_fn(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

/* NULL where the CPU is below it. */
static struct sk_backend *open_at(open_fn *open, const char *isa)
{
    struct sk_backend *be = NULL;
    struct sk_err err;
    setenv("SKEIN_ISA", isa, 1);
    const int rc = open(&(struct sk_backend_conf){.n_thread = 2}, &be, &err);
    assert_true(rc == 0 || rc == -SK_EUNSUP || rc == -SK_EINVAL);
    return be;
}

enum { N_IN = 96, N_OUT = 19 * 16 - 5, LD_OUT = 19 * 16, MANY_ROWS = 1024 + 64 + 21 };

static float *linear(struct sk_backend *be, enum sk_dtype dtype, uint32_t n_row, uint32_t n_prompt)
{
    float *x = kern_rows(7, n_row, N_IN, N_IN), *out = kern_zeros((size_t)n_row * LD_OUT * sizeof *out);
    const struct sk_mat mat = kern_mat(be, 8, dtype, N_OUT, N_IN, N_IN);
    const struct sk_op_linear op = {.out = kern_put(be, out, (size_t)n_row * LD_OUT * sizeof *out),
                                    .x = kern_put(be, x, (size_t)n_row * N_IN * sizeof *x),
                                    .ld_out = LD_OUT,
                                    .ld_x = N_IN,
                                    .mat = &mat,
                                    .n_row = n_row,
                                    .n_prompt_row = n_prompt};
    be->linear(be, &op);
    kern_get(be, op.out, out, (size_t)n_row * LD_OUT * sizeof *out);
    kern_free_all(be);
    sk_free(x);
    return out;
}

static const enum sk_dtype dtypes[] = {SK_BF16, SK_Q8, SK_Q4, SK_Q4S};

/* Rows and panels beyond what the kernels' scratch has room for at a time: those of many rows are like those of few,
 * and test_backend_linear has few outputs. */
static void check_many_rows(struct sk_backend *be)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        for (uint32_t prompt = 0; prompt < 2; prompt++) {
            float *many = linear(be, dtypes[i], MANY_ROWS, prompt * MANY_ROWS);
            for (uint32_t n_row = 1; n_row < MANY_ROWS; n_row = n_row * 5 + 7) {
                float *few = linear(be, dtypes[i], n_row, prompt * n_row);
                kern_assert_same_bits(few, many, (size_t)n_row * LD_OUT * sizeof *few, sk_dtype_name(dtypes[i]));
                sk_free(few);
            }
            sk_free(many);
        }
}

/* Decode rows of q8, q4 and q4s have the bits of VNNI; bf16 weights make no difference between classes; and what has
 * other bits is near: outputs are about N(0, 1). */
static void check_bits(struct sk_backend *amx, struct sk_backend *vnni)
{
    enum { N_ROW = 75 };
    const size_t n = (size_t)N_ROW * LD_OUT;

    assert_false(amx->classes_equal);
    assert_true(vnni->classes_equal);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        const enum sk_dtype d = dtypes[i];
        float *decode = linear(amx, d, N_ROW, 0), *prompt = linear(amx, d, N_ROW, N_ROW),
              *low = linear(vnni, d, N_ROW, 0);
        kern_assert_same_bits(decode, d == SK_BF16 ? prompt : low, n * sizeof *low, sk_dtype_name(d));
        assert_true(d == SK_BF16 || memcmp(decode, prompt, n * sizeof *low) != 0);
        kern_assert_near(prompt, low, n, 0.1, sk_dtype_name(d));
        sk_free(decode), sk_free(prompt), sk_free(low);
    }
}

static void kernels_on_tiles(void **state)
{
    struct sk_backend *emulated = open_at(emulated_amx_open, "avx512-bf16"), *real = open_at(sk_cpu_open, "amx");
    struct sk_backend *vnni = open_at(sk_cpu_open, "avx512-vnni");
    if (emulated != NULL) {
        check_bits(emulated, vnni);
        check_many_rows(emulated);
        emulated->close(emulated);
    }
    if (real != NULL) {
        check_bits(real, vnni);
        check_many_rows(real);
        real->close(real);
    }
    if (vnni != NULL)
        vnni->close(vnni);
    if (emulated == NULL) {
        print_message("kernels on tiles are not tested here: they need AVX-512 BF16\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(emulated_products), cmocka_unit_test(real_products),
                                       cmocka_unit_test(kernels_on_tiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
