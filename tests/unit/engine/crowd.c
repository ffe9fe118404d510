#include "tests/unit/engine/crowd.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/group/group.h"

enum { PLAN_BYTES = 1 << 20 };

struct member {
    const struct crowd *crowd;
    uint32_t id;
    void *tp_mem, *pp_mem; /* of the groups that it is in */
    struct sk_rank_conf conf;
    crowd_fn *fn;
    void *arg;
    pthread_t thread;
};

static struct sk_group_shm_conf group_conf(const struct crowd *c, uint32_t rank, uint32_t size)
{
    size_t words = (size_t)c->conf.max_row * SK_ALIGN16(c->dir->desc.n_embd);
    return (struct sk_group_shm_conf){.rank = (int)rank, .size = (int)size, .window_words = words, .room_words = words};
}

static void *group_memory(const struct crowd *c, uint32_t size)
{
    struct sk_group_shm_conf conf = group_conf(c, 0, size);
    size_t n = (sk_group_shm_bytes(&conf) + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, n);
    sk_assert(p);
    return memset(p, 0, n);
}

static void must(int rc, const struct sk_err *err)
{
    if (rc)
        fprintf(stderr, "%s\n", err->msg);
    sk_assert(rc == 0);
}

static void *run_member(void *arg)
{
    struct member *m = arg;
    const struct crowd *c = m->crowd;
    struct sk_grid grid = {.narrow = c->narrow};
    struct sk_group_shm_conf tp = group_conf(c, m->id % c->n_tp, c->n_tp), pp = group_conf(c, m->id / c->n_tp, c->n_pp);
    struct sk_weights own = {0};
    struct sk_err err = {0};
    struct sk_backend *be;
    struct sk_rank *rank;
    if (c->path)
        must(sk_weights_open(c->path, SK_WEIGHTS_HUGE, &own, &err), &err);
    must(c->backend(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), &err);
    sk_assert(c->n_tp == 1 || sk_group_shm(&tp, m->tp_mem, &grid.tp) == 0);
    sk_assert(c->n_pp == 1 || sk_group_shm(&pp, m->pp_mem, &grid.pp) == 0);
    must(sk_rank_open(c->dir, c->path ? &own : c->w, be, &grid, &m->conf, &rank, &err), &err);
    m->fn(m->arg, m->id, rank);
    sk_rank_close(rank);
    if (grid.tp)
        grid.tp->close(grid.tp);
    if (grid.pp)
        grid.pp->close(grid.pp);
    if (c->path)
        sk_weights_close(&own);
    be->close(be);
    return NULL;
}

/* Block numbers are everybody's: as many as one rank with all of the memory would have. */
static struct sk_rank_conf with_blocks(const struct crowd *c)
{
    struct sk_rank_conf conf = c->conf;
    struct sk_rank_need need;
    struct sk_backend *be;
    struct sk_err err = {0};
    must(c->backend(&(struct sk_backend_conf){.n_thread = 1}, &be, &err), &err);
    must(sk_rank_plan(c->dir, c->w, be, NULL, &conf, &need, &err), &err);
    memcpy(conf.n_blk, need.n_blk, sizeof conf.n_blk);
    be->close(be);
    return conf;
}

void crowd_run(const struct crowd *c, crowd_fn *fn, void *arg)
{
    struct member m[CROWD_MAX];
    void *tp_mem[CROWD_MAX], *pp_mem[CROWD_MAX];
    uint32_t n = c->n_tp * c->n_pp;
    struct sk_rank_conf conf = with_blocks(c);
    sk_assert(n <= CROWD_MAX);
    for (uint32_t s = 0; s < c->n_pp; s++)
        tp_mem[s] = group_memory(c, c->n_tp);
    for (uint32_t t = 0; t < c->n_tp; t++)
        pp_mem[t] = group_memory(c, c->n_pp);
    for (uint32_t i = 0; i < n; i++) {
        m[i] = (struct member){.crowd = c,
                               .id = i,
                               .tp_mem = tp_mem[i / c->n_tp],
                               .pp_mem = pp_mem[i % c->n_tp],
                               .conf = conf,
                               .fn = fn,
                               .arg = arg};
        sk_assert(pthread_create(&m[i].thread, NULL, run_member, &m[i]) == 0);
    }
    for (uint32_t i = 0; i < n; i++)
        sk_assert(pthread_join(m[i].thread, NULL) == 0);
    for (uint32_t s = 0; s < c->n_pp; s++)
        free(tp_mem[s]);
    for (uint32_t t = 0; t < c->n_tp; t++)
        free(pp_mem[t]);
}

/* ---- a sequence ---- */

static void put_opening(struct sk_buf *b, const struct crowd_text *t, uint32_t n_group)
{
    struct sk_plan_open open = {.n_prompt = t->n_prompt, .seq = 1, .params = t->params};
    int32_t blk[64];
    uint32_t n = sk_kv_blocks(t->n_prompt + t->n_new);
    sk_assert(n <= 64);
    for (uint32_t i = 0; i < n; i++)
        blk[i] = (int32_t)i;
    sk_plan_put_open(b, &open, NULL);
    for (uint32_t g = 0; g < n_group; g++)
        sk_plan_put_append(b, 0, g, blk, n);
    sk_plan_put_tok(b, 0, 0, t->prompt, t->n_prompt);
}

/* Runs the plan; the number of rows that it gave, 0 where another stage has them. */
static uint32_t go(struct sk_rank *rank, struct sk_buf *b, uint32_t n_row, uint32_t n_result, struct sk_result_row *ret)
{
    const struct sk_result_row *rows;
    struct sk_err err = {0};
    uint32_t n;
    sk_assert(sk_plan_end(b, n_row, n_result) == 0);
    must(sk_rank_step(rank, b->p, b->n, &err), &err);
    must(sk_rank_wait(rank, &rows, &n, &err), &err);
    sk_assert(n == n_result || n == 0);
    if (n)
        memcpy(ret, rows, n * sizeof *rows);
    return n;
}

void crowd_generate(struct sk_rank *rank, const struct crowd_text *t, struct sk_result_row *ret)
{
    struct sk_plan_limits lim;
    struct sk_buf b;
    uint64_t step = 0;
    sk_rank_limits(rank, &lim);
    sk_buf_init(&b, PLAN_BYTES);
    for (uint32_t pos = 0; pos < t->n_prompt; pos += t->chunk) {
        uint32_t n = t->n_prompt - pos < t->chunk ? t->n_prompt - pos : t->chunk;
        bool last = pos + n == t->n_prompt;
        sk_plan_begin(&b, step++);
        if (pos == 0)
            put_opening(&b, t, lim.n_group);
        sk_plan_put_run(&b, 0, pos, n, SK_RUN_PROMPT_LOGPROBS | (last && t->n_new ? SK_RUN_SAMPLE : 0), 0);
        ret += go(rank, &b, n, n - last + (last && t->n_new), ret);
    }
    for (uint32_t i = 1; i < t->n_new; i++) {
        uint32_t pos = t->n_prompt + i - 1;
        sk_plan_begin(&b, step++);
        if (t->told)
            sk_plan_put_tok(&b, 0, pos, &t->told[i - 1].id, 1);
        sk_plan_put_run(&b, 0, pos, 1, SK_RUN_SAMPLE, 0);
        ret += go(rank, &b, 1, 1, ret);
    }
    sk_plan_begin(&b, step++);
    sk_plan_put_close(&b, 0);
    go(rank, &b, 0, 0, ret);
    sk_buf_done(&b);
}
