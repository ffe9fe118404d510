/* Opening a rank as the options say: a context that was not asked for shrinks until the cache holds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/log.h"
#include "engine/build/skw.h"
#include "engine/load.h"
#include "tests/unit/engine/fixture.h"

static char dir[] = "/tmp/skein-test-load-XXXXXX";

static void on_load(void *arg, uint32_t permille, const char *text)
{
}

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

/* An engine directory of two layers, the first with a window: two groups of KV blocks. */
static void write_dir(uint32_t window)
{
    struct sk_err err = {0};
    struct sk_desc desc;
    struct fixture f;
    struct sk_skw w;
    fixture_desc(&desc);
    desc.layers[0].window = window;
    fixture_open(&f, &desc, SK_F32, 1);
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

static void context_fits_the_cache(void **state)
{
    struct sk_err err = {0};
    struct sk_load l;
    struct sk_conf c;
    write_dir(16);
    sk_conf_defaults(&c);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    snprintf(c.device, sizeof c.device, "ref");
    c.max_step_tokens = 64;
    for (c.kv_memory = 32 << 10; c.kv_memory < 128 << 10; c.kv_memory += 5 << 10) {
        if (sk_load_open(&c, NULL, on_load, NULL, &l, &err))
            fail_msg("%s", err.msg);
        struct sk_kvpool_conf pool = {.n_group = 2, .block_tok = SK_KV_BLOCK};
        memcpy(pool.n_blk, l.need.n_blk, sizeof pool.n_blk);
        memcpy(pool.window, l.dir.desc.group_window, sizeof pool.window);
        assert_true(l.rank_conf.max_len >= SK_KV_BLOCK);
        assert_true(sk_sched_fits(&pool, l.rank_conf.max_len, 0));
        sk_load_close(&l);
    }
    c.kv_memory = 50 << 10;
    c.max_model_len = 256; /* asked for: refused */
    assert_int_equal(sk_load_open(&c, NULL, on_load, NULL, &l, &err), -SK_ENOMEM);
    assert_string_equal(err.param, "kv-memory");
}

static int make_dir(void **state)
{
    sk_log_level_set(SK_LOG_ERROR);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char path[64];
    snprintf(path, sizeof path, "%s/weights.skw", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_fits_the_cache),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
