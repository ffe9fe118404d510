#include "server/job/shape.h"

#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/wire/wire.h"

static int check(const struct sk_conf *conf, struct sk_shape *s, struct sk_err *err)
{
    uint32_t n = s->full_tp * s->full_pp;
    if (n > SK_WIRE_MAX_RANKS)
        return sk_err_set(err, SK_ERANGE, "tp", "--tp x --pp are %u ranks; an engine has at most %d", n,
                          SK_WIRE_MAX_RANKS);
    if (conf->engine_listen[0])
        return conf->replicas == 1 ? 0
                                   : sk_err_set(err, SK_EINVAL, "engine-listen",
                                                "--engine-listen waits for one engine; --replicas must be 1");
    int rc = n > 1 ? sk_launch_check(err) : 0;
    if (rc == 0 && n > 1 && conf->hostfile[0])
        rc = sk_launch_read_hosts(conf->hostfile, &s->all, err);
    if (rc == 0 && s->all.n > 0)
        rc = sk_launch_check_hosts(&s->all, n, err);
    return rc;
}

int sk_shape_init(struct sk_shape *s, const struct sk_conf *conf, struct sk_err *err)
{
    *s = (struct sk_shape){.conf = conf, .full_tp = (uint32_t)conf->tp, .full_pp = (uint32_t)conf->pp};
    int rc = check(conf, s, err);
    s->n_tp = s->full_tp;
    s->n_pp = s->full_pp;
    s->hosts = s->all;
    return rc;
}

bool sk_shape_is_one(const struct sk_shape *s)
{
    return s->n_tp * s->n_pp == 1;
}

bool sk_shape_is_full(const struct sk_shape *s)
{
    return s->n_tp == s->full_tp && s->n_pp == s->full_pp;
}

void sk_shape_lost(struct sk_shape *s, uint64_t now_ms)
{
    if (s->lost_ms == 0)
        s->lost_ms = now_ms ? now_ms : 1;
}

void sk_shape_ready(struct sk_shape *s)
{
    s->lost_ms = 0;
}

bool sk_shape_must_ask(const struct sk_shape *s, uint64_t now_ms)
{
    bool too_long = s->lost_ms > 0 && now_ms - s->lost_ms >= (uint64_t)s->conf->rank_loss_wait;
    return s->all.n > 1 && strcmp(s->conf->on_rank_loss, "shrink") == 0 && (too_long || !sk_shape_is_full(s));
}

/* Stages are kept, since their ranks are the ones that a loss leaves without work; fewer only where there is not even
 * one rank for each. */
void sk_shape_fit(struct sk_shape *s, const struct sk_launch_hosts *alive)
{
    uint32_t n_slot = alive->n_slot, was_tp = s->n_tp, was_pp = s->n_pp;
    s->n_pp = n_slot < s->full_pp ? n_slot : s->full_pp;
    s->n_tp = n_slot / s->n_pp < s->full_tp ? n_slot / s->n_pp : s->full_tp;
    s->hosts = *alive;
    if (s->n_tp != was_tp || s->n_pp != was_pp)
        sk_log(SK_LOG_WARN,
               "%u of %u hosts answer, with %u slots: the engine goes on with tp %u x pp %u instead of %u x %u",
               alive->n, s->all.n, n_slot, s->n_tp, s->n_pp, was_tp, was_pp);
}
