/* Deadlines: one timer, armed for the earliest. What is over its time is found by looking at all, which happens as
 * often as one comes due. */
#include "comm/base/clock.h"
#include "comm/base/conf.h"
#include "server/job/engine.h"

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b && b < a) ? b : a;
}

/* 0 = never. */
static uint64_t due_us(const struct choice *c)
{
    const struct sk_job *j = c->job;
    uint64_t us = j->due_end_us, queue_us = (uint64_t)j->engine->conf.conf->queue_timeout * 1000;
    if (c->state == CHOICE_OVER)
        return 0;
    if (c->n_tok == 0 && c->n_prompt_items == 0)
        us = sooner(us, j->due_first_us);
    if (!c->was_sent && queue_us)
        us = sooner(us, j->submit_us + queue_us);
    return us;
}

static void on_due(uv_timer_t *t)
{
    sk_due_run(t->data);
}

static void arm(struct sk_engine *e, uint64_t us)
{
    uint64_t now = sk_clock_us();
    e->due_us = us;
    if (us)
        uv_timer_start(&e->due, on_due, us > now ? (us - now + 999) / 1000 : 0, 0);
    else
        uv_timer_stop(&e->due);
}

void sk_due_watch(struct sk_engine *e, const struct sk_job *j)
{
    uint64_t us = sooner(e->due_us, due_us(&j->choice[0])); /* its choices are alike still */
    if (us != e->due_us)
        arm(e, us);
}

/* Not at once: a reload or a restart may come out of a request's handler, in which no other may be answered. */
void sk_due_again(struct sk_engine *e)
{
    arm(e, sk_clock_us());
}

/* One that is over its time, or NULL and when the next will be. */
static struct choice *find_over(struct sk_engine *e, uint64_t now, uint64_t *ret_next_us)
{
    struct sk_job *j;
    uint64_t next_us = 0;
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        for (uint32_t i = 0; i < j->n_choice; i++) {
            uint64_t us = due_us(&j->choice[i]);
            if (us && us <= now)
                return &j->choice[i];
            next_us = sooner(next_us, us);
        }
    }
    *ret_next_us = next_us;
    return NULL;
}

void sk_due_run(struct sk_engine *e)
{
    struct choice *c;
    uint64_t now = sk_clock_us(), next_us = 0;
    e->in_callbacks = true;
    while ((c = find_over(e, now, &next_us))) /* from the start each time: a callback may free any job */
        sk_choice_end(c, SK_EDEADLINE);
    e->in_callbacks = false;
    arm(e, next_us);
    sk_roll_go_on(e);
    if (e->conf.on_step)
        e->conf.on_step(e->conf.arg);
    sk_send_pump(e);
}
