/* Frames of the daemon -> jobs and sequences. */
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "engine/batch/loop.h"

static bool ids_ok(const struct sk_loop *l, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= l->conf.n_vocab)
            return false;
    return true;
}

static int take_hello(struct sk_loop *l, const struct sk_wire_hello *h, struct sk_err *err)
{
    if (h->version != SK_WIRE_VERSION)
        return sk_err_set(err, SK_EPROTO, NULL,
                          "the daemon (%s) speaks version %u of the protocol, this engine version %d", h->build,
                          h->version, SK_WIRE_VERSION);
    if (h->digest[0] && l->conf.digest[0] && strcmp(h->digest, l->conf.digest) != 0)
        return sk_err_set(err, SK_EPROTO, NULL, "the daemon wants engine directory %s, this is %s", h->digest,
                          l->conf.digest);
    l->greeted = true;
    return 0;
}

static int take_prompt(struct sk_loop *l, const struct sk_wire_prompt *p, struct sk_err *err)
{
    const int32_t *tok = sk_wire_prompt_tok(p);
    if (p->n_tok == 0 || p->n_choice == 0 || p->n_choice > sk_loop_credit(l) || !ids_ok(l, tok, p->n_tok))
        return sk_err_set(err, SK_EPROTO, NULL,
                          "PROMPT of job %llu: %u tokens, %u choices: empty, too many or not of this vocabulary",
                          (unsigned long long)p->job, p->n_tok, p->n_choice);
    struct sk_seq_job *j = sk_seq_job_new(l->seqs, p->job);
    if (!j)
        return sk_err_set(err, SK_EPROTO, NULL, "PROMPT of job %llu: the job is there already, or there are too many",
                          (unsigned long long)p->job);
    j->n_prompt = p->n_tok;
    j->n_choice = p->n_choice;
    if (p->n_tok <= l->conf.max_len) /* its sequences will be refused otherwise */
        j->prompt = sk_malloc(p->n_tok * sizeof *tok);
    if (j->prompt)
        memcpy(j->prompt, tok, p->n_tok * sizeof *tok);
    return 0;
}

static int check_seq(const struct sk_loop *l, const struct sk_wire_seq *s, const struct sk_seq_job *j,
                     struct sk_err *err)
{
    const char *wrong = NULL;
    if (!j || j->n_arrived >= j->n_choice)
        wrong = "no such job, or more sequences than it has";
    else if (sk_params_check(&s->params, sk_wire_seq_list(s), s->n_list, l->conf.n_vocab))
        wrong = "parameters out of bounds";
    else if (!ids_ok(l, sk_wire_seq_done(s), s->n_done))
        wrong = "tokens that are not of this vocabulary";
    for (const struct sk_seq *q = j && !wrong ? j->seqs : NULL; q; q = q->job_next)
        if (q->choice == s->choice)
            wrong = "the choice is there already";
    if (wrong)
        return sk_err_set(err, SK_EPROTO, NULL, "SEQ %llu/%u: %s", (unsigned long long)s->job, s->choice, wrong);
    return 0;
}

/* Why a sequence cannot be taken in: SK_Exxx, 0 = it can. */
static int refusal(const struct sk_loop *l, const struct sk_seq *q)
{
    uint32_t room = q->params.max_tokens > 0 ? 1 : 0; /* for at least one token of the answer */
    if (q->n_prompt + room > l->conf.max_len)
        return SK_ECTX;
    if (!sk_sched_fits(&l->conf.kv, q->n_prompt, q->max_gen))
        return SK_ENOBLK;
    return q->job->prompt ? 0 : SK_ENOMEM;
}

/* Tokens that were generated before, in an engine that was lost, count as generated here: nothing of them is delivered
 * again. */
static int fill_seq(struct sk_seq *q, const struct sk_wire_seq *s)
{
    uint32_t n_done = s->n_done < q->max_gen ? s->n_done : q->max_gen;
    q->n_list = s->n_list;
    q->list = sk_malloc(s->n_list * sizeof *q->list);
    q->tok = sk_malloc(((size_t)q->n_prompt + q->max_gen) * sizeof *q->tok);
    if (!q->list || !q->tok)
        return SK_ENOMEM;
    memcpy(q->list, sk_wire_seq_list(s), s->n_list * sizeof *q->list);
    memcpy(q->tok, q->job->prompt, q->n_prompt * sizeof *q->tok);
    memcpy(q->tok + q->n_prompt, sk_wire_seq_done(s), n_done * sizeof *q->tok);
    q->n_tok = q->n_prompt + n_done;
    q->n_scored = n_done > 0 ? q->n_prompt : 0;
    return 0;
}

/* The queue is full: there is no place to keep even the refusal. */
static void refuse_at_once(struct sk_loop *l, struct sk_seq_job *j, uint32_t choice, struct sk_buf *out)
{
    struct sk_wire_entry e = {.job = j->id, .choice = choice, .finish = SK_FINISH_ERROR, .reason = SK_EQUEUE};
    size_t at;
    sk_wire_tokens_begin(out, &at, l->step);
    sk_wire_tokens_entry(out, &e);
    sk_wire_tokens_end(out, at, 1, l->seqs->wait.n);
    j->n_arrived++;
}

static int take_seq(struct sk_loop *l, const struct sk_wire_seq *s, struct sk_buf *out, struct sk_err *err)
{
    struct sk_seq_job *j = sk_seq_job_find(l->seqs, s->job);
    int rc = check_seq(l, s, j, err);
    if (rc)
        return rc;
    struct sk_seq *q = sk_seq_new(l->seqs, j, s->choice);
    if (!q) {
        refuse_at_once(l, j, s->choice, out);
        sk_seq_job_settle(l->seqs, j);
        return 0;
    }
    uint32_t max_len = l->conf.max_len;
    q->params = s->params;
    q->urgent = s->flags & SK_SEQ_URGENT;
    q->probation = s->flags & SK_SEQ_SUSPECT ? SK_SEQ_PROBATION : 0;
    q->n_prompt = q->n_tok = j->n_prompt;
    q->max_gen = q->n_prompt >= max_len ? 0 : max_len - q->n_prompt;
    if (q->params.max_tokens < q->max_gen)
        q->max_gen = q->params.max_tokens;

    int reason = refusal(l, q);
    if (!reason)
        reason = fill_seq(q, s);
    if (reason)
        sk_seq_end(l->seqs, q, SK_FINISH_ERROR, reason);
    else if (sk_seq_n_gen(q) == q->max_gen && !sk_seq_scores(q))
        sk_seq_end(l->seqs, q, SK_FINISH_LENGTH, 0);
    else
        sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
    sk_seq_job_settle(l->seqs, j);
    return 0;
}

/* What is not there (any more) finished on its way here. */
static void take_cancel(struct sk_loop *l, const struct sk_wire_cancel *c)
{
    struct sk_seq_job *j = sk_seq_job_find(l->seqs, c->job);
    if (!j)
        return;
    for (struct sk_seq *q = j->seqs; q; q = q->job_next) {
        if ((c->choice != SK_WIRE_ALL && c->choice != q->choice) || q->state == SK_SEQ_ENDED)
            continue;
        q->cancelled = true;
        if (q->n_plan > 0)
            continue; /* its rows come first: deliver.c */
        if (q->state == SK_SEQ_RUN)
            sk_apply_leave(l, q);
        sk_seq_end(l->seqs, q, SK_FINISH_CANCEL, 0);
    }
    if (c->choice == SK_WIRE_ALL) {
        j->n_choice = j->n_arrived;
        sk_seq_job_settle(l->seqs, j);
    }
}

static void take_beat(struct sk_loop *l, const struct sk_wire_beat *b, struct sk_buf *out)
{
    struct sk_wire_stats s;
    sk_loop_stats(l, &s);
    sk_wire_put_beat(out, b->number, l->step);
    sk_wire_put_stats(out, &s);
}

static int take_frame(struct sk_loop *l, const struct sk_frame *f, struct sk_buf *out, struct sk_err *err)
{
    switch (f->kind) {
    case SK_FRAME_HELLO:
        return take_hello(l, (const void *)f, err);
    case SK_FRAME_PROMPT:
        return take_prompt(l, (const void *)f, err);
    case SK_FRAME_SEQ:
        return take_seq(l, (const void *)f, out, err);
    case SK_FRAME_CANCEL:
        take_cancel(l, (const void *)f);
        return 0;
    case SK_FRAME_BEAT:
        take_beat(l, (const void *)f, out);
        return 0;
    case SK_FRAME_PEEK:
        sk_view_put(l, (const void *)f, out);
        return 0;
    case SK_FRAME_QUIT:
        l->quit = true;
        return 0;
    default:
        return sk_err_set(err, SK_EPROTO, NULL, "the daemon sent a frame of kind %u, which only an engine sends",
                          f->kind);
    }
}

int sk_loop_frame(struct sk_loop *l, const struct sk_frame *f, struct sk_buf *out, struct sk_err *err)
{
    if (!l->greeted && f->kind != SK_FRAME_HELLO && f->kind != SK_FRAME_QUIT)
        return sk_err_set(err, SK_EPROTO, NULL, "the daemon sent a frame of kind %u before HELLO", f->kind);
    l->now_us = sk_clock_us();
    sk_seat_frame(l, f);
    int rc = take_frame(l, f, out, err);
    if (!rc)
        sk_seat_under_way(l);
    return rc;
}
