/* Same request, same bits: the tokens and log-probs of a request do not depend on what else is in the batch, on
 * chunking, on a prefix-cache hit, on preemption, on the number of threads, on a restart or on drafts. On small random
 * models, on every backend of this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "tests/unit/engine/batch/front.h"
#include "tests/unit/engine/fixture.h"
#include "tests/unit/engine/requests.h"
#include "tests/unit/kernels/emulated_amx.h"
#include "tests/unit/kernels/kern.h"

typedef int open_fn(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

struct model {
    const char *name;
    open_fn *open;
    enum sk_dtype dtype, kv_dtype;
    uint32_t window; /* of the second layer */
    bool wide;       /* SmolLM2's widths, so that rows meet every tile of the kernels */
};
static const struct model models[] = {
    {"ref f32", sk_ref_open, SK_F32, SK_F32, 0, false},
    {"ref q8, window", sk_ref_open, SK_Q8, SK_Q8, 40, false},
    {"cpu f32", sk_cpu_open, SK_F32, SK_F32, 0, false},
    {"cpu bf16", sk_cpu_open, SK_BF16, SK_BF16, 0, false},
    {"cpu q8", sk_cpu_open, SK_Q8, SK_F32, 0, false},
    {"cpu q4, window", sk_cpu_open, SK_Q4, SK_BF16, 40, false},
    {"cpu q4, wide", sk_cpu_open, SK_Q4, SK_BF16, 0, true},
    {"cpu bf16, wide", sk_cpu_open, SK_BF16, SK_Q8, 0, true},
    {"emulated amx q4, window", emulated_amx_open, SK_Q4, SK_BF16, 40, false}, /* its classes differ */
    {"emulated amx q8", emulated_amx_open, SK_Q8, SK_F32, 0, false},
    {"emulated amx bf16", emulated_amx_open, SK_BF16, SK_BF16, 0, false},
};

/* How the requests are run: everything that must not matter. */
struct way {
    uint32_t max_seqs, max_row, n_blk; /* n_blk: of one group, 0 = plenty */
    int n_thread;
    bool alone, cache, twice; /* alone: one request after the other; twice: all of it again, over a warm cache */
    uint32_t n_done;          /* tokens that each request already has, if it has more than that */
    uint32_t max_draft;       /* tokens drafted wherever there are any to draft; 0 = none */
    uint32_t preempt_every; /* steps after which the youngest running one is preempted; 0 = only when blocks run out */
};

struct rig {
    struct fixture fix;
    struct sk_backend *be;
    struct sk_rank *rank;
    struct sk_crew *crew;
    struct sk_loop *loop;
    struct sk_record *record;
    struct front front;
};

static void rig_open(struct rig *r, const struct model *m, const struct way *w, const char *record)
{
    struct sk_err err = {0};
    struct sk_desc desc;
    struct sk_backend_conf bc = {.n_thread = w->n_thread ? w->n_thread : 1};
    struct sk_rank_need need;
    *r = (struct rig){0};
    fixture_desc(&desc);
    desc.layers[1].window = m->window;
    if (m->wide) {
        desc.n_embd = 576;
        desc.n_ffn = 1536;
        desc.n_head = 9;
        desc.n_kv_head = 3;
        desc.head_dim = 64;
        desc.attn_scale = 0.125f;
        desc.ropes[0].dim = 64;
    }
    fixture_open(&r->fix, &desc, m->dtype, 5);
    assert_int_equal(m->open(&bc, &r->be, &err), 0);
    struct sk_rank_conf rc = {.max_slot = w->max_seqs,
                              .max_len = 256,
                              .max_row = w->max_row,
                              .max_result = w->max_row,
                              .kv_bytes = 64 << 20,
                              .kv_dtype = m->kv_dtype};
    assert_int_equal(sk_rank_plan(&r->fix.dir, &r->fix.w, r->be, NULL, &rc, &need, &err), 0);
    rc.kv_bytes = (w->n_blk ? w->n_blk : 1024) * need.kv_block;
    assert_int_equal(sk_rank_plan(&r->fix.dir, &r->fix.w, r->be, NULL, &rc, &need, &err), 0);
    assert_int_equal(sk_rank_open(&r->fix.dir, &r->fix.w, r->be, NULL, &rc, &r->rank, &err), 0);
    assert_int_equal(sk_crew_open(&(struct sk_crew_conf){.rank = r->rank}, &r->crew, &err), 0);

    struct sk_loop_conf lc = {.max_seqs = w->max_seqs,
                              .max_row = w->max_row,
                              .max_len = 256,
                              .max_queue = 400,
                              .draft = {.max = w->max_draft, .always = true},
                              .n_vocab = desc.n_vocab,
                              .crew = r->crew};
    lc.n_eos = r->fix.dir.n_eos;
    memcpy(lc.eos, r->fix.dir.eos, sizeof lc.eos);
    lc.kv = (struct sk_kvpool_conf){.n_group = r->fix.dir.desc.n_group,
                                    .block_tok = SK_KV_BLOCK,
                                    .keep = w->cache,
                                    .classes_equal = r->be->classes_equal};
    memcpy(lc.kv.window, r->fix.dir.desc.group_window, sizeof lc.kv.window);
    memcpy(lc.kv.n_blk, need.n_blk, sizeof lc.kv.n_blk);
    if (record) {
        struct sk_record_head h = {.conf = rc};
        sk_rank_limits(r->rank, &h.limits);
        assert_int_equal(sk_record_open(record, &h, rc.max_result, &r->record, &err), 0);
        lc.record = r->record;
    }
    assert_int_equal(sk_loop_open(&lc, &r->loop, &err), 0);
    front_init(&r->front, r->loop);
}

static void rig_close(struct rig *r)
{
    front_done(&r->front);
    sk_loop_close(r->loop);
    sk_record_close(r->record);
    sk_crew_close(r->crew);
    sk_rank_close(r->rank);
    r->be->close(r->be);
    fixture_close(&r->fix);
}

/* ---- comparing ---- */

static void same_seq(const struct front_seq *got, const struct front_seq *want, uint32_t skip, const char *what)
{
    if (got->finish != want->finish || got->reason != want->reason || got->n_item + skip != want->n_item)
        fail_msg("%s: finish %u/%d after %u items, alone %u/%d after %u", what, got->finish, got->reason, got->n_item,
                 want->finish, want->reason, want->n_item);
    for (uint32_t i = 0; i < got->n_item; i++) {
        const struct front_item *a = &got->items[i], *b = &want->items[skip + i];
        if (memcmp(&a->it, &b->it, sizeof a->it) != 0 || memcmp(a->top, b->top, a->it.n_top * sizeof a->top[0]) != 0)
            fail_msg("%s: item %u is token %d with log-prob %.9g, alone %d with %.9g", what, i, a->it.id,
                     (double)a->it.logprob, b->it.id, (double)b->it.logprob);
    }
}

/* Items of `want` that a re-admission with n_done tokens does not give again; *ret_ok: the answer is longer than that.
 */
static uint32_t skipped(struct request *q, uint32_t n_done, bool *ret_ok)
{
    uint32_t n_score = 0, n = front_answer(&q->want[0], q->done);
    while (n_score < q->want[0].n_item && (q->want[0].items[n_score].it.flags & SK_ITEM_PROMPT))
        n_score++;
    *ret_ok = n > n_done;
    return n_score + n_done;
}

static void preempt_youngest(struct sk_loop *l)
{
    struct sk_seq *q = l->seqs->run.last;
    if (!q || q == l->seqs->run.first)
        return;
    sk_apply_leave(l, q);
    q->n_preempt++;
    l->stats.preemptions++;
    sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
}

static void run_all(struct rig *r, const struct way *w)
{
    uint32_t n = 0;
    while (front_step(&r->front))
        if (w->preempt_every && ++n % w->preempt_every == 0)
            preempt_youngest(r->loop);
    front_run(&r->front);
}

static void run_way(const struct model *m, struct request *reqs, const struct way *w, const char *record,
                    struct sk_wire_stats *ret)
{
    struct rig r;
    uint32_t first[N_REQ], skip[N_REQ];
    rig_open(&r, m, w, record);
    for (int pass = 0; pass < (w->twice ? 2 : 1); pass++) {
        for (uint32_t i = 0; i < N_REQ; i++) {
            struct front_req req = reqs[i].req;
            bool longer = false;
            skip[i] = w->n_done ? skipped(&reqs[i], w->n_done, &longer) : 0;
            if (longer && req.n_choice == 1) {
                req.done = reqs[i].done;
                req.n_done = w->n_done;
            } else {
                skip[i] = 0;
            }
            first[i] = front_submit(&r.front, &req);
            if (w->alone)
                run_all(&r, w);
        }
        uint64_t n_alloc = sk_mem_count();
        run_all(&r, w);
        assert_true(pass == 0 || sk_mem_count() == n_alloc); /* warm steps allocate nothing, all the way down */
        for (uint32_t i = 0; i < N_REQ; i++)
            for (uint32_t k = 0; k < reqs[i].req.n_choice; k++) {
                char what[160];
                snprintf(what, sizeof what,
                         "%s, request %u/%u, %u rows a step, %u blocks, %d threads, %s%s, %u done, %u drafted", m->name,
                         i, k, w->max_row, w->n_blk, w->n_thread, w->alone ? "alone" : "together",
                         pass ? ", cached" : "", w->n_done, w->max_draft);
                same_seq(&r.front.seqs[first[i] + k], &reqs[i].want[k], skip[i], what);
            }
    }
    *ret = r.loop->stats;
    rig_close(&r);
}

/* Each request alone, one after the other, nothing cached: the answers that all other ways must give. */
static struct request *answer_alone(const struct model *m)
{
    const struct way w = {.max_seqs = 8, .max_row = 512, .alone = true};
    struct request *reqs = sk_calloc(N_REQ, sizeof *reqs);
    struct rig r;
    assert_non_null(reqs);
    rig_open(&r, m, &w, NULL);
    requests_make(reqs, r.fix.dir.desc.n_vocab);
    for (uint32_t i = 0; i < N_REQ; i++) {
        for (uint32_t k = 0; k < reqs[i].req.n_choice; k++) { /* choice k of n is what it is, whatever n */
            uint32_t s = front_submit(&r.front, &reqs[i].req);
            front_run(&r.front);
            reqs[i].want[k] = r.front.seqs[s + k];
            r.front.seqs[s + k].items = NULL; /* kept */
        }
    }
    rig_close(&r);
    return reqs;
}

static void free_requests(struct request *reqs)
{
    for (uint32_t i = 0; i < N_REQ; i++)
        for (uint32_t k = 0; k < MAX_CHOICE; k++)
            sk_free(reqs[i].want[k].items);
    sk_free(reqs);
}

/* ---- the tests ---- */

static bool available(const struct model *m)
{
    struct sk_err err = {0};
    struct sk_backend *be;
    struct sk_backend_conf bc = {.n_thread = 1};
    int rc = m->open(&bc, &be, &err);
    if (rc == 0)
        be->close(be);
    else if (rc != -SK_EUNSUP)
        fail_msg("%s: %s", m->name, err.msg);
    else
        print_message("%s is not tested here: %s\n", m->name, err.msg);
    return rc == 0;
}

static void test_contract(void **state)
{
    const struct model *m = *state;
    struct sk_wire_stats s;
    if (!available(m))
        skip();
    if (KERN_SANITIZED && (m->wide || m->open == emulated_amx_open)) {
        puts("not with sanitizers, which take minutes for it: tests/unit/kernels has the kernels alone");
        skip();
    }
    struct request *reqs = answer_alone(m);
    const struct way ways[] = {
        {.max_seqs = 64, .max_row = 512, .cache = false}, /* in a batch of 64 */
        {.max_seqs = 16,
         .max_row = 16,
         .cache = true,
         .twice = true}, /* chunks of at most 16, then of cached prompts */
        {.max_seqs = 64, .max_row = 64, .cache = true, .twice = true},
        {.max_seqs = 64, .max_row = 512, .cache = true, .n_thread = 2}, /* threads */
    };
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        run_way(m, reqs, &ways[i], NULL, &s);
        assert_true(!ways[i].twice || s.cache_hit_tok > 500);
    }
    const struct way tight[] = {{.max_seqs = 64,
                                 .max_row = 64,
                                 .n_blk = 12,
                                 .cache = true}, /* preempted, and computed again, from the cache or not */
                                {.max_seqs = 16, .max_row = 64, .cache = true, .preempt_every = 3},
                                {.max_seqs = 16, .max_row = 64, .cache = false, .preempt_every = 5}};
    for (size_t i = 0; i < sizeof tight / sizeof tight[0]; i++) {
        run_way(m, reqs, &tight[i], NULL, &s);
        assert_true(!tight[i].preempt_every || s.preemptions > 20);
    }
    for (uint32_t n_done = 1; n_done <= 33; n_done += 16) {
        const struct way again = {.max_seqs = 32, .max_row = 64, .cache = true, .n_done = n_done};
        run_way(m, reqs, &again, NULL, &s);
    }
    uint64_t right = 0, wrong = 0;
    const struct way drafted[] = {
        {.max_seqs = 8, .max_row = 512, .alone = true, .max_draft = 4}, /* one at a time, as where drafts pay */
        {.max_seqs = 64, .max_row = 512, .cache = true, .twice = true, .max_draft = 8, .n_thread = 2},
        {.max_seqs = 64, .max_row = 64, .n_blk = 12, .cache = true, .max_draft = SK_DRAFT_MAX}, /* blocks run out */
        {.max_seqs = 16, .max_row = 64, .cache = true, .preempt_every = 3, .max_draft = 8},
        {.max_seqs = 32, .max_row = 64, .cache = true, .n_done = 17, .max_draft = 8},
    };
    for (size_t i = 0; i < sizeof drafted / sizeof drafted[0]; i++) {
        run_way(m, reqs, &drafted[i], NULL, &s);
        right += s.accept_tok;
        wrong += s.draft_tok - s.accept_tok;
    }
    assert_true(right > 300 && wrong > 1000);
    free_requests(reqs);
}

/* A recording runs again to the same rows; a row that was changed is found. */
static void test_replay(void **state)
{
    const struct model *m = &models[0];
    const struct way w = {.max_seqs = 32, .max_row = 64, .n_blk = 12, .cache = true, .max_draft = 6};
    char path[] = "/tmp/skein-record-XXXXXX";
    struct sk_wire_stats stats;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct request *reqs = answer_alone(m);
    run_way(m, reqs, &w, path, &stats);
    assert_true(stats.draft_tok > stats.accept_tok && stats.accept_tok > 0);
    free_requests(reqs);

    for (int changed = 0; changed < 2; changed++) {
        struct rig r;
        struct sk_player *p;
        struct sk_record_head h;
        struct sk_replay_stats s = {0};
        struct sk_err err = {0};
        if (changed) { /* one bit of the last row's log-prob */
            uint8_t byte;
            off_t at = lseek(fd, 0, SEEK_END) - 12;
            assert_int_equal(pread(fd, &byte, 1, at), 1);
            byte ^= 1;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        rig_open(&r, m, &w, NULL);
        assert_int_equal(sk_player_open(path, &p, &h, &err), 0);
        assert_int_equal(h.conf.max_row, w.max_row);
        int rc = sk_replay(p, r.crew, true, &s, &err);
        assert_int_equal(rc, changed ? -SK_EFORMAT : 0);
        if (changed)
            assert_non_null(strstr(err.msg, "step "));
        else
            assert_true(s.n_step > 50 && s.n_row > 500);
        sk_player_close(p);
        rig_close(&r);
    }
    close(fd);
    unlink(path);
}

int main(void)
{
    enum { N_MODEL = sizeof models / sizeof models[0] };
    struct CMUnitTest tests[N_MODEL + 1] = {cmocka_unit_test(test_replay)};
    for (size_t i = 0; i < N_MODEL; i++)
        tests[1 + i] = (struct CMUnitTest){models[i].name, test_contract, NULL, NULL, (void *)&models[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
