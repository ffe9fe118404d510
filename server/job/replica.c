#include "server/job/replica.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "server/job/engine.h"

static void to(struct replica *r, enum replica_state state)
{
    static const enum replica_state next[] = {
        [REPLICA_EMPTY] = REPLICA_OPEN, [REPLICA_OPEN] = REPLICA_CLOSING, [REPLICA_CLOSING] = REPLICA_EMPTY};
    sk_assert(next[r->state] == state);
    r->state = state;
}

void sk_replica_init(struct replica *r, struct sk_engine *e, uint32_t index)
{
    *r = (struct replica){.engine = e, .index = index};
    snprintf(r->name, sizeof r->name, "%u", index);
}

void sk_replica_done(struct replica *r)
{
    sk_prefix_free(r->prefix);
}

/* --- what the supervisor says --- */

static void on_dir(void *arg, const char *path)
{
    sk_engine_replica_found(arg, path);
}

/* READY is told by on_up: the owner then finds the hello in the status. */
static void on_state(void *arg)
{
    struct replica *r = arg;
    if (sk_super_state(r->super) != SK_ENGINE_READY)
        sk_engine_replica_changed(r);
}

static const struct replica *other_ready(const struct replica *r)
{
    const struct sk_engine *e = r->engine;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        if (&e->replicas[i] != r && sk_replica_is_ready(&e->replicas[i]))
            return &e->replicas[i];
    }
    return NULL;
}

/* A request may go on at any replica, so all must compute the same bits; and it was made with the tokenizer of the
 * model that was served first, whatever is in the directory now. */
static bool agrees(struct replica *r, const struct sk_wire_hello *h)
{
    const struct replica *other = other_ready(r);
    const struct sk_engine *e = r->engine;
    if (e->is_started && strcmp(h->digest, e->hello.digest) != 0) {
        snprintf(r->why, sizeof r->why,
                 "another model is in the engine directory now: SIGHUP, or a restart of the daemon, takes it");
        return false;
    }
    if (!other)
        return true;
    if (strcmp(h->digest, other->hello.digest) != 0)
        snprintf(r->why, sizeof r->why, "it serves another model than replica %u", other->index);
    else if (strcmp(h->isa, other->hello.isa) != 0 && !e->conf.conf->allow_mixed_isa)
        snprintf(r->why, sizeof r->why,
                 "it computes with %.31s, replica %u with %.31s: the same request would get other bits "
                 "(--allow-mixed-isa)",
                 h->isa, other->index, other->hello.isa);
    else
        return true;
    return false;
}

static void on_up(void *arg, const struct sk_wire_hello *h)
{
    struct replica *r = arg;
    if (!agrees(r, h)) {
        sk_log(SK_LOG_ERROR, "replica %u is refused: %s", r->index, r->why);
        sk_replica_close(r);
        return;
    }
    r->hello = *h;
    r->was_up = true;
    r->is_hopeless = false;
    r->last = (struct sk_wire_stats){0};
    for (uint32_t g = 0; g < h->n_group; g++)
        r->last.blk_total += h->n_blk[g];
    r->last.blk_free = r->last.blk_total;
    sk_engine_replica_changed(r);
}

static struct sk_wire_stats since(const struct sk_wire_stats *now, const struct sk_wire_stats *then)
{
    return (struct sk_wire_stats){.steps = now->steps - then->steps,
                                  .prompt_tok = now->prompt_tok - then->prompt_tok,
                                  .decode_tok = now->decode_tok - then->decode_tok,
                                  .preemptions = now->preemptions - then->preemptions,
                                  .cache_query_tok = now->cache_query_tok - then->cache_query_tok,
                                  .cache_hit_tok = now->cache_hit_tok - then->cache_hit_tok,
                                  .busy_us = now->busy_us - then->busy_us,
                                  .draft_tok = now->draft_tok - then->draft_tok,
                                  .accept_tok = now->accept_tok - then->accept_tok};
}

static void take_stats(struct replica *r, const struct sk_wire_stats *s)
{
    struct sk_wire_stats delta = since(s, &r->last);
    sk_pace_take(&r->engine->pace, &delta, r->n_end);
    r->n_end = 0;
    r->n_held = s->waiting;
    r->last = *s;
    sk_engine_publish_stats(r->engine);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
    struct replica *r = arg;
    struct sk_engine *e = r->engine;
    e->in_callbacks = true;
    if (f->kind == SK_FRAME_STATS)
        take_stats(r, (const struct sk_wire_stats *)f);
    else if (f->kind == SK_FRAME_VIEW)
        sk_peek_take(e, (const struct sk_wire_view *)f);
    else
        sk_take_tokens(r, (const struct sk_wire_tokens *)f);
    e->in_callbacks = false;
    if (f->kind != SK_FRAME_STATS && e->conf.on_step)
        e->conf.on_step(e->conf.arg);
    sk_send_pump(e);
}

/* Its counters begin at 0 when it comes back, the daemon's go on; its cache is empty. */
static void forget(struct replica *r)
{
    struct sk_wire_stats *b = &r->base;
    const struct sk_wire_stats *s = &r->last;
    b->steps += s->steps;
    b->prompt_tok += s->prompt_tok;
    b->decode_tok += s->decode_tok;
    b->preemptions += s->preemptions;
    b->cache_query_tok += s->cache_query_tok;
    b->cache_hit_tok += s->cache_hit_tok;
    b->busy_us += s->busy_us;
    b->draft_tok += s->draft_tok;
    b->accept_tok += s->accept_tok;
    r->last = (struct sk_wire_stats){0};
    r->n_end = 0;
    sk_prefix_clear(r->prefix);
}

static void on_lost(void *arg, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct replica *r = arg;
    forget(r);
    sk_engine_replica_lost(r, seat, n_seat);
}

static void on_hopeless(void *arg)
{
    struct replica *r = arg;
    r->is_hopeless = true;
    sk_engine_replica_changed(r);
}

static bool is_busy(void *arg)
{
    const struct replica *r = arg;
    return r->n_sent > 0;
}

static void on_closed(void *arg)
{
    struct replica *r = arg;
    r->super = NULL;
    to(r, REPLICA_EMPTY);
    sk_engine_replica_closed(r);
}

/* --- its engine's --- */

int sk_replica_open(struct replica *r, bool was_ready, struct sk_err *err)
{
    struct sk_engine *e = r->engine;
    const struct sk_super_conf sc = {.conf = e->conf.conf,
                                     .replica = r->index,
                                     .dir = e->dir[0] ? e->dir : NULL,
                                     .was_ready = was_ready,
                                     .bin_dir = e->conf.bin_dir,
                                     .metrics = e->conf.metrics,
                                     .arg = r,
                                     .on_dir = on_dir,
                                     .on_state = on_state,
                                     .on_up = on_up,
                                     .on_frame = on_frame,
                                     .on_lost = on_lost,
                                     .on_hopeless = on_hopeless,
                                     .is_busy = is_busy};
    int rc = e->n_replica > 1 && !r->prefix ? sk_prefix_new(&r->prefix) : 0;
    if (rc != 0)
        return sk_err_set(err, -rc, NULL, "out of memory");
    rc = sk_super_open(e->loop, &sc, &r->super, err);
    if (rc != 0)
        return rc;
    r->was_up = r->is_hopeless = r->is_drained = false;
    r->why[0] = '\0';
    to(r, REPLICA_OPEN);
    return 0;
}

void sk_replica_unload(struct replica *r)
{
    struct sk_engine *e = r->engine;
    struct sk_job *j;
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        for (uint32_t i = 0; i < j->n_choice; i++) {
            struct choice *c = &j->choice[i];
            if (c->state != CHOICE_SENT || sk_send_replica(c) != r)
                continue;
            sk_send_cancel(c);
            sk_choice_wait_again(c, true);
        }
    }
    if (sk_replica_link(r))
        sk_link_flush(sk_replica_link(r));
}

void sk_replica_close(struct replica *r)
{
    struct sk_engine_status st;
    sk_replica_status(r, &st);
    r->n_restart = st.restarts + 1;
    sk_replica_unload(r);
    sk_send_forget_replica(r);
    sk_peek_lost(r);
    forget(r);
    to(r, REPLICA_CLOSING);
    r->is_hopeless = r->is_drained = false; /* that was said of this supervisor */
    sk_super_close(r->super, on_closed, r);
}

bool sk_replica_is_ready(const struct replica *r)
{
    return r->state == REPLICA_OPEN && r->was_up && sk_super_state(r->super) == SK_ENGINE_READY;
}

bool sk_replica_serves(const struct replica *r)
{
    return sk_replica_is_ready(r) && !r->is_drained;
}

bool sk_replica_may_serve(const struct replica *r)
{
    return r->state == REPLICA_OPEN && !r->is_drained && !r->is_hopeless &&
           sk_super_state(r->super) != SK_ENGINE_FAILED;
}

struct sk_link *sk_replica_link(const struct replica *r)
{
    return r->state == REPLICA_OPEN ? sk_super_link(r->super) : NULL;
}

bool sk_replica_has_place(const struct replica *r)
{
    return sk_replica_serves(r) && r->n_board < r->hello.max_seqs && r->n_sent < r->hello.credit &&
           (r->n_held == 0 || r->n_sent == 0) && sk_link_pending(sk_replica_link(r)) < ENGINE_MAX_PENDING_BYTES;
}

uint32_t sk_replica_n_held(const struct replica *r)
{
    return r->n_held < r->n_sent ? r->n_held : r->n_sent;
}

void sk_replica_status(const struct replica *r, struct sk_engine_status *ret)
{
    *ret = (struct sk_engine_status){.state = SK_ENGINE_STOPPED};
    if (r->super)
        sk_super_status(r->super, ret);
    if (r->state == REPLICA_EMPTY || (r->state == REPLICA_CLOSING && r->why[0]))
        snprintf(ret->text, sizeof ret->text, "%s", r->why[0] ? r->why : "there is none");
    ret->restarts = r->n_restart + (r->state == REPLICA_OPEN ? ret->restarts : 0);
    ret->n_waiting = sk_replica_n_held(r);
    ret->n_running = r->n_sent - ret->n_waiting;
    ret->hello = r->hello;
    ret->stats = r->last;
}
