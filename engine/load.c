#include "engine/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/group/world.h"
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

/* ---- several ranks ---- */

/* One rank's failure is everyone's. */
static int agree(const struct sk_load *l, int rc, struct sk_err *err)
{
    return l->world ? sk_world_check(l->world, rc, err) : rc;
}

static int same(const struct sk_load *l, const char *what, const char *text, struct sk_err *err)
{
    return l->world ? sk_world_same(l->world, what, text, err) : 0;
}

/* Each is what the rank that has least can do. */
static int least(const struct sk_load *l, uint32_t *v, uint32_t n, struct sk_err *err)
{
    int rc = l->world ? sk_world_min(l->world, v, n) : 0;
    return rc ? sk_err_set(err, -rc, NULL, "a rank was lost while it loaded") : 0;
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

/* In as many blocks as all ranks can hold. */
static int plan_rank(struct sk_load *l, struct sk_err *err)
{
    int rc = agree(l, sk_rank_plan(&l->dir, &l->weights, l->be, &l->grid, &l->rank_conf, &l->need, err), err);
    return rc ? rc : least(l, l->need.n_blk, l->dir.desc.n_group, err);
}

static uint32_t n_here(const struct sk_load *l)
{
    return l->world ? (uint32_t)l->world->n_local : 1;
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
    rc->kv_bytes = min_u64(want > one ? want : one, memory / 2 / n_here(l));
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

/* What a rank takes of its host. */
struct demand {
    int host;
    uint64_t weights, kv, rest, memory;
    char host_name[SK_WORLD_HOST_MAX];
};

static struct demand demand_of(const struct sk_load *l, uint64_t memory)
{
    const struct sk_rank_need *n = &l->need;
    struct demand d = {.weights = n->weights, .kv = n->kv, .rest = n->scratch + n->slots, .memory = memory};
    if (l->world) {
        d.host = l->world->host;
        memcpy(d.host_name, l->world->host_name, sizeof d.host_name);
    }
    return d;
}

/* All ranks of a host draw on the same memory, and one that is in a cgroup of its own has less. */
static int check_host(const struct demand *d, size_t n, int host, struct sk_err *err)
{
    struct demand sum = {.memory = UINT64_MAX};
    char who[SK_WORLD_HOST_MAX + 40] = "";
    int n_rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (d[i].host != host)
            continue;
        sum.weights += d[i].weights;
        sum.kv += d[i].kv;
        sum.rest += d[i].rest;
        sum.memory = min_u64(sum.memory, d[i].memory);
        if (++n_rank > 1)
            snprintf(who, sizeof who, " of the %d ranks on %s", n_rank, d[i].host_name);
    }
    const uint64_t total = sum.weights + sum.kv + sum.rest;
    if (total <= sum.memory)
        return 0;
    return sk_err_set(
        err, SK_ENOMEM, "kv-memory",
        "weights (%.1f MiB), KV cache (%.1f MiB), scratch and slots (%.1f MiB)%s take %.1f MiB, available "
        "are %.1f MiB",
        mib(sum.weights), mib(sum.kv), mib(sum.rest), who, mib(total), mib(sum.memory));
}

static int check_memory(const struct sk_load *l, uint64_t memory, struct sk_err *err)
{
    const struct demand own = demand_of(l, memory);
    char *all = NULL;
    size_t n = sizeof own;
    int rc = l->world ? sk_world_gather(l->world, &own, sizeof own, &all, &n) : 0;
    if (rc)
        sk_err_set(err, -rc, NULL, "a rank was lost while it loaded");
    const struct demand *d = l->world ? (const void *)all : &own;
    for (int host = 0; !rc && d && host < (l->world ? l->world->n_host : 1); host++)
        rc = check_host(d, n / sizeof own, host, err);
    sk_free(all);
    return agree(l, rc, err);
}

static void say_plan(const struct sk_load *l, uint64_t memory)
{
    const struct sk_rank_need *n = &l->need;
    sk_log(SK_LOG_INFO,
           "memory: weights %.1f MiB, KV cache %.1f MiB (%s, %u blocks of %d tokens), scratch %.1f MiB, slots %.1f "
           "MiB; %.1f MiB of %.1f available",
           mib(n->weights), mib(n->kv), sk_dtype_name(l->rank_conf.kv_dtype), n->n_blk[0], SK_KV_BLOCK, mib(n->scratch),
           mib(n->slots), mib(n->weights + n->kv + n->scratch + n->slots), mib(memory));
}

static int plan_memory(struct sk_load *l, const struct sk_conf *conf, struct sk_err *err)
{
    const uint64_t memory = sk_load_memory();
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
    if (l->world) { /* blocks that another rank has no room for are not made here either */
        memcpy(c->n_blk, l->need.n_blk, sizeof c->n_blk);
        rc = plan_rank(l, err);
        if (rc)
            return rc;
    }
    say_plan(l, memory);
    return check_memory(l, memory, err);
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

/* Ranks that would compute something else are refused before any of them loads. */
static int compare_ranks(const struct sk_load *l, const struct sk_conf *conf, struct sk_err *err)
{
    int rc = same(l, "the engine directory", l->dir.digest, err);
    return rc || conf->allow_mixed_isa ? rc : same(l, "the ISA level (see --allow-mixed-isa)", l->isa, err);
}

static uint32_t max_rows(const struct sk_load_conf *c)
{
    return c->replay ? c->replay->conf.max_row : (uint32_t)c->options->max_step_tokens;
}

static int connect_world(struct sk_load *l, const struct sk_load_conf *c, struct sk_err *err)
{
    l->grid.narrow = strcmp(c->options->stage_dtype, "bf16") == 0;
    l->grid.timeline = c->timeline;
    if (!l->world)
        return 0;
    int rc = sk_world_connect(l->world, max_rows(c), (l->dir.desc.n_embd + 15) / 16 * 16, err);
    l->grid.tp = l->world->tp;
    l->grid.pp = l->world->pp;
    return rc;
}

/* A recording says how many blocks there were; the ranks that play it may be others. */
static int plan_replay(struct sk_load *l, const struct sk_record_head *replay, struct sk_err *err)
{
    l->rank_conf = replay->conf;
    memcpy(l->rank_conf.n_blk, replay->limits.n_blk, sizeof l->rank_conf.n_blk);
    return plan_rank(l, err);
}

static int open_files(struct sk_load *l, const struct sk_conf *conf, struct sk_err *err)
{
    int rc = sk_dir_open(conf->dir, &l->dir, err);
    if (!rc)
        rc = sk_weights_open(conf->dir, conf->huge_pages ? SK_WEIGHTS_HUGE : SK_WEIGHTS_AHEAD, &l->weights, err);
    if (!rc)
        rc = open_backend(conf, &l->be, err);
    if (!rc)
        snprintf(l->isa, sizeof l->isa, "%s/%s", l->be->name, l->be->isa);
    return agree(l, rc, err);
}

int sk_load_open(const struct sk_load_conf *c, struct sk_load *ret, struct sk_err *err)
{
    struct sk_load *l = ret;
    *l = (struct sk_load){.world = c->world};
    c->cb(c->arg, 0, "opening the engine directory");
    int rc = open_files(l, c->options, err);
    if (!rc)
        rc = compare_ranks(l, c->options, err);
    if (!rc)
        rc = connect_world(l, c, err);
    if (!rc)
        rc = c->replay ? plan_replay(l, c->replay, err) : plan_memory(l, c->options, err);
    if (rc)
        goto out;
    c->cb(c->arg, 200, "loading weights");
    rc = agree(l, sk_rank_open(&l->dir, &l->weights, l->be, &l->grid, &l->rank_conf, &l->rank, err), err);
    if (rc)
        goto out;
    c->cb(c->arg, 800, "self-test");
    uint64_t t0 = sk_clock_us();
    rc = agree(l, sk_rank_selfcheck(l->rank, err), err);
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
    const struct sk_dir_entry *embed = l->dir.desc.tied || l->world ? NULL : sk_weights_find(&l->weights, "embed");
    return l->need.weights - (embed ? embed->bytes : 0);
}

/* ---- the batch manager ---- */

static uint16_t n_tp(const struct sk_load *l)
{
    return l->world ? (uint16_t)l->world->n_tp : 1;
}

static uint16_t n_pp(const struct sk_load *l)
{
    return l->world ? (uint16_t)l->world->n_pp : 1;
}

int sk_load_crew(const struct sk_load *l, struct sk_crew **ret, struct sk_err *err)
{
    const struct sk_crew_conf c = {.rank = l->rank, .world = l->world, .need = &l->need};
    return sk_crew_open(&c, ret, err);
}

int sk_load_follow(const struct sk_load *l, struct sk_err *err)
{
    struct sk_crew *crew;
    int rc = sk_load_crew(l, &crew, err);
    if (rc)
        return rc;
    rc = sk_crew_follow(crew, err);
    sk_crew_close(crew);
    return rc;
}

static struct sk_record_head record_head(const struct sk_load *l)
{
    struct sk_record_head h = {.conf = l->rank_conf, .n_tp = n_tp(l), .n_pp = n_pp(l)};
    snprintf(h.digest, sizeof h.digest, "%s", l->dir.digest);
    snprintf(h.isa, sizeof h.isa, "%s", l->isa);
    sk_rank_limits(l->rank, &h.limits);
    return h;
}

/* The ranks on which a segment of the flight recorder is replayed: these with a slot more, and with the spare blocks.
 */
static struct sk_record_head flight_head(const struct sk_load *l, const struct sk_loop_conf *lc)
{
    struct sk_record_head h = record_head(l);
    h.conf.max_slot = ++h.limits.max_slot;
    for (uint32_t g = 0; g < lc->kv.n_group; g++)
        h.limits.n_blk[g] = h.conf.n_blk[g] = lc->kv.n_blk[g] + sk_flight_spare(&lc->kv, g, lc->max_len, lc->max_row);
    return h;
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
    h = flight_head(l, lc);
    return sk_flight_open(&ret->board, &h, lc, &ret->flight, err);
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
                              .n_thread = l->be->n_thread * n_tp(l),
                              .sends_seats = conf->connect[0] && conf->board_fd < 0,
                              .timeline = l->grid.timeline};
    memcpy(lc.eos, l->dir.eos, sizeof lc.eos);
    snprintf(lc.digest, sizeof lc.digest, "%s", l->dir.digest);
    *ret = (struct sk_load_loop){.rank = l->rank};
    int rc = sk_load_crew(l, &ret->crew, err);
    if (!rc)
        rc = open_recorders(l, conf, &lc, ret, err);
    if (!rc) {
        lc.crew = ret->crew;
        lc.record = ret->record;
        lc.board = ret->board.head ? &ret->board : NULL;
        lc.flight = ret->flight;
        rc = sk_loop_open(&lc, &ret->loop, err);
    }
    if (rc)
        sk_load_loop_close(ret);
    else if (lc.board)
        sk_rank_watch(l->rank, &lc.board->head->progress);
    return rc;
}

void sk_load_loop_close(struct sk_load_loop *l)
{
    if (l->rank)
        sk_rank_watch(l->rank, NULL); /* the rank lives on, the board does not */
    sk_loop_close(l->loop);
    sk_crew_close(l->crew);
    sk_flight_close(l->flight);
    sk_record_close(l->record);
    sk_board_unmap(&l->board);
    *l = (struct sk_load_loop){0};
}
