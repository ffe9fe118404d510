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
#include "engine/load.h"
#include "tests/unit/engine/enginedir.h"
#include "tests/unit/engine/fixture.h"

static char dir[] = "/tmp/skein-test-load-XXXXXX";

static void on_load(void *arg, uint32_t permille, const char *text)
{
}

static void context_fits_the_cache(void **state)
{
    struct sk_err err = {0};
    struct sk_load l;
    struct sk_conf c;
    struct sk_desc desc;
    fixture_desc(&desc);
    desc.layers[0].window = 16;
    enginedir_write(&desc, SK_F32, dir);
    sk_conf_defaults(&c);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    snprintf(c.device, sizeof c.device, "ref");
    c.max_step_tokens = 64;
    for (c.kv_memory = 32 << 10; c.kv_memory < 128 << 10; c.kv_memory += 5 << 10) {
        if (sk_load_open(&(struct sk_load_conf){.options = &c, .cb = on_load}, &l, &err))
            fail_msg("%s", err.msg);
        struct sk_kvpool_conf pool = {.n_group = 2, .block_tok = SK_KV_BLOCK};
        memcpy(pool.n_blk, l.need.n_blk, sizeof pool.n_blk);
        memcpy(pool.window, l.dir.desc.group_window, sizeof pool.window);
        assert_true(l.rank_conf.max_len >= SK_KV_BLOCK);
        assert_true(sk_sched_fits(&pool, l.rank_conf.max_len, 0));
        sk_load_close(&l);
    }
    c.kv_memory = 25 << 10;
    c.max_model_len = 256; /* asked for: refused */
    assert_int_equal(sk_load_open(&(struct sk_load_conf){.options = &c, .cb = on_load}, &l, &err), -SK_ENOMEM);
    assert_string_equal(err.param, "kv-memory");
}

/* A replay has the recording's blocks, whatever its memory would hold. */
static void replay_has_the_recordings_blocks(void **state)
{
    struct sk_err err = {0};
    struct sk_load l;
    struct sk_conf c;
    struct sk_desc desc;
    fixture_desc(&desc);
    enginedir_write(&desc, SK_F32, dir);
    sk_conf_defaults(&c);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    snprintf(c.device, sizeof c.device, "ref");
    c.max_step_tokens = 64;
    c.kv_memory = 64 << 10;
    assert_int_equal(sk_load_open(&(struct sk_load_conf){.options = &c, .cb = on_load}, &l, &err), 0);
    struct sk_record_head h = {.conf = l.rank_conf};
    sk_rank_limits(l.rank, &h.limits);
    sk_load_close(&l);
    h.limits.n_blk[0] += 3;
    assert_int_equal(sk_load_open(&(struct sk_load_conf){.options = &c, .replay = &h, .cb = on_load}, &l, &err), 0);
    assert_int_equal(l.need.n_blk[0], h.limits.n_blk[0]);
    sk_load_close(&l);
}

static void memory_that_is_not_there_is_refused(void **state)
{
    struct sk_err err = {0};
    struct sk_load l;
    struct sk_conf c;
    sk_conf_defaults(&c);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    snprintf(c.device, sizeof c.device, "ref");
    c.kv_memory = (int64_t)1 << 50;
    assert_int_equal(sk_load_open(&(struct sk_load_conf){.options = &c, .cb = on_load}, &l, &err), -SK_ENOMEM);
    assert_string_equal(err.param, "kv-memory");
    assert_non_null(strstr(err.msg, "available are"));
}

static int make_dir(void **state)
{
    sk_log_level_set(SK_LOG_ERROR);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    enginedir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_fits_the_cache),
        cmocka_unit_test(replay_has_the_recordings_blocks),
        cmocka_unit_test(memory_that_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
