#include "engine/batch/loop.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "engine/batch/flight.h"
#include "engine/model/timeline.h"

enum {
    MAX_OPEN_WORD = 1 << 18, /* see struct sk_sched_conf */
    STATS_INTERVAL_US = 100000,
    RANKS_INTERVAL_US = 1000000
};

/* ---- memory ---- */

/* The most that a plan can hold: bounded by what scheduling admits at once, and reserved so that no step allocates.
 * Words are tokens and lists of the admitted, and tokens of the others' rows, drafts among them, with one more for each
 * run (and those that earlier rows drew, where one stage draws and another one needs them); in each group there are no
 * more block numbers than that. Records are padded to 8 bytes. */
static size_t max_plan(const struct sk_loop_conf *c)
{
    enum { PAD = 4 };
    size_t words = (size_t)MAX_OPEN_WORD + c->max_len + SK_MAX_LIST + 2 * (size_t)c->max_row + c->max_seqs;
    size_t per_group = sizeof(struct sk_plan_drop) + sizeof(struct sk_plan_append) + PAD;
    size_t per_seq = sizeof(struct sk_plan_close) + sizeof(struct sk_plan_trim) + sizeof(struct sk_plan_open) + PAD +
                     2 * (sizeof(struct sk_plan_tok) + PAD) + sizeof(struct sk_plan_run) + c->kv.n_group * per_group;
    return sizeof(struct sk_plan_head) + words * sizeof(int32_t) * (1 + c->kv.n_group) + c->max_seqs * per_seq;
}

static int open_memory(struct sk_loop *l)
{
    const struct sk_loop_conf *c = &l->conf;
    int rc = sk_seqs_open(sk_loop_credit(l), &l->seqs);
    if (!rc)
        rc = sk_kvpool_open(&c->kv, &l->pool);
    if (!rc)
        rc = sk_sched_open(&l->sched, &l->todo);
    if (rc)
        return rc;
    l->max_blk = sk_kvpool_blocks(&c->kv, c->max_len);
    l->table = sk_calloc((size_t)c->max_seqs * c->kv.n_group * l->max_blk, sizeof *l->table);
    l->n_lookup = c->draft.max > 0 ? sk_lookup_entries(c->max_len, c->max_seqs) : 0;
    l->lookup = sk_calloc((size_t)c->max_seqs * sk_lookup_words(l->n_lookup), sizeof *l->lookup);
    l->slot_free = sk_calloc(c->max_seqs, sizeof *l->slot_free);
    l->slot_close = sk_calloc(c->max_seqs, sizeof *l->slot_close);
    l->view = sk_calloc(sk_loop_credit(l), sizeof *l->view);
    l->rank = sk_calloc(SK_WIRE_MAX_RANKS, sizeof *l->rank);
    l->seat = sk_calloc(c->max_seqs, sizeof *l->seat);
    l->sent = sk_calloc(l->depth, sizeof *l->sent);
    sk_buf_init(&l->plan, max_plan(c));
    if (!l->table || !l->lookup || !l->slot_free || !l->slot_close || !l->view || !l->rank || !l->seat || !l->sent)
        return -SK_ENOMEM;
    for (uint32_t i = 0; i < l->depth; i++) {
        l->sent[i].run = sk_calloc(c->max_seqs, sizeof *l->sent[i].run);
        if (!l->sent[i].run)
            return -SK_ENOMEM;
    }
    for (uint32_t i = 0; i < c->max_seqs; i++)
        l->slot_free[l->n_slot_free++] = c->max_seqs - 1 - i;
    return sk_buf_reserve(&l->plan, l->plan.max);
}

int sk_loop_open(const struct sk_loop_conf *conf, struct sk_loop **ret, struct sk_err *err)
{
    sk_assert(conf->max_seqs >= 1 && conf->max_seqs <= conf->max_row && conf->draft.max <= SK_DRAFT_MAX);
    struct sk_loop *l = sk_calloc(1, sizeof *l);
    if (!l)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the batch manager");
    l->conf = *conf;
    l->depth = sk_crew_depth(conf->crew);
    l->sched = (struct sk_sched_conf){.max_seqs = conf->max_seqs,
                                      .max_row = conf->max_row,
                                      .max_open_word = MAX_OPEN_WORD,
                                      .n_stage = l->depth > 1 ? l->depth - 1 : 1,
                                      .no_evict = conf->no_evict,
                                      .rate = conf->times_chunks ? &l->cost.rate : NULL,
                                      .itl_target_us = conf->itl_target_us};
    sk_cost_init(&l->cost, conf->prompt_row_us);
    if (open_memory(l)) {
        sk_loop_close(l);
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for %u sequences", sk_loop_credit(l));
    }
    *ret = l;
    return 0;
}

void sk_loop_close(struct sk_loop *l)
{
    if (!l)
        return;
    sk_seqs_close(l->seqs);
    sk_kvpool_close(l->pool);
    sk_sched_close(&l->todo);
    sk_buf_done(&l->plan);
    sk_free(l->table);
    sk_free(l->lookup);
    sk_free(l->slot_free);
    sk_free(l->slot_close);
    sk_free(l->view);
    sk_free(l->rank);
    sk_free(l->seat);
    for (uint32_t i = 0; l->sent && i < l->depth; i++)
        sk_free(l->sent[i].run);
    sk_free(l->sent);
    sk_free(l);
}

size_t sk_loop_max_out(const struct sk_loop *l)
{
    size_t item = sizeof(struct sk_wire_item) + SK_MAX_TOP * sizeof(struct sk_wire_top);
    size_t entries = (size_t)l->conf.max_seqs + 2 * SK_LOOP_MAX_ENDED;
    size_t view = sizeof(struct sk_wire_view) + sk_loop_credit(l) * sizeof(struct sk_wire_view_seq);
    size_t ranks = sizeof(struct sk_wire_ranks) + SK_WIRE_MAX_RANKS * sizeof(struct sk_wire_rank);
    size_t seats = sizeof(struct sk_wire_seats) + l->conf.max_seqs * sizeof(struct sk_wire_seat);
    return 2 * sizeof(struct sk_wire_tokens) + entries * sizeof(struct sk_wire_entry) + l->conf.max_row * item +
           2 * (sizeof(struct sk_wire_stats) + sizeof(struct sk_wire_beat)) + view + ranks + 2 * seats;
}

uint32_t sk_loop_credit(const struct sk_loop *l)
{
    return l->conf.max_seqs + l->conf.max_queue;
}

/* ---- one iteration ---- */

bool sk_loop_busy(const struct sk_loop *l)
{
    return l->seqs->wait.n > 0 || l->seqs->run.n > 0 || l->seqs->ended.n > 0;
}

/* Recordings have the plan before it runs: what a crash was about can be read from their end. */
static int write_plan(struct sk_loop *l, struct sk_err *err)
{
    if (l->conf.flight)
        sk_flight_prepare(l->conf.flight, l);
    int rc = sk_apply_plan(l);
    if (rc)
        return sk_err_set(err, -rc, NULL, "step %llu: the plan could not be written", (unsigned long long)l->step);
    if (l->conf.record)
        sk_record_plan(l->conf.record, l->plan.p, l->plan.n);
    if (l->conf.flight)
        sk_flight_plan(l->conf.flight, l);
    return 0;
}

/* The plan is under way from here on: its sequences are on board before anything is done for them. */
static void board(struct sk_loop *l)
{
    l->step++;
    l->seqs->n_plan++;
    l->seqs->last_step[l->todo.kind] = l->step;
    for (uint32_t i = 0; i < l->todo.n_run; i++)
        l->todo.run[i].seq->n_plan++;
    sk_seat_under_way(l);
}

static void keep_sent(struct sk_loop *l)
{
    const struct sk_sched_out *todo = &l->todo;
    struct sk_loop_sent *s = &l->sent[(l->first_sent + l->seqs->n_plan - 1) % l->depth];
    s->step = l->step;
    s->n_run = todo->n_run;
    s->n_row = todo->n_row;
    s->n_result = todo->n_result;
    memcpy(s->run, todo->run, todo->n_run * sizeof *s->run);
}

static void preempt(struct sk_loop *l)
{
    for (uint32_t i = 0; i < l->todo.n_preempt; i++) {
        struct sk_seq *q = l->todo.preempt[i];
        sk_apply_leave(l, q);
        q->n_preempt++;
        l->stats.preemptions++;
        sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
    }
}

/* *ret_did: it had something to decide. */
static int plan_next(struct sk_loop *l, struct sk_buf *out, bool *ret_did, struct sk_err *err)
{
    const struct sk_sched_out *todo = &l->todo;
    uint64_t t0 = l->now_us;
    *ret_did = false;
    if (l->seqs->n_plan == l->depth)
        return 0;
    sk_seat_all(l);
    sk_sched_next(&l->sched, l->seqs, l->pool, &l->todo);
    /* A state that nothing can move would be stepped for ever. */
    sk_assert(todo->n_row > 0 || todo->n_preempt > 0 || l->seqs->n_plan > 0 || l->seqs->ended.n > 0 ||
              !sk_loop_busy(l));
    if (l->conf.flight && sk_flight_waits(l->conf.flight, l))
        return 0;
    preempt(l);
    *ret_did = todo->n_row > 0 || todo->n_preempt > 0;
    if (todo->n_row == 0)
        return 0;
    board(l);
    int rc = write_plan(l, err);
    if (rc)
        return rc;
    keep_sent(l);
    if (l->conf.sends_seats)
        sk_seat_put(l, out);
    if (l->conf.sends_seats && l->chan)
        sk_chan_flush(l->chan);
    sk_timeline_add(l->conf.timeline, SK_TIMELINE_PLAN, t0, l->step);
    return sk_crew_submit(l->conf.crew, l->plan.p, l->plan.n, err);
}

static void learn_cost(struct sk_loop *l, const struct sk_loop_sent *s, uint64_t us)
{
    struct sk_cost_work work = sk_cost_no_work();
    for (uint32_t i = 0; i < s->n_run; i++) {
        const struct sk_sched_run *r = &s->run[i];
        sk_cost_add(&work, r->pos < r->seq->n_prompt, r->pos, r->n);
    }
    sk_cost_learn(&l->cost, &work, (double)us);
}

/* Rows of the oldest plan: 1 and their entries, 0 = they are not there yet. With several plans under way the time that
 * passed is not what one takes: the stages say that. */
static int take_rows(struct sk_loop *l, bool wait, struct sk_buf *out, uint32_t *n_entry, struct sk_err *err)
{
    struct sk_crew_result res;
    int rc = sk_crew_collect(l->conf.crew, wait, &res, err);
    if (rc <= 0)
        return rc;
    if (!sk_deliver_may(l, &res))
        return sk_err_set(err, SK_EINTERNAL, NULL, "step %llu: the backend gave rows that cannot be",
                          (unsigned long long)res.step);
    if (l->conf.record)
        sk_record_rows(l->conf.record, res.rows, res.n);
    if (l->conf.flight)
        sk_flight_rows(l->conf.flight, res.rows, res.n);
    uint64_t t0 = l->now_us;
    l->now_us = sk_clock_us();
    uint64_t us = l->depth > 1 ? res.busy_us : l->now_us - t0;
    l->step_cpu_us = us * l->conf.n_thread;
    learn_cost(l, &l->sent[l->first_sent], us);
    sk_deliver_rows(l, &res, out, n_entry);
    return 1;
}

/* One frame of what there is to tell; rows are waited for only if `wait` is true. 1 = there were rows. */
static int tell(struct sk_loop *l, bool wait, struct sk_buf *out, struct sk_err *err)
{
    size_t at;
    uint32_t n_entry = 0;
    int got = 0;
    sk_wire_tokens_begin(out, &at, l->step);
    sk_deliver_ended(l, out, &n_entry);
    if (l->seqs->n_plan > 0)
        got = take_rows(l, wait, out, &n_entry, err);
    if (got < 0) {
        out->n = at; /* why the engine ends is said after what was whole */
        return got;
    }
    int rc = sk_wire_tokens_end(out, at, n_entry, l->seqs->wait.n);
    return rc ? sk_err_set(err, -rc, NULL, "a TOKENS frame did not fit its buffer of %zu bytes", out->max) : got;
}

/* An error leaves the seats as they are: it ends the engine, and may be of those on board. */
int sk_loop_step(struct sk_loop *l, struct sk_buf *out, struct sk_err *err)
{
    uint64_t t0 = l->now_us = sk_clock_us();
    bool did = false;
    int got = l->seqs->n_plan > 0 ? tell(l, false, out, err) : 0;
    if (got < 0)
        return got;
    int rc = plan_next(l, out, &did, err);
    if (rc)
        return rc;
    sk_seat_under_way(l);
    if (got == 0) {
        rc = tell(l, !did || l->seqs->n_plan == l->depth, out, err);
        if (rc < 0)
            return rc;
    }
    sk_seat_under_way(l);
    if (l->conf.sends_seats && l->seqs->n_plan == 0)
        sk_seat_put(l, out);
    l->stats.busy_us += sk_clock_us() - t0;
    return 0;
}

void sk_loop_stats(const struct sk_loop *l, struct sk_wire_stats *ret)
{
    struct sk_wire_stats s = l->stats;
    s.steps = l->step;
    s.running = l->seqs->run.n;
    s.waiting = l->seqs->wait.n;
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++) {
        s.blk_total += l->conf.kv.n_blk[g];
        s.blk_free += l->pool->groups[g].n_free;
        s.blk_cached += l->pool->groups[g].n_idle;
    }
    *ret = s;
}

/* ---- serving ---- */

static bool has_room(const struct sk_loop *l, const struct sk_chan *c)
{
    return c->out.max - c->out.n >= sk_loop_max_out(l);
}

/* Takes the frames that are there: while the daemon does not read, nothing is read of it either, since answers need
 * room too. *ret_more: there may be others, for which there was no room. */
static int take_frames(struct sk_loop *l, struct sk_chan *c, bool *ret_more, struct sk_err *err)
{
    const struct sk_frame *f;
    while (!l->quit && has_room(l, c)) {
        int rc = sk_chan_next(c, &f);
        if (rc < 0)
            return sk_err_set(err, SK_EPROTO, NULL, "a frame of the daemon is malformed");
        *ret_more = rc == 1;
        if (rc == 0)
            return 0;
        rc = sk_loop_frame(l, f, &c->out, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* Every so often while it works, and once when it has nothing more to do. */
static void put_stats(struct sk_loop *l, struct sk_buf *out)
{
    uint64_t now = sk_clock_us();
    if (sk_loop_busy(l) && now - l->stats_us < STATS_INTERVAL_US)
        return;
    struct sk_wire_stats s;
    sk_loop_stats(l, &s);
    sk_wire_put_stats(out, &s);
    l->stats_us = now;
}

/* When serving begins, and then every so often while it works. */
static void put_ranks(struct sk_loop *l, struct sk_buf *out)
{
    uint64_t now = sk_clock_us();
    if (l->ranks_us && now - l->ranks_us < RANKS_INTERVAL_US)
        return;
    sk_wire_put_ranks(out, l->rank, sk_crew_ranks(l->conf.crew, l->rank));
    l->ranks_us = now;
}

static int serve(struct sk_loop *l, struct sk_chan *c, struct sk_err *err)
{
    int rc = 0;
    put_ranks(l, &c->out);
    for (bool more = false;;) {
        bool gone = has_room(l, c) && sk_chan_fill(c) != 0;
        rc = take_frames(l, c, &more, err);
        if (rc || gone || l->quit)
            break;
        if (sk_loop_busy(l) && has_room(l, c)) {
            rc = sk_loop_step(l, &c->out, err);
            if (rc)
                break;
            put_stats(l, &c->out);
            put_ranks(l, &c->out);
        }
        if (sk_chan_flush(c) < 0)
            break; /* the daemon is gone: its next engine starts afresh */
        bool room = has_room(l, c);
        if (room && (more || sk_loop_busy(l)))
            continue;
        struct pollfd p = {.fd = c->fd, .events = (short)((room ? POLLIN : 0) | (sk_chan_pending(c) ? POLLOUT : 0))};
        if (poll(&p, 1, -1) < 0 && errno != EINTR) {
            rc = sk_err_errno(err, SK_EIO, NULL, "poll");
            break;
        }
    }
    sk_chan_flush(c);
    return rc;
}

/* What is under way comes to its end, though nobody asks for it any more: ranks that are at it would find nobody to
 * tell it to. */
static void finish_plans(struct sk_loop *l)
{
    struct sk_crew_result res;
    struct sk_err err;
    while (l->seqs->n_plan > 0 && sk_crew_collect(l->conf.crew, true, &res, &err) == 1)
        l->seqs->n_plan--;
}

int sk_loop_serve(struct sk_loop *l, struct sk_chan *c, struct sk_err *err)
{
    int rc = sk_buf_reserve(&c->out, c->out.max - c->out.n);
    if (rc)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the channel to the daemon");
    l->chan = c;
    rc = serve(l, c, err);
    l->chan = NULL;
    if (!rc)
        finish_plans(l);
    return rc;
}
