#include "engine/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "engine/model/tune.h"

enum { DEFAULT_SEQ_TOK = 2048 };

/* ---- how much memory there is ---- */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t mem_available(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib ? kib * 1024 : UINT64_MAX;
}

/* A file of one number; "max" or nothing is UINT64_MAX. */
static uint64_t read_number(const char *dir, const char *name)
{
    char path[1200];
    unsigned long long v = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%llu", &v) == 1;
    if (f)
        fclose(f);
    return ok ? v : UINT64_MAX;
}

/* Memory that the kernel would take back from the cgroup's page cache counts as free, as it does in MemAvailable. */
static uint64_t inactive_file(const char *dir)
{
    char path[1200], line[256];
    unsigned long long v = 0;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "inactive_file %llu", &v) == 1)
            break;
    if (f)
        fclose(f);
    return v;
}

/* Every cgroup (v2) above this process may have a limit of its own. */
static uint64_t cgroup_available(void)
{
    char line[1024], dir[1100] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(dir, sizeof dir, "/sys/fs/cgroup%s", line + 3);
        }
    if (f)
        fclose(f);
    uint64_t left = UINT64_MAX;
    while (strlen(dir) > strlen("/sys/fs")) {
        uint64_t max = read_number(dir, "memory.max"), used = read_number(dir, "memory.current");
        if (max != UINT64_MAX && used != UINT64_MAX) {
            used -= min_u64(used, inactive_file(dir));
            left = min_u64(left, max > used ? max - used : 0);
        }
        *strrchr(dir, '/') = '\0';
    }
    return left;
}

uint64_t sk_load_memory(void)
{
    return min_u64(mem_available(), cgroup_available());
}

/* ---- sizes ---- */

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static struct sk_kvpool_conf pool_conf(const struct sk_load *l, const struct sk_conf *conf)
{
    struct sk_kvpool_conf c = {.n_group = l->dir.desc.n_group,
                               .block_tok = SK_KV_BLOCK,
                               .keep = conf->prefix_cache,
                               .classes_equal = l->be->classes_equal};
    for (uint32_t g = 0; g < c.n_group; g++) {
        c.window[g] = l->dir.desc.group_window[g];
        c.n_blk[g] = l->need.n_blk[g];
    }
    return c;
}

static int plan_rank(struct sk_load *l, struct sk_err *err)
{
    return sk_rank_plan(&l->dir, &l->weights, l->be, &l->rank_conf, &l->need, err);
}

/* What one sequence of max_len tokens takes is the same for every KV size; a size that holds something is needed to
 * ask. */
static int default_kv(struct sk_load *l, const struct sk_conf *conf, uint64_t memory, struct sk_err *err)
{
    struct sk_rank_conf *rc = &l->rank_conf;
    rc->kv_bytes = (uint64_t)1 << 40;
    int ret = plan_rank(l, err);
    if (ret)
        return ret;
    uint32_t len = rc->max_len < DEFAULT_SEQ_TOK ? rc->max_len : DEFAULT_SEQ_TOK;
    uint64_t want = (uint64_t)conf->max_seqs * sk_kv_blocks(len) * l->need.kv_block;
    uint64_t one = (uint64_t)sk_kv_blocks(rc->max_len) * l->need.kv_block;
    rc->kv_bytes = min_u64(want > one ? want : one, memory / 2);
    return 0;
}

/* The longest context that the cache holds, at most max_len. */
static uint32_t longest_context(const struct sk_kvpool_conf *pool, uint32_t max_len)
{
    uint32_t low = 1, high = max_len;
    while (low < high) {
        uint32_t mid = low + (high - low + 1) / 2;
        if (sk_sched_fits(pool, mid, 0))
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

/* A context that was not asked for shrinks to what the cache holds; one that was is refused. The cache is divided anew
 * for each context: with groups of several windows one step of shrinking may not be enough. */
static int fit_context(struct sk_load *l, const struct sk_conf *conf, struct sk_err *err)
{
    uint32_t full = l->rank_conf.max_len;
    for (;;) {
        struct sk_kvpool_conf pool = pool_conf(l, conf);
        uint32_t len = longest_context(&pool, l->rank_conf.max_len);
        if (len == l->rank_conf.max_len)
            break;
        if (conf->max_model_len > 0)
            return sk_err_set(
                err, SK_ENOMEM, "kv-memory",
                "KV memory of %.1f MiB holds %u blocks of %d tokens, one sequence of --max-model-len %u needs more",
                mib(l->need.kv), l->need.n_blk[0], SK_KV_BLOCK, full);
        l->rank_conf.max_len = len;
        int rc = plan_rank(l, err);
        if (rc)
            return rc;
    }
    if (l->rank_conf.max_len < full)
        sk_log(SK_LOG_WARN,
               "KV memory of %.1f MiB does not hold a sequence of the model's %u tokens: the context is %u tokens",
               mib(l->need.kv), full, l->rank_conf.max_len);
    return 0;
}

static int plan_memory(struct sk_load *l, const struct sk_conf *conf, struct sk_err *err)
{
    uint64_t memory = sk_load_memory();
    struct sk_rank_conf *c = &l->rank_conf;
    uint32_t max_len = l->dir.desc.max_len;
    if (conf->max_model_len > max_len)
        return sk_err_set(err, SK_ERANGE, "max-model-len", "--max-model-len %lld: the model was made for %u tokens",
                          (long long)conf->max_model_len, max_len);
    /* every running sequence must get its row in a step */
    uint32_t max_seqs = (uint32_t)(conf->max_seqs < conf->max_step_tokens ? conf->max_seqs : conf->max_step_tokens);
    *c = (struct sk_rank_conf){.max_slot = max_seqs,
                               .max_len = conf->max_model_len ? (uint32_t)conf->max_model_len : max_len,
                               .max_row = (uint32_t)conf->max_step_tokens,
                               .max_result = (uint32_t)conf->max_step_tokens,
                               .kv_bytes = (uint64_t)conf->kv_memory};
    int rc = sk_dtype_find(conf->kv_dtype, &c->kv_dtype);
    if (!rc && !conf->kv_memory)
        rc = default_kv(l, conf, memory, err);
    if (!rc)
        rc = plan_rank(l, err);
    if (!rc)
        rc = fit_context(l, conf, err);
    if (rc)
        return rc;
    const struct sk_rank_need *n = &l->need;
    uint64_t total = n->weights + n->kv + n->scratch + n->slots;
    sk_log(SK_LOG_INFO,
           "memory: weights %.1f MiB, KV cache %.1f MiB (%s, %u blocks of %d tokens), scratch %.1f MiB, slots %.1f "
           "MiB; %.1f MiB of %.1f available",
           mib(n->weights), mib(n->kv), sk_dtype_name(c->kv_dtype), n->n_blk[0], SK_KV_BLOCK, mib(n->scratch),
           mib(n->slots), mib(total), mib(memory));
    if (total > memory)
        return sk_err_set(err, SK_ENOMEM, "kv-memory",
                          "weights (%.1f MiB), KV cache (%.1f MiB), scratch and slots (%.1f MiB) take %.1f MiB, "
                          "available are %.1f MiB",
                          mib(n->weights), mib(n->kv), mib(n->scratch + n->slots), mib(total), mib(memory));
    return 0;
}

/* ---- opening ---- */

static int open_backend(const struct sk_conf *conf, struct sk_backend **ret, struct sk_err *err)
{
    struct sk_backend_conf bc = {.n_thread = (int)conf->threads, .pin = conf->pin};
    struct sk_tuning tuning;
    if (strcmp(conf->device, "ref") == 0)
        return sk_ref_open(&bc, ret, err);
    if (!sk_tune_load(conf->dir, (uint32_t)conf->threads, &tuning)) {
        bc.n_thread = (int)tuning.n_thread;
        bc.tune = &tuning.tune;
    }
    int rc = sk_cpu_open(&bc, ret, err);
    if (rc != -SK_EUNSUP)
        return rc;
    sk_log(SK_LOG_WARN, "%s: falling back to the plain C backend, which is slow", err->msg);
    return sk_ref_open(&bc, ret, err);
}

int sk_load_open(const struct sk_conf *conf, const struct sk_record_head *replay, sk_load_cb *cb, void *arg,
                 struct sk_load *ret, struct sk_err *err)
{
    struct sk_load *l = ret;
    *l = (struct sk_load){0};
    cb(arg, 0, "opening the engine directory");
    int rc = sk_dir_open(conf->dir, &l->dir, err);
    if (!rc)
        rc = sk_weights_open(conf->dir, SK_WEIGHTS_LAZY, &l->weights, err);
    if (!rc)
        rc = open_backend(conf, &l->be, err);
    if (rc)
        goto out;
    snprintf(l->isa, sizeof l->isa, "%s/%s", l->be->name, l->be->isa);
    if (replay)
        l->rank_conf = replay->conf;
    rc = replay ? plan_rank(l, err) : plan_memory(l, conf, err);
    if (rc)
        goto out;
    cb(arg, 200, "loading weights");
    sk_weights_close(&l->weights); /* it was mapped for its table only: now it is known to fit */
    rc = sk_weights_open(conf->dir, conf->huge_pages ? SK_WEIGHTS_HUGE : SK_WEIGHTS_AHEAD, &l->weights, err);
    if (rc)
        goto out;
    rc = sk_rank_open(&l->dir, &l->weights, l->be, NULL, &l->rank_conf, &l->rank, err);
    if (rc)
        goto out;
    cb(arg, 800, "self-test");
    uint64_t t0 = sk_clock_us();
    rc = sk_rank_selfcheck(l->rank, err);
    l->selftest_us = sk_clock_us() - t0;
out:
    if (rc)
        sk_load_close(l);
    return rc;
}

void sk_load_close(struct sk_load *l)
{
    sk_rank_close(l->rank);
    if (l->be)
        l->be->close(l->be);
    if (l->weights.base)
        sk_weights_close(&l->weights);
    sk_dir_close(&l->dir);
    *l = (struct sk_load){0};
}

uint64_t sk_load_step_bytes(const struct sk_load *l)
{
    const struct sk_dir_entry *embed = l->dir.desc.tied ? NULL : sk_weights_find(&l->weights, "embed");
    return l->need.weights - (embed ? embed->bytes : 0);
}

/* ---- the batch manager ---- */

static struct sk_record_head record_head(const struct sk_load *l)
{
    struct sk_record_head h = {.conf = l->rank_conf};
    snprintf(h.digest, sizeof h.digest, "%s", l->dir.digest);
    snprintf(h.isa, sizeof h.isa, "%s", l->isa);
    sk_rank_limits(l->rank, &h.limits);
    return h;
}

static bool holds_spare(const struct sk_loop_conf *lc, const struct sk_rank_need *n)
{
    for (uint32_t g = 0; g < lc->kv.n_group; g++)
        if (n->n_blk[g] < lc->kv.n_blk[g] + sk_flight_spare(&lc->kv, g, lc->max_len, lc->max_row))
            return false;
    return true;
}

/* The rank on which a segment of the flight recorder is replayed: this one with a slot more, and with memory for the
 * spare blocks, which is found by asking. */
static int flight_head(const struct sk_load *l, const struct sk_loop_conf *lc, struct sk_record_head *ret,
                       struct sk_err *err)
{
    struct sk_record_head h = record_head(l);
    struct sk_rank_need need = l->need;
    uint64_t step = need.kv_block;
    h.conf.max_slot++;
    while (!holds_spare(lc, &need)) {
        h.conf.kv_bytes += step;
        step *= 2;
        int rc = sk_rank_plan(&l->dir, &l->weights, l->be, &h.conf, &need, err);
        if (rc)
            return rc;
    }
    h.limits.max_slot = h.conf.max_slot;
    memcpy(h.limits.n_blk, need.n_blk, sizeof h.limits.n_blk);
    *ret = h;
    return 0;
}

static int open_recorders(const struct sk_load *l, const struct sk_conf *conf, const struct sk_loop_conf *lc,
                          struct sk_load_loop *ret, struct sk_err *err)
{
    struct sk_record_head h = record_head(l);
    int rc = 0;
    if (conf->record[0])
        rc = sk_record_open(conf->record, &h, l->rank_conf.max_result, &ret->record, err);
    if (!rc && conf->board_fd >= 0)
        rc = sk_board_map((int)conf->board_fd, &ret->board, err);
    if (rc || ret->board.max_plan == 0)
        return rc;
    rc = flight_head(l, lc, &h, err);
    return rc ? rc : sk_flight_open(&ret->board, &h, lc, &ret->flight, err);
}

int sk_load_loop_open(const struct sk_load *l, const struct sk_conf *conf, struct sk_load_loop *ret, struct sk_err *err)
{
    struct sk_loop_conf lc = {.max_seqs = l->rank_conf.max_slot,
                              .max_row = l->rank_conf.max_row,
                              .max_len = l->rank_conf.max_len,
                              .max_queue = l->rank_conf.max_slot, /* on their way: the daemon keeps the queue */
                              .no_evict = strcmp(conf->admission, "no-evict") == 0,
                              .draft.max = conf->prompt_lookup ? (uint32_t)conf->max_draft : 0,
                              .times_chunks = true,
                              .itl_target_us = 1000.0 * (double)conf->itl_target_ms,
                              .prompt_row_us = (double)l->selftest_us / SK_SELFTEST_TOKENS,
                              .kv = pool_conf(l, conf),
                              .n_vocab = l->dir.desc.n_vocab,
                              .n_eos = l->dir.n_eos,
                              .rank = l->rank,
                              .n_thread = l->be->n_thread};
    memcpy(lc.eos, l->dir.eos, sizeof lc.eos);
    snprintf(lc.digest, sizeof lc.digest, "%s", l->dir.digest);
    *ret = (struct sk_load_loop){0};
    int rc = open_recorders(l, conf, &lc, ret, err);
    if (!rc) {
        lc.record = ret->record;
        lc.board = ret->board.head ? &ret->board : NULL;
        lc.flight = ret->flight;
        rc = sk_loop_open(&lc, &ret->loop, err);
    }
    if (rc)
        sk_load_loop_close(ret);
    else if (lc.board)
        sk_rank_watch(lc.rank, &lc.board->head->progress);
    return rc;
}

void sk_load_loop_close(struct sk_load_loop *l)
{
    if (l->loop)
        sk_rank_watch(l->loop->conf.rank, NULL); /* the rank lives on, the board does not */
    sk_loop_close(l->loop);
    sk_flight_close(l->flight);
    sk_record_close(l->record);
    sk_board_unmap(&l->board);
    *l = (struct sk_load_loop){0};
}
