#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "comm/group/group.h"
#include "kernels/kernels.h"

static void a_group_of_one_sums_and_gathers_itself(void **state)
{
    struct sk_group *g;
    struct sk_backend *be;
    struct sk_err err;
    const float x[3] = {1, 2, 3};
    assert_int_equal(sk_group_self(&g), 0);
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);
    assert_true(g->rank == 0 && g->size == 1);

    struct sk_dev src = be->alloc(be, sizeof x), dst = be->alloc(be, sizeof x);
    be->upload(be, src, x, sizeof x);
    assert_int_equal(g->all_reduce(g, be, src.a, 3), 0);
    assert_int_equal(g->all_gather(g, be, dst.a, src.a, 3), 0);
    assert_memory_equal((const void *)(uintptr_t)dst.a, x, sizeof x); /* ref's addresses are the host's */
    assert_int_equal(g->all_gather(g, be, src.a, src.a, 3), 0);
    assert_memory_equal((const void *)(uintptr_t)src.a, x, sizeof x);

    assert_int_equal(g->bcast(g, (void *)(uintptr_t)dst.a, sizeof x, 0), 0);
    assert_int_equal(g->barrier(g), 0);
    assert_int_equal(g->send(g, be, src.a, 3, 0), -SK_EINTERNAL);
    assert_int_equal(g->recv(g, be, dst.a, 3, 0), -SK_EINTERNAL);
    be->free(be, src, sizeof x);
    be->free(be, dst, sizeof x);
    be->close(be);
    g->close(g);
}

static void lack_of_memory_is_said(void **state)
{
    struct sk_group *g;
    sk_mem_fail_at(1, 0);
    assert_int_equal(sk_group_self(&g), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_of_one_sums_and_gathers_itself),
        cmocka_unit_test(lack_of_memory_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
