/* A replica's end: what it had waits again, and those in the step that it did not survive are to blame. A suspect comes
 * back alone (fair.h, SK_SEQ_SUSPECT), so of many that were in a bad step the culprit is known after one more. Of all
 * replicas only one has a suspect at a time. */
#include "comm/base/log.h"
#include "server/job/engine.h"

enum { MAX_CRASHES = 8 /* of a choice that was never alone: so that nothing goes on for ever */ };

static void condemn(struct sk_job *j, const char *why)
{
    sk_log(SK_LOG_ERROR, "request %s is refused: %s", j->id[0] ? j->id : "without an id", why);
    j->poison = true;
}

static void blame(struct choice *c, bool alone)
{
    struct sk_job *j = c->job;
    if (c->state == CHOICE_OVER || j->poison)
        return;
    c->n_crash++;
    j->blamed = true;
    if (alone && c->fair.suspect)
        condemn(j, "the engine crashed with it alone on board");
    else if (c->n_crash >= MAX_CRASHES)
        condemn(j, "too many engines crashed with it on board");
}

/* A seat without a choice is a frame of the job, which the engine took in. */
static void blame_seat(const struct replica *r, const struct sk_board_seat *seat, bool alone)
{
    const struct sending *s = sk_send_find(r->engine, seat->job);
    struct sk_job *j = s && s->replica == r ? s->job : NULL;
    for (uint32_t i = 0; j && i < j->n_choice; i++) {
        if (seat->choice == i || seat->choice == SK_WIRE_ALL)
            blame(&j->choice[i], alone);
    }
}

static struct sk_job *find_poison(struct sk_engine *e)
{
    struct sk_job *j;
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        if (j->poison)
            return j;
    }
    return NULL;
}

/* One prompt, one suspicion: also where the step did not have it, and where it runs elsewhere, which it may not do to
 * another replica. */
static void suspect_job(struct sk_job *j)
{
    for (uint32_t i = 0; i < j->n_choice; i++) {
        struct choice *c = &j->choice[i];
        if (c->state == CHOICE_SENT) {
            sk_send_cancel(c);
            sk_choice_wait_again(c, true);
        }
        if (c->state == CHOICE_WAITING)
            sk_fair_suspect(&j->engine->fair, &c->fair);
    }
    j->blamed = false;
}

static void requeue_job(struct sk_job *j, const struct replica *r)
{
    for (uint32_t i = 0; i < j->n_choice; i++) {
        struct choice *c = &j->choice[i];
        if (c->state == CHOICE_SENT && sk_send_replica(c) == r)
            sk_choice_wait_again(c, true);
    }
    if (j->blamed)
        suspect_job(j);
}

void sk_suspect_requeue(struct replica *r, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct sk_engine *e = r->engine;
    struct sk_job *j;
    for (uint32_t i = 0; i < n_seat; i++)
        blame_seat(r, &seat[i], n_seat == 1);
    sk_send_forget_replica(r);
    TAILQ_FOREACH(j, &e->jobs, link) requeue_job(j, r);
    while ((j = find_poison(e))) /* from the start each time: a callback may free any job */
        sk_choice_end_any(j, SK_EPOISON);
}

void sk_suspect_end_all(struct sk_engine *e, int code)
{
    struct sk_job *j;
    while ((j = TAILQ_FIRST(&e->jobs)))
        sk_choice_end_any(j, code);
}
