/* The owner's side of a job. */
#include "server/job/job.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "server/job/engine.h"

static void job_release(struct sk_job *j)
{
    for (uint32_t i = 0; i < j->n_choice; i++)
        sk_free(j->choice[i].tok);
    if (j->share)
        sk_fair_part(&j->engine->fair, j->share);
    sk_free(j->prompt);
    sk_free(j->list);
    sk_free(j->chain);
    sk_free(j);
}

static int copy_words(const int32_t *from, uint32_t n, int32_t **ret)
{
    *ret = sk_malloc(n * sizeof **ret);
    if (*ret && n)
        memcpy(*ret, from, n * sizeof **ret);
    return *ret ? 0 : -SK_ENOMEM;
}

/* Short of memory, the request goes to the least loaded replica. */
static void make_chain(struct sk_job *j)
{
    uint32_t n = j->n_prompt / SK_PREFIX_BLOCK_TOK;
    j->chain = j->engine->n_replica > 1 && n > 0 ? sk_malloc(n * sizeof *j->chain) : NULL;
    if (j->chain)
        j->n_chain = sk_prefix_chain(j->params.salt, j->prompt, j->n_prompt, j->chain);
}

static void init_choice(struct sk_job *j, uint32_t i)
{
    j->choice[i] = (struct choice){.job = j,
                                   .index = i,
                                   .fair = {.share = j->share,
                                            .priority = j->params.priority,
                                            .n_prompt = j->n_prompt,
                                            .n_left = j->params.max_tokens,
                                            .age = ++j->engine->n_submit}};
}

static int job_new(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret)
{
    struct sk_job *j = sk_calloc(1, sizeof *j + req->n_choice * sizeof j->choice[0]);
    if (!j)
        return -SK_ENOMEM;
    *j = (struct sk_job){.engine = e,
                         .cb = req->cb,
                         .arg = req->arg,
                         .share = sk_fair_join(&e->fair, req->tenant),
                         .n_prompt = req->n_prompt,
                         .n_list = (uint32_t)sk_params_list_len(req->params),
                         .params = *req->params,
                         .due_first_us = req->first_us,
                         .due_end_us = req->end_us,
                         .submit_us = sk_clock_us(),
                         .n_choice = req->n_choice,
                         .n_open = req->n_choice};
    snprintf(j->id, sizeof j->id, "%s", req->id ? req->id : "");
    if (!j->share || copy_words(req->prompt, j->n_prompt, &j->prompt) != 0 ||
        copy_words(req->list, j->n_list, &j->list) != 0) {
        job_release(j);
        return -SK_ENOMEM;
    }
    *ret = j;
    return 0;
}

int sk_job_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret, struct sk_err *err)
{
    struct sk_job *j;
    sk_assert(req->n_choice > 0 && req->n_prompt > 0);
    int rc = sk_admit_check(e, req, err);
    if (rc != 0)
        return rc;
    if (job_new(e, req, &j) != 0)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    make_chain(j);
    e->journal_tok += j->n_prompt;
    TAILQ_INSERT_TAIL(&e->jobs, j, link);
    for (uint32_t i = 0; i < j->n_choice; i++) {
        init_choice(j, i);
        sk_choice_wait(&j->choice[i]);
    }
    sk_due_watch(e, j);
    sk_send_pump(e);
    *ret = j;
    return 0;
}

void sk_job_cancel(struct sk_job *j, uint32_t choice)
{
    for (uint32_t i = 0; i < j->n_choice; i++) {
        struct choice *c = &j->choice[i];
        if ((choice != SK_WIRE_ALL && choice != i) || c->state == CHOICE_OVER)
            continue;
        if (c->state == CHOICE_SENT)
            sk_send_cancel(c);
        sk_choice_over(c);
    }
    sk_send_pump(j->engine);
}

void sk_job_free(struct sk_job *j)
{
    struct sk_engine *e = j->engine;
    sk_job_cancel(j, SK_WIRE_ALL);
    sk_send_forget(e, j);
    e->journal_tok -= j->n_prompt;
    for (uint32_t i = 0; i < j->n_choice; i++)
        e->journal_tok -= j->choice[i].n_tok;
    job_release(j);
    sk_engine_publish(e);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

void sk_job_bill(const struct sk_job *j, struct sk_job_bill *ret)
{
    uint64_t end_us = j->over_us ? j->over_us : sk_clock_us();
    uint64_t sent_us = j->sent_us ? j->sent_us : end_us, first_us = j->first_us ? j->first_us : end_us;
    struct sk_job_bill b = {.queue_us = sent_us - j->submit_us,
                            .prefill_us = first_us - sent_us,
                            .decode_us = j->first_us ? j->last_us - j->first_us : 0};
    for (uint32_t i = 0; i < j->n_choice; i++) {
        const struct choice *c = &j->choice[i];
        b.cpu_us += c->before.cpu_us + c->now.cpu_us;
        b.blk_us += c->before.blk_us + c->now.blk_us;
        b.n_preempt = larger(b.n_preempt, c->before.n_preempt + c->now.n_preempt);
        b.n_readmit = larger(b.n_readmit, c->n_readmit);
    }
    *ret = b;
}

static struct sk_job_view view(const struct choice *c, uint64_t now)
{
    static const enum sk_job_state states[] = {[CHOICE_NEW] = SK_JOB_WAITING,
                                               [CHOICE_WAITING] = SK_JOB_WAITING,
                                               [CHOICE_SENT] = SK_JOB_SENT,
                                               [CHOICE_OVER] = SK_JOB_OVER};
    const struct sk_job *j = c->job;
    return (struct sk_job_view){.id = j->id,
                                .tenant = j->share->tenant->name,
                                .wire = c->state == CHOICE_SENT ? sk_send_id(j->engine, c->sending) : 0,
                                .choice = c->index,
                                .n_prompt = j->n_prompt,
                                .n_done = c->n_tok,
                                .max_tokens = j->params.max_tokens,
                                .priority = j->params.priority,
                                .state = states[c->state],
                                .suspect = c->fair.suspect,
                                .age_us = now - j->submit_us};
}

void sk_engine_each(const struct sk_engine *e, void (*each)(void *arg, const struct sk_job_view *v), void *arg)
{
    const struct sk_job *j;
    uint64_t now = sk_clock_us();
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        for (uint32_t i = 0; i < j->n_choice; i++) {
            struct sk_job_view v = view(&j->choice[i], now);
            if (v.state != SK_JOB_OVER)
                each(arg, &v);
        }
    }
}
