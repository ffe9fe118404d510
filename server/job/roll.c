/* Replicas are taken out, and replaced one after the other while the others serve:
 *
 *   WAITING --another one serves, or none can come to serve--> CLOSING --its processes are gone--> STARTING
 *   STARTING --READY--> WAITING for the next, or NONE          STARTING --in vain--> NONE, and `why` says why
 *
 * Those that do not serve come first: they bring back what the others need to be taken out.
 * What the replica had on board waits from CLOSING on, and goes on at the others, or at the same one once it is back.
 */
#include <stdio.h>
#include "comm/base/log.h"
#include "server/job/engine.h"

static void to(struct sk_engine *e, enum roll_state state)
{
    static const unsigned next[] = {
        [ROLL_NONE] = 1u << ROLL_WAITING,
        [ROLL_WAITING] = 1u << ROLL_CLOSING,
        [ROLL_CLOSING] = 1u << ROLL_STARTING | 1u << ROLL_NONE,
        [ROLL_STARTING] = 1u << ROLL_WAITING | 1u << ROLL_NONE,
    };
    sk_assert(next[e->roll.state] & 1u << state);
    e->roll.state = state;
}

static bool other_serves(const struct sk_engine *e, const struct replica *r)
{
    bool any = false;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        const struct replica *k = &e->replicas[i];
        any |= k != r && sk_replica_serves(k);
    }
    return any;
}

static bool other_may_serve(const struct sk_engine *e, const struct replica *r)
{
    bool any = false;
    for (uint32_t i = 0; i < e->n_replica; i++)
        any |= &e->replicas[i] != r && sk_replica_may_serve(&e->replicas[i]);
    return any;
}

/* Returns whether there is one. */
static bool choose(struct sk_engine *e)
{
    bool any = false;
    for (uint32_t i = e->n_replica; i-- > 0;) {
        bool is_better = !any || !sk_replica_serves(&e->replicas[i]) || sk_replica_serves(&e->replicas[e->roll.at]);
        if (!e->roll.is_due[i] || !is_better)
            continue;
        e->roll.at = i;
        any = true;
    }
    return any;
}

static void fail(struct sk_engine *e, const struct replica *r, const char *why)
{
    snprintf(e->roll.why, sizeof e->roll.why, "replica %u could not be started: %.440s", r->index, why);
    sk_log(SK_LOG_ERROR, "%s", e->roll.why);
    to(e, ROLL_NONE);
}

static void start(struct sk_engine *e, struct replica *r)
{
    struct sk_err err;
    to(e, ROLL_STARTING);
    if (sk_replica_open(r, true, &err) != 0)
        fail(e, r, err.msg);
}

static void finish(struct sk_engine *e, const struct replica *r)
{
    sk_log(SK_LOG_INFO, "replica %u was replaced", r->index);
    e->roll.is_due[r->index] = false;
    to(e, choose(e) ? ROLL_WAITING : ROLL_NONE);
}

/* One that was closed for good is just started. Returns whether something was done, so that there may be more. */
static bool step(struct sk_engine *e)
{
    if (e->roll.state == ROLL_WAITING)
        choose(e); /* again: another one may have ceased to serve */
    struct replica *r = &e->replicas[e->roll.at];
    struct sk_engine_status st;
    switch (e->roll.state) {
    case ROLL_WAITING:
        if (sk_replica_serves(r) && !other_serves(e, r) && other_may_serve(e, r))
            return false;
        to(e, ROLL_CLOSING);
        if (r->state == REPLICA_OPEN)
            sk_replica_close(r);
        return true;
    case ROLL_CLOSING:
        if (r->state == REPLICA_EMPTY)
            start(e, r);
        return r->state == REPLICA_OPEN;
    case ROLL_STARTING:
        sk_replica_status(r, &st);
        if (sk_replica_is_ready(r))
            finish(e, r);
        else if (r->state != REPLICA_OPEN || r->is_hopeless || st.state == SK_ENGINE_FAILED)
            fail(e, r, st.text);
        else
            return false;
        return true;
    default:
        return false;
    }
}

void sk_roll_go_on(struct sk_engine *e)
{
    while (!e->is_closing && step(e))
        ;
}

static int find(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    if (i < e->n_replica)
        return 0;
    return sk_err_set(err, SK_ERANGE, "replica", "There is no replica %u; there are %u, from 0.", i, e->n_replica);
}

int sk_engine_restart(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    int rc = i == SK_ENGINE_ALL ? 0 : find(e, i, err);
    if (rc != 0)
        return rc;
    if (e->roll.state != ROLL_NONE)
        return sk_err_set(err, SK_EBUSY, NULL, "Replica %u is just being replaced.", e->roll.at);
    if (!e->is_started)
        return sk_err_set(err, SK_EBUSY, NULL, "The replicas are just being started.");
    for (uint32_t k = 0; k < e->n_replica; k++)
        e->roll.is_due[k] = i == SK_ENGINE_ALL || i == k;
    choose(e);
    e->roll.why[0] = '\0';
    to(e, ROLL_WAITING);
    sk_due_again(e);
    return 0;
}

bool sk_engine_is_rolling(const struct sk_engine *e, const char **ret_why)
{
    *ret_why = e->roll.why;
    return e->roll.state != ROLL_NONE;
}

int sk_engine_drain(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    int rc = find(e, i, err);
    if (rc != 0)
        return rc;
    struct replica *r = &e->replicas[i];
    if (e->roll.state != ROLL_NONE)
        return sk_err_set(err, SK_EBUSY, NULL, "Replica %u cannot be drained while replica %u is being replaced.", i,
                          e->roll.at);
    if (!other_serves(e, r))
        return sk_err_set(err, SK_EBUSY, NULL, "Replica %u cannot be drained: no other one serves.", i);
    if (r->is_drained)
        return 0;
    sk_log(SK_LOG_WARN, "replica %u is drained: %u sequences go on elsewhere", i, r->n_board);
    r->is_drained = true;
    sk_replica_unload(r);
    sk_engine_replica_changed(r);
    return 0;
}

void sk_engine_take_off(struct sk_engine *e, uint32_t i)
{
    struct replica *r = &e->replicas[i];
    snprintf(r->why, sizeof r->why, "it was given up for another model");
    if (r->state == REPLICA_OPEN)
        sk_replica_close(r);
    sk_engine_replica_changed(r);
}

int sk_engine_put_on(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    sk_assert(e->replicas[i].state == REPLICA_EMPTY);
    return sk_replica_open(&e->replicas[i], e->is_started, err);
}
