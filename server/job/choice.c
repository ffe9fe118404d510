/* The states of a choice. The queue, and what is counted of it, follow them.
 *
 *   NEW --> WAITING --goes on board--> SENT --its last entry--> OVER
 *           WAITING <--replica lost or drained, makes room-- SENT
 *           WAITING, SENT --cancelled, over its time, poison, no engine--> OVER */
#include "comm/base/clock.h"
#include "server/job/engine.h"

static void to(struct choice *c, enum choice_state state)
{
    static const unsigned next[] = {
        [CHOICE_NEW] = 1u << CHOICE_WAITING,
        [CHOICE_WAITING] = 1u << CHOICE_SENT | 1u << CHOICE_OVER,
        [CHOICE_SENT] = 1u << CHOICE_WAITING | 1u << CHOICE_OVER,
        [CHOICE_OVER] = 0,
    };
    sk_assert(next[c->state] & 1u << state);
    c->state = state;
}

void sk_choice_wait(struct choice *c)
{
    to(c, CHOICE_WAITING);
    sk_fair_wait(&c->job->engine->fair, &c->fair);
}

void sk_choice_wait_again(struct choice *c, bool lost)
{
    const struct sk_job *j = c->job;
    sk_route_left(sk_send_replica(c), c);
    to(c, CHOICE_WAITING);
    c->fair.lost |= lost;
    c->skip = c->n_tok ? 0 : c->n_prompt_items;
    c->fair.again = c->fair.lost || c->n_tok > 0;
    c->fair.n_left = j->params.max_tokens > c->n_tok ? j->params.max_tokens - c->n_tok : 0;
    sk_fair_return(&j->engine->fair, &c->fair);
}

/* What it cost before stays on its bill. */
void sk_choice_sent(struct choice *c, uint32_t sending)
{
    to(c, CHOICE_SENT);
    c->sending = sending;
    c->was_sent = true;
    c->before.cpu_us += c->now.cpu_us;
    c->before.blk_us += c->now.blk_us;
    c->before.n_preempt += c->now.n_preempt;
    c->now = (struct cost){0};
    sk_fair_board(&c->job->engine->fair, &c->fair);
    sk_route_sent(sk_send_replica(c), c);
    c->n_readmit += c->fair.lost;
    c->fair.lost = false;
}

/* The engine's finish of a sequence, not this, gives its credit back. */
void sk_choice_over(struct choice *c)
{
    struct sk_job *j = c->job;
    struct sk_engine *e = j->engine;
    if (c->state == CHOICE_SENT) {
        sk_send_replica(c)->n_end++;
        sk_route_left(sk_send_replica(c), c);
    }
    to(c, CHOICE_OVER);
    sk_fair_leave(&e->fair, &c->fair);
    if (--j->n_open > 0)
        return;
    TAILQ_REMOVE(&e->jobs, j, link);
    j->over_us = sk_clock_us();
    if (j->first_us)
        sk_metric_observe(e->conf.metrics, SK_METRIC_DECODE_TIME, (double)(j->last_us - j->first_us) / 1e6);
}

void sk_choice_end(struct choice *c, int code)
{
    struct sk_job *j = c->job;
    const struct sk_wire_entry entry = {.choice = c->index, .finish = SK_FINISH_ERROR, .reason = code};
    const struct sk_job_event ev = {.choice = c->index, .entry = &entry};
    if (c->state == CHOICE_SENT)
        sk_send_cancel(c);
    sk_choice_over(c);
    j->cb(j->arg, j, &ev); /* may free j */
}

void sk_choice_end_any(struct sk_job *j, int code)
{
    uint32_t i = 0;
    while (j->choice[i].state == CHOICE_OVER)
        i++;
    sk_choice_end(&j->choice[i], code);
}
