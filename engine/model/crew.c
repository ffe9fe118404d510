#include "engine/model/crew.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "comm/base/buf.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "comm/group/world.h"
#include "engine/model/step.h"

enum {
    N_PAST = 256, /* plans whose hash the leader remembers: no rank is so far behind */
    RSS_EVERY_US = 1000000
};

/* From the first rank of the last stage to the leader; then n rows. */
struct reply_head {
    uint64_t number, busy_us;
    uint64_t n;
};

struct sent { /* a plan that was submitted and not collected */
    uint64_t step, busy_us;
};

struct sk_crew {
    struct sk_rank *rank;
    struct sk_world *world;
    uint32_t depth, n_stage, n_rank;
    uint64_t n_run, n_done;           /* plans: run or enqueued here, collected */
    bool running;                     /* the last one was not waited for */
    const struct sk_result_row *rows; /* of the last one */
    uint32_t n_row;
    uint64_t busy_us;              /* that it took here */
    struct sk_ctl_report own;      /* of this rank; `step` counts plans, which a recording may number otherwise */
    uint64_t sum_step;             /* of own.sum, as the rank numbers it */
    uint64_t rss_us;               /* when rss_bytes was read */
    struct sent *sent;             /* leader: [depth], a ring by the plan's number */
    uint64_t past[N_PAST];         /* leader: hashes of all plans up to number i, at i % N_PAST */
    struct sk_ctl_report *reports; /* leader: [n_rank] */
    struct sk_wire_rank *place;    /* leader: [n_rank], what does not change */
    struct sk_buf reply;           /* last stage */
};

static bool leads(const struct sk_crew *c)
{
    return !c->world || c->world->rank == 0;
}

/* ---- this rank's own part ---- */

/* A system call, and so only now and then. */
static void read_rss(struct sk_crew *c)
{
    unsigned long long pages = 0;
    uint64_t now = sk_clock_us();
    if (c->own.rss_bytes && now - c->rss_us < RSS_EVERY_US)
        return;
    c->rss_us = now;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return;
    if (fscanf(f, "%*u %llu", &pages) == 1)
        c->own.rss_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    fclose(f);
}

static void report(struct sk_crew *c)
{
    if (!c->world)
        return;
    read_rss(c);
    sk_ctl_report(c->world->ctl, &c->own);
}

static void account(struct sk_crew *c)
{
    struct sk_rank_times t;
    sk_rank_times(c->rank, &t);
    c->busy_us = t.step_us > t.recv_us ? t.step_us - t.recv_us : 0;
    c->own.step = c->n_run;
    c->own.busy_us += t.step_us;
    c->own.collective_us += t.collective_us;
    c->own.wait_us += t.recv_us;
    if (t.sum_step != c->sum_step || t.sum != c->own.sum) { /* a new one, of this plan */
        c->sum_step = t.sum_step;
        c->own.sum_step = c->n_run;
        c->own.sum = t.sum;
    }
    if (leads(c))
        c->sent[c->n_run % c->depth].busy_us = c->busy_us;
    report(c);
}

static int settle(struct sk_crew *c, struct sk_err *err)
{
    if (!c->running)
        return 0;
    c->running = false;
    int rc = sk_rank_wait(c->rank, &c->rows, &c->n_row, err);
    if (!rc)
        account(c);
    return rc;
}

static int run(struct sk_crew *c, const void *plan, size_t n, struct sk_err *err)
{
    int rc = settle(c, err);
    if (!rc)
        rc = sk_rank_step(c->rank, plan, n, err);
    if (rc)
        return rc;
    c->running = true;
    c->n_run++;
    if (c->world)
        c->own.plan_hash = XXH3_64bits_withSeed(plan, n, c->own.plan_hash);
    return 0;
}

/* ---- opening ---- */

/* Does this rank have the rows, and another one the leader? */
static bool replies(const struct sk_crew *c)
{
    const struct sk_world *w = c->world;
    return w && w->n_pp > 1 && w->stage == w->n_pp - 1 && w->tp_rank == 0;
}

static void place_of(const struct sk_crew_conf *conf, struct sk_wire_rank *ret)
{
    const struct sk_world *w = conf->world;
    *ret = (struct sk_wire_rank){.pid = getpid()};
    if (w) {
        ret->rank = (uint32_t)w->rank;
        ret->stage = (uint32_t)w->stage;
        ret->tp_rank = (uint32_t)w->tp_rank;
        snprintf(ret->host, sizeof ret->host, "%s", w->host_name);
    } else if (gethostname(ret->host, sizeof ret->host - 1)) {
        ret->host[0] = '\0';
    }
    if (conf->need) {
        ret->first_layer = conf->need->first_layer;
        ret->n_layer = conf->need->n_layer;
        ret->first_head = conf->need->first_head;
        ret->n_head = conf->need->n_head;
        ret->first_vocab = conf->need->first_vocab;
        ret->n_vocab = conf->need->n_vocab;
    }
}

/* Everyone's place, at the leader. */
static int gather_places(struct sk_crew *c, const struct sk_wire_rank *own)
{
    char *all = NULL;
    size_t n = 0;
    if (!c->world) {
        c->place[0] = *own;
        return 0;
    }
    int rc = sk_world_gather(c->world, own, sizeof *own, &all, &n);
    if (!rc && leads(c)) {
        sk_assert(n == c->n_rank * sizeof *own);
        memcpy(c->place, all, n);
    }
    sk_free(all);
    return rc;
}

static int open_memory(struct sk_crew *c)
{
    struct sk_plan_limits lim;
    sk_rank_limits(c->rank, &lim);
    c->sent = sk_calloc(c->depth, sizeof *c->sent);
    c->reports = sk_calloc(c->n_rank, sizeof *c->reports);
    c->place = sk_calloc(c->n_rank, sizeof *c->place);
    if (!c->sent || !c->reports || !c->place)
        return -SK_ENOMEM;
    if (!replies(c))
        return 0;
    sk_buf_init(&c->reply, sizeof(struct reply_head) + (size_t)lim.max_result * sizeof(struct sk_result_row));
    return sk_buf_reserve(&c->reply, c->reply.max);
}

int sk_crew_open(const struct sk_crew_conf *conf, struct sk_crew **ret, struct sk_err *err)
{
    struct sk_wire_rank own;
    struct sk_crew *c = sk_calloc(1, sizeof *c);
    if (!c)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a rank's control");
    c->rank = conf->rank;
    c->world = conf->world;
    c->n_stage = c->world ? (uint32_t)c->world->n_pp : 1;
    c->n_rank = c->world ? (uint32_t)c->world->size : 1;
    c->depth = c->n_stage > 1 ? c->n_stage + 1 : 1;
    place_of(conf, &own);
    c->own.pid = own.pid;
    c->own.host = c->world ? c->world->host : 0;
    snprintf(c->own.host_name, sizeof c->own.host_name, "%s", own.host);
    report(c); /* before what all ranks do together: after that the leader has everyone's */
    int rc = open_memory(c);
    if (rc)
        sk_err_set(err, -rc, NULL, "no memory for the results of %u ranks", c->n_rank);
    else if ((rc = gather_places(c, &own)))
        sk_err_set(err, -rc, NULL, "a rank was lost while the others waited for it");
    if (rc)
        sk_crew_close(c);
    else
        *ret = c;
    return rc;
}

void sk_crew_close(struct sk_crew *c)
{
    if (!c)
        return;
    if (c->world && leads(c))
        sk_ctl_send(c->world->ctl, SK_CTL_QUIT, NULL, 0); /* to those that are still there */
    sk_free(c->sent);
    sk_free(c->reports);
    sk_free(c->place);
    sk_buf_done(&c->reply);
    sk_free(c);
}

/* ---- the leader ---- */

uint32_t sk_crew_depth(const struct sk_crew *c)
{
    return c->depth;
}

static int lost(struct sk_err *err, int rc, const char *what)
{
    return sk_err_set(err, -rc, NULL, "a rank was lost: %s", what);
}

int sk_crew_submit(struct sk_crew *c, const void *plan, size_t n, struct sk_err *err)
{
    sk_assert(c->n_run - c->n_done < c->depth);
    int rc = c->world ? sk_ctl_send(c->world->ctl, SK_CTL_PLAN, plan, n) : 0;
    if (rc)
        return lost(err, rc, "a plan could not be sent");
    rc = run(c, plan, n, err);
    if (rc)
        return rc;
    c->sent[c->n_run % c->depth].step = ((const struct sk_plan_head *)plan)->step;
    c->past[c->n_run % N_PAST] = c->own.plan_hash;
    return 0;
}

static int diverged(const struct sk_crew *c, uint32_t rank, uint64_t number, const char *what, struct sk_err *err)
{
    return sk_err_set(err, SK_EDIVERGED, NULL, "rank %u on %s has diverged: %s (plan %llu of this job)", rank,
                      c->place[rank].host, what, (unsigned long long)number);
}

/* Reports come when they come: each is compared with what belongs to it. */
static int compare(struct sk_crew *c, struct sk_err *err)
{
    uint32_t n_tp = c->n_rank / c->n_stage;
    sk_ctl_reports(c->world->ctl, c->reports);
    for (uint32_t i = 1; i < c->n_rank; i++) {
        const struct sk_ctl_report *r = &c->reports[i], *first = &c->reports[i / n_tp * n_tp];
        if (r->step > 0 && c->n_run - r->step < N_PAST && r->plan_hash != c->past[r->step % N_PAST])
            return diverged(c, i, r->step, "it was given other plans", err);
        if (r->sum_step > 0 && r->sum_step == first->sum_step && r->sum != first->sum)
            return diverged(c, i, r->sum_step, "its hidden state differs from that of its stage's first rank", err);
    }
    return 0;
}

/* With several stages: rows that the last one sent. 1, 0 = none yet. */
static int take_reply(struct sk_crew *c, bool wait, struct sk_crew_result *ret, struct sk_err *err)
{
    const void *p;
    size_t n;
    struct reply_head h;
    int rc = sk_ctl_take(c->world->ctl, wait, &p, &n);
    if (rc < 0)
        return lost(err, rc, "no rows came back");
    if (rc == 0)
        return 0;
    if (n >= sizeof h)
        memcpy(&h, p, sizeof h);
    if (n < sizeof h || h.number != c->n_done + 1 || n - sizeof h != h.n * sizeof *ret->rows)
        return diverged(c, c->n_rank - c->n_rank / c->n_stage, c->n_done + 1, "its rows are not of this plan", err);
    ret->rows = (const void *)((const char *)p + sizeof h);
    ret->n = (uint32_t)h.n;
    ret->busy_us = (c->sent[h.number % c->depth].busy_us + h.busy_us) * c->n_stage / 2;
    return 1;
}

int sk_crew_collect(struct sk_crew *c, bool wait, struct sk_crew_result *ret, struct sk_err *err)
{
    struct sk_crew_result r = {0};
    sk_assert(c->n_done < c->n_run);
    int rc = settle(c, err);
    if (rc)
        return rc;
    if (c->n_stage > 1) {
        rc = take_reply(c, wait, &r, err);
        if (rc <= 0)
            return rc;
    } else {
        r = (struct sk_crew_result){.rows = c->rows, .n = c->n_row, .busy_us = c->busy_us};
    }
    rc = c->world ? compare(c, err) : 0;
    if (rc)
        return rc;
    r.step = c->sent[++c->n_done % c->depth].step;
    *ret = r;
    return 1;
}

uint32_t sk_crew_ranks(struct sk_crew *c, struct sk_wire_rank *ret)
{
    if (c->world) {
        sk_ctl_reports(c->world->ctl, c->reports);
    } else {
        read_rss(c);
        c->reports[0] = c->own;
    }
    for (uint32_t i = 0; i < c->n_rank; i++) {
        const struct sk_ctl_report *r = &c->reports[i];
        ret[i] = c->place[i];
        ret[i].rss_bytes = r->rss_bytes;
        ret[i].step = r->step;
        ret[i].busy_us = r->busy_us;
        ret[i].collective_us = r->collective_us;
        ret[i].wait_us = r->wait_us;
    }
    return c->n_rank;
}

/* ---- the others ---- */

static int reply(struct sk_crew *c, struct sk_err *err)
{
    struct reply_head h = {.number = c->n_run, .busy_us = c->busy_us, .n = c->n_row};
    sk_buf_clear(&c->reply);
    sk_buf_add(&c->reply, &h, sizeof h);
    sk_buf_add(&c->reply, c->rows, c->n_row * sizeof *c->rows);
    int rc = sk_ctl_reply(c->world->ctl, c->reply.p, c->reply.n);
    return rc ? lost(err, rc, "the leader does not take results") : 0;
}

int sk_crew_follow(struct sk_crew *c, struct sk_err *err)
{
    for (;;) {
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        int rc = sk_ctl_next(c->world->ctl, &kind, &p, &n);
        if (rc)
            return lost(err, rc, "the leader is gone");
        if (kind == SK_CTL_QUIT)
            return 0;
        rc = run(c, p, n, err);
        if (!rc)
            rc = settle(c, err);
        if (!rc && replies(c))
            rc = reply(c, err);
        if (rc)
            return rc;
    }
}
