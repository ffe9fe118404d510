#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"
#include "comm/base/rng.h"
#include "tests/unit/kernels/emulated_amx.h"
#include "tests/unit/kernels/emulated_avxvnni.h"

static const struct level {
    const char *name;
    int (*open)(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);
    const char *isa; /* SKEIN_ISA; NULL: unset */
} levels[] = {
    {"ref", sk_ref_open, NULL},
    {"cpu", sk_cpu_open, "avx2"},
    {"cpu", sk_cpu_open, "avx2-vnni"},
    {"cpu, emulated avx-vnni", emulated_avxvnni_open, "avx2"},
    {"cpu", sk_cpu_open, "avx512"},
    {"cpu", sk_cpu_open, "avx512-vnni"},
    {"cpu", sk_cpu_open, "avx512-bf16"},
    {"cpu", sk_cpu_open, "amx"},
    {"cpu, emulated amx", emulated_amx_open, "avx512-bf16"},
};

enum { N_LEVEL = sizeof levels / sizeof levels[0], MAX_BUFFER = 256 };

static struct {
    struct sk_backend *be;
    struct sk_dev dev;
    size_t bytes;
} buffers[MAX_BUFFER];

static int open_level(const struct level *level, int n_thread, struct sk_backend **ret)
{
    struct sk_err err = {0};
    if (level->isa != NULL)
        setenv("SKEIN_ISA", level->isa, 1);
    else
        unsetenv("SKEIN_ISA");
    int rc = level->open(&(struct sk_backend_conf){.n_thread = n_thread}, ret, &err);
    if (rc != 0)
        printf("%s %s: not tested: %s\n", level->name, level->isa, err.msg);
    return rc;
}

void kern_each(void (*test)(const struct kern *k))
{
    int n_reached = 0;
    for (int i = 0; i < N_LEVEL; i++) {
        struct kern k = {.ref = kern_ref()};
        int rc = open_level(&levels[i], 1, &k.one);
        if (rc == 0) {
            assert_int_equal(open_level(&levels[i], 2, &k.two), 0);
            printf("%s %s\n", k.one->name, k.one->isa);
            assert_string_equal(k.one->name, levels[i].name);
            if (levels[i].isa != NULL)
                assert_string_equal(k.one->isa, levels[i].isa);
            test(&k);
            k.one->close(k.one);
            k.two->close(k.two);
            n_reached++;
        } else {
            assert_true(rc == -SK_EUNSUP || rc == -SK_EINVAL); /* below the CPU's reach, and nothing else */
        }
        k.ref->close(k.ref);
    }
    assert_true(n_reached > 1 || !__builtin_cpu_supports("avx2"));
}

struct sk_backend *kern_ref(void)
{
    struct sk_backend *be = NULL;
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, NULL), 0);
    return be;
}

static uint32_t word(uint32_t stream, uint32_t i, uint32_t which)
{
    const uint32_t key[2] = {stream, 0x6b65726e}, ctr[4] = {i, 0, 0, 0};
    uint32_t out[4];
    sk_philox(key, ctr, out);
    return out[which];
}

/* Irwin-Hall: the sum of 12 uniform numbers has variance 1. */
float kern_normal(uint32_t stream, uint32_t i)
{
    const uint32_t key[2] = {stream, 0x6b65726e}, ctr[4] = {i, 0, 0, 0};
    uint32_t out[4];
    float sum = -6;
    sk_philox(key, ctr, out);
    for (int j = 0; j < 12; j++)
        sum += (float)(out[j / 3] >> (j % 3 * 10) & 1023) * (1.0f / 1023);
    return sum;
}

uint32_t kern_below(uint32_t stream, uint32_t i, uint32_t n)
{
    return word(stream, i, 3) % n;
}

void *kern_zeros(size_t bytes)
{
    void *p = sk_calloc(1, bytes);
    assert_non_null(p);
    return p;
}

float *kern_rows(uint32_t stream, uint32_t n_row, uint32_t width, uint32_t ld)
{
    float *rows = kern_zeros((size_t)n_row * ld * sizeof *rows);
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t i = 0; i < width; i++)
            rows[(size_t)r * ld + i] = kern_normal(stream, r * width + i);
    }
    return rows;
}

struct sk_dev kern_new(struct sk_backend *be, size_t bytes)
{
    int i = 0;
    while (i < MAX_BUFFER && buffers[i].be != NULL)
        i++;
    assert_true(i < MAX_BUFFER);
    buffers[i].be = be;
    buffers[i].bytes = bytes;
    buffers[i].dev = be->alloc(be, bytes);
    assert_true(buffers[i].dev.a != 0);
    assert_int_equal(buffers[i].dev.a % 64, 0);
    return buffers[i].dev;
}

struct sk_dev kern_put(struct sk_backend *be, const void *src, size_t bytes)
{
    struct sk_dev d = kern_new(be, bytes);
    be->upload(be, d, src, bytes);
    return d;
}

void kern_get(struct sk_backend *be, struct sk_dev src, void *dst, size_t bytes)
{
    be->fetch(be, dst, src, bytes);
    assert_int_equal(be->wait(be), 0);
}

static void free_buffer(int i)
{
    buffers[i].be->free(buffers[i].be, buffers[i].dev, buffers[i].bytes);
    buffers[i].be = NULL;
}

void kern_free(struct sk_backend *be, struct sk_dev d)
{
    int i = 0;
    while (i < MAX_BUFFER && (buffers[i].be != be || buffers[i].dev.a != d.a))
        i++;
    assert_true(i < MAX_BUFFER);
    free_buffer(i);
}

void kern_free_all(struct sk_backend *be)
{
    for (int i = 0; i < MAX_BUFFER; i++) {
        if (buffers[i].be == be)
            free_buffer(i);
    }
}

static void make_row(uint32_t stream, enum sk_dtype dtype, uint32_t n_in, uint32_t out, float *row,
                     struct sk_block *blocks)
{
    for (uint32_t i = 0; i < n_in; i++)
        row[i] = kern_normal(stream, out * n_in + i) / sqrtf((float)n_in);
    if (!sk_dtype_in_blocks(dtype))
        return;
    for (uint32_t b = 0; b < n_in / SK_QBLOCK; b++)
        sk_block_quant(dtype, row + (size_t)b * SK_QBLOCK, &blocks[b]);
}

/* Packs rows 0..n_out-1, of which row o is row first + o of the stream's matrix. */
static void *pack_rows(uint32_t stream, const struct sk_pack *p, uint32_t first)
{
    void *data = kern_zeros(p->bytes);
    float *row = kern_zeros(p->n_in * sizeof *row);
    struct sk_block *blocks = kern_zeros((p->n_in / SK_QBLOCK + 1) * sizeof *blocks);
    for (uint32_t o = 0; o < p->n_out; o++) {
        make_row(stream, p->dtype, p->n_in, first + o, row, blocks);
        if (sk_dtype_in_blocks(p->dtype))
            sk_pack_put_blocks(p, data, o, blocks);
        else
            sk_pack_put_row(p, data, o, row);
    }
    sk_free(row);
    sk_free(blocks);
    return data;
}

struct sk_mat kern_mat_rows(struct sk_backend *be, uint32_t stream, enum sk_dtype dtype, uint32_t first, uint32_t n_out,
                            uint32_t n_in, uint32_t slab_k)
{
    struct sk_mat mat = {0};
    assert_int_equal(sk_pack_layout(&mat.pack, dtype, n_out, n_in, slab_k), 0);
    void *data = pack_rows(stream, &mat.pack, first);
    mat.data = kern_put(be, data, mat.pack.bytes);
    sk_free(data);
    return mat;
}

struct sk_mat kern_mat(struct sk_backend *be, uint32_t stream, enum sk_dtype dtype, uint32_t n_out, uint32_t n_in,
                       uint32_t slab_k)
{
    return kern_mat_rows(be, stream, dtype, 0, n_out, n_in, slab_k);
}

void kern_mat_row(uint32_t stream, enum sk_dtype dtype, uint32_t n_in, uint32_t out, float *ret)
{
    struct sk_pack p;
    assert_int_equal(sk_pack_layout(&p, dtype, 1, n_in, n_in), 0);
    void *data = pack_rows(stream, &p, out);
    sk_pack_get_row(&p, data, 0, ret);
    sk_free(data);
}

void kern_assert_near(const float *a, const float *b, size_t n, double tol, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - b[i]) <= tol))
            fail_msg("%s: [%zu] is %.9g, not %.9g (+- %.3g)", what, i, a[i], b[i], tol);
    }
}

void kern_assert_same_bits(const void *a, const void *b, size_t bytes, const char *what)
{
    if (memcmp(a, b, bytes) != 0)
        fail_msg("%s: other bits", what);
}

void kern_assert_pad(const float *rows, uint32_t n_row, uint32_t width, uint32_t ld)
{
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t i = width; i < SK_ALIGN16(width); i++) {
            if (rows[(size_t)r * ld + i] != 0)
                fail_msg("row %u, column %u: %g in the padding", r, i, rows[(size_t)r * ld + i]);
        }
    }
}
