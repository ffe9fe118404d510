/* The batch manager over a grid of ranks that are threads, on a small random model: with pipeline stages and f32
 * between them every answer has the bits that one rank gives, whatever is under way together; with a cut of each layer
 * the same bits each time, and the tokens of one rank where the second choice is not near. And recordings are replayed
 * on other grids. */
#include <math.h>
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
#include "engine/model/crew.h"
#include "tests/unit/engine/batch/front.h"
#include "tests/unit/engine/crewed.h"
#include "tests/unit/engine/crowd.h"
#include "tests/unit/engine/fixture.h"
#include "tests/unit/engine/requests.h"

enum { MAX_SEQ = 32, MAX_ROW = 128 };

/* How the requests are run. */
struct way {
    uint32_t n_tp, n_pp, n_blk, max_draft; /* n_blk: 0 = plenty */
    const char *record;                    /* NULL = none is made */
    const char *replay;                    /* NULL: requests are run; else a recording */
    bool exact;
};
struct job {
    const struct way *way;
    struct crowd crowd;
    struct crewed crewed;
    struct fixture fix;
    struct sk_rank_conf conf;
    struct request *reqs;
    struct front front; /* what came back; its seqs stay */
    uint32_t first[N_REQ], most_under_way;
    struct sk_wire_stats stats;
    struct sk_replay_stats replayed;
    struct sk_wire_rank ranks[SK_WIRE_MAX_RANKS];
};

/* ---- the leader's thread ---- */

static struct sk_loop_conf loop_conf(const struct job *j, const struct sk_plan_limits *lim, struct sk_crew *crew)
{
    struct sk_loop_conf c = {.max_seqs = MAX_SEQ,
                             .max_row = MAX_ROW,
                             .max_len = 256,
                             .max_queue = 400,
                             .draft = {.max = j->way->max_draft, .always = true},
                             .n_vocab = j->fix.dir.desc.n_vocab,
                             .n_eos = j->fix.dir.n_eos,
                             .crew = crew};
    memcpy(c.eos, j->fix.dir.eos, sizeof c.eos);
    c.kv = (struct sk_kvpool_conf){
        .n_group = j->fix.dir.desc.n_group, .block_tok = SK_KV_BLOCK, .keep = true, .classes_equal = false};
    memcpy(c.kv.window, j->fix.dir.desc.group_window, sizeof c.kv.window);
    memcpy(c.kv.n_blk, lim->n_blk, sizeof c.kv.n_blk);
    return c;
}

static void preempt_youngest(struct sk_loop *l)
{
    struct sk_seq *q = l->seqs->run.last;
    if (!q || q == l->seqs->run.first || q->n_plan > 0)
        return;
    sk_apply_leave(l, q);
    q->n_preempt++;
    l->stats.preemptions++;
    sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
}

static void serve(struct job *j, const struct sk_plan_limits *lim, struct sk_crew *crew)
{
    struct sk_loop_conf c = loop_conf(j, lim, crew);
    struct sk_record_head h = {.conf = j->conf, .limits = *lim};
    struct sk_err err = {0};
    struct sk_loop *l;
    h.n_tp = (uint16_t)j->way->n_tp;
    h.n_pp = (uint16_t)j->way->n_pp;
    sk_assert(!j->way->record || sk_record_open(j->way->record, &h, MAX_ROW, &c.record, &err) == 0);
    sk_assert(sk_loop_open(&c, &l, &err) == 0);
    front_init(&j->front, l);
    for (uint32_t i = 0; i < N_REQ; i++) {
        j->first[i] = front_submit(&j->front, &j->reqs[i].req);
        for (uint32_t k = 0; k < i % 4; k++)
            front_step(&j->front);
        preempt_youngest(l);
        if (l->seqs->n_plan > j->most_under_way)
            j->most_under_way = l->seqs->n_plan;
    }
    front_run(&j->front);
    j->stats = l->stats;
    sk_loop_close(l);
    sk_record_close(c.record);
}

static void replay(struct job *j, struct sk_crew *crew)
{
    struct sk_player *p;
    struct sk_record_head h;
    struct sk_err err = {0};
    sk_assert(sk_player_open(j->way->replay, &p, &h, &err) == 0);
    if (sk_replay(p, crew, j->way->exact, &j->replayed, &err))
        fprintf(stderr, "%s\n", err.msg);
    sk_player_close(p);
}

static void run_rank(void *arg, uint32_t id, struct sk_rank *rank)
{
    struct job *j = arg;
    struct sk_crew *crew;
    struct sk_err err = {0};
    struct sk_plan_limits lim;
    struct sk_crew_conf c = {.rank = rank, .world = j->crewed.world[0].size > 1 ? &j->crewed.world[id] : NULL};
    sk_rank_limits(rank, &lim);
    sk_assert(sk_crew_open(&c, &crew, &err) == 0);
    if (id > 0)
        sk_assert(sk_crew_follow(crew, &err) == 0);
    else if (j->way->replay)
        replay(j, crew);
    else
        serve(j, &lim, crew);
    if (id == 0)
        sk_crew_ranks(crew, j->ranks);
    sk_crew_close(crew);
}

static void run(struct job *j, const struct way *w, struct request *reqs)
{
    struct sk_desc desc;
    *j = (struct job){.way = w, .reqs = reqs};
    fixture_desc(&desc);
    desc.n_layer = 4;
    desc.layers[3] = desc.layers[2] = desc.layers[1] = desc.layers[0];
    desc.layers[1].window = desc.layers[2].window = 40;
    fixture_open(&j->fix, &desc, SK_F32, 5);
    j->conf = (struct sk_rank_conf){.max_slot = MAX_SEQ,
                                    .max_len = 256,
                                    .max_row = MAX_ROW,
                                    .max_result = MAX_ROW,
                                    .kv_bytes = 16 << 20,
                                    .kv_dtype = SK_F32};
    if (w->n_blk)
        j->conf.kv_bytes = (uint64_t)w->n_blk * SK_KV_BLOCK * desc.n_layer * 2 * 2 * 16 * sizeof(float);
    j->crowd = (struct crowd){
        .dir = &j->fix.dir, .w = &j->fix.w, .backend = sk_ref_open, .n_tp = w->n_tp, .n_pp = w->n_pp, .conf = j->conf};
    crewed_open(&j->crewed, (int)w->n_tp, (int)w->n_pp);
    crowd_run(&j->crowd, run_rank, j);
    crewed_close(&j->crewed);
}

static void done(struct job *j)
{
    if (!j->way->replay)
        front_done(&j->front);
    fixture_close(&j->fix);
}

/* ---- comparing ---- */

static void same_bits(const struct job *a, const struct job *b)
{
    assert_int_equal(a->front.n_seq, b->front.n_seq);
    for (uint32_t s = 0; s < a->front.n_seq; s++) {
        const struct front_seq *x = &a->front.seqs[s], *y = &b->front.seqs[s];
        assert_true(x->finish == y->finish && x->reason == y->reason && x->n_item == y->n_item);
        for (uint32_t i = 0; i < x->n_item; i++)
            if (memcmp(&x->items[i].it, &y->items[i].it, sizeof x->items[i].it) != 0 ||
                memcmp(x->items[i].top, y->items[i].top, x->items[i].it.n_top * sizeof x->items[i].top[0]) != 0)
                fail_msg("sequence %u, item %u: token %d (%.9g), one rank gives %d (%.9g)", s, i, y->items[i].it.id,
                         (double)y->items[i].it.logprob, x->items[i].it.id, (double)x->items[i].it.logprob);
    }
}

static struct request *make_requests(void)
{
    struct request *reqs = sk_calloc(N_REQ, sizeof *reqs);
    struct sk_desc desc;
    assert_non_null(reqs);
    fixture_desc(&desc);
    requests_make(reqs, desc.n_vocab);
    return reqs;
}

/* ---- the tests ---- */

static void test_stages(void **state)
{
    static struct job one, many;
    struct request *reqs = make_requests();
    uint64_t preempted = 0;
    const struct way alone = {.n_tp = 1, .n_pp = 1};
    run(&one, &alone, reqs);
    const struct way ways[] = {{.n_tp = 1, .n_pp = 2},
                               {.n_tp = 1, .n_pp = 3, .max_draft = 6},
                               {.n_tp = 1, .n_pp = 4, .n_blk = 9},
                               {.n_tp = 1, .n_pp = 2, .n_blk = 9, .max_draft = 4}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        run(&many, &ways[i], reqs);
        same_bits(&one, &many);
        assert_true(many.most_under_way >= 2);
        preempted += many.stats.preemptions;
        assert_true(!ways[i].max_draft || many.stats.accept_tok > 20);
        for (uint32_t r = 0; r < ways[i].n_pp; r++)
            assert_true(many.ranks[r].stage == r && many.ranks[r].step > 0);
        done(&many);
    }
    assert_true(preempted > 10);
    done(&one);
    sk_free(reqs);
}

/* Sums have another order in a cut layer: bits of another grid, but the same ones each time. */
static void test_cut(void **state)
{
    static struct job first, again;
    struct request *reqs = make_requests();
    const struct way ways[] = {{.n_tp = 2, .n_pp = 1}, {.n_tp = 2, .n_pp = 2, .max_draft = 4}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        run(&first, &ways[i], reqs);
        run(&again, &ways[i], reqs);
        same_bits(&first, &again);
        done(&first);
        done(&again);
    }
    sk_free(reqs);
}

static void test_replay(void **state)
{
    static struct job j;
    struct request *reqs = make_requests();
    char path[] = "/tmp/skein-record-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (uint32_t n_pp = 1; n_pp <= 3; n_pp += 2) {
        const struct way record = {.n_tp = 1, .n_pp = n_pp, .n_blk = 9, .max_draft = 4, .record = path};
        run(&j, &record, reqs);
        assert_true(j.stats.draft_tok > j.stats.accept_tok);
        done(&j);
        const struct way same = {.n_tp = 1, .n_pp = n_pp, .replay = path, .n_blk = 9, .exact = true};
        run(&j, &same, reqs);
        uint64_t n_row = j.replayed.n_row;
        assert_true(n_row > 500 && j.replayed.n_row_differ == 0 && j.replayed.n_bare == 0);
        done(&j);
        for (uint32_t n = 1; n <= 4; n++) { /* stages change no bit */
            const struct way other = {.n_tp = 1, .n_pp = n, .replay = path, .n_blk = 9};
            run(&j, &other, reqs);
            assert_true(j.replayed.n_row == n_row && j.replayed.n_row_differ == 0);
            done(&j);
        }
        for (uint32_t n = 2; n <= 4; n += 2) {
            const struct way cut = {.n_tp = 2, .n_pp = n / 2, .replay = path, .n_blk = 9};
            run(&j, &cut, reqs);
            assert_true(j.replayed.n_row == n_row && j.replayed.max_differ < 1e-3);
            assert_true(j.replayed.n_row_differ > 0 && j.replayed.n_tok_differ * 200 < n_row);
            done(&j);
        }
    }
    unlink(path);
    sk_free(reqs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stages), cmocka_unit_test(test_cut),
                                       cmocka_unit_test(test_replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
