#include "tests/unit/engine/enginedir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/build/skw.h"
#include "engine/model/step.h"
#include "tests/unit/engine/fixture.h"

/* What skein-build would measure: the self-test through the reference backend. */
static void measure_selftest(struct fixture *f)
{
    struct sk_err err = {0};
    struct sk_backend *be;
    struct sk_rank *rank;
    struct sk_rank_conf conf = {
        .max_slot = 1, .max_len = 64, .max_row = 16, .max_result = 16, .kv_bytes = 1 << 20, .kv_dtype = SK_F32};
    assert_int_equal(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), 0);
    assert_int_equal(sk_rank_open(&f->dir, &f->w, be, NULL, &conf, &rank, &err), 0);
    assert_int_equal(sk_rank_selftest(rank, f->dir.selftest_logprobs, &err), 0);
    sk_rank_close(rank);
    be->close(be);
}

void enginedir_write(const struct sk_desc *desc, enum sk_dtype dtype, const char *dir)
{
    struct sk_err err = {0};
    struct fixture f;
    struct sk_skw w;
    fixture_open(&f, desc, dtype, 1);
    measure_selftest(&f);
    assert_int_equal(sk_skw_open(&w, dir, f.w.n_tensor, sk_skw_size(f.w.n_tensor, f.w.bytes), &err), 0);
    for (uint32_t i = 0; i < f.w.n_tensor; i++) {
        struct sk_dir_entry e = f.w.tensors[i];
        e.cut_unit = 1;
        assert_int_equal(sk_skw_add(&w, &e, sk_weights_data(&f.w, &f.w.tensors[i]), &err), 0);
    }
    assert_int_equal(sk_skw_finish(&w, &err), 0);
    sk_skw_close(&w);
    assert_int_equal(sk_dir_save(&f.dir, dir, &err), 0);
    fixture_close(&f);
}

void enginedir_remove(const char *dir)
{
    static const char *const files[] = {"weights.skw", "config.json"};
    char path[256];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}
