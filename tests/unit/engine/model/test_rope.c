#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "engine/model/rope.h"

static void angles_are_float_products(void **state)
{
    enum { N = 12000 };
    const struct sk_rope rope = {.dim = 4, .mscale = 1.25f};
    const float inv[2] = {1, 0.0177827941f};
    struct sk_backend *be;
    struct sk_err err;
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);
    assert_int_equal(sk_rope_bytes(&rope, N), N * 2 * 2 * sizeof(float));
    struct sk_dev table = be->alloc(be, sk_rope_bytes(&rope, N));
    assert_int_equal(sk_rope_fill(&rope, inv, N, be, table), 0);

    const float *t = (const float *)(uintptr_t)table.a; /* ref's addresses are the host's */
    assert_true(t[0] == 1.25f && t[1] == 0 && t[2] == 1.25f && t[3] == 0);
    for (int pos = 0; pos < N; pos += 37) {
        for (int i = 0; i < 2; i++) {
            float angle = (float)pos * inv[i];
            assert_true(fabs(t[pos * 4 + i * 2] - 1.25 * cos((double)angle)) < 2e-7);
            assert_true(fabs(t[pos * 4 + i * 2 + 1] - 1.25 * sin((double)angle)) < 2e-7);
        }
    }
    /* At 11,999 the product's rounding shows: 213.376... is not what doubles give. */
    assert_true(fabs(t[11999 * 4 + 3] - 1.25 * sin(11999 * (double)inv[1])) > 1e-6);

    sk_mem_fail_at(1, 0);
    assert_int_equal(sk_rope_fill(&rope, inv, N, be, table), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
    be->free(be, table, sk_rope_bytes(&rope, N));
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles_are_float_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
