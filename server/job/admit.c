/* Who is let in: there is an engine, the request fits, the queue has room, and its deadlines can be met by the rates
 * measured so far. Who is not is told when to come again. */
#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/conf.h"
#include "server/job/engine.h"

enum { MIN_RETRY_MS = 100, MAX_RETRY_MS = 60000, UNKNOWN_RETRY_MS = 1000 };

static int refuse(struct sk_err *err, int code, double us)
{
    double ms = us > 0 ? us / 1000 : UNKNOWN_RETRY_MS;
    if (err)
        err->retry_ms = ms < MIN_RETRY_MS ? MIN_RETRY_MS : ms > MAX_RETRY_MS ? MAX_RETRY_MS : (uint32_t)ms;
    return -code;
}

/* Replicas that serve, at least the one that is waited for. */
static uint32_t n_living(const struct sk_engine *e)
{
    uint32_t n = sk_engine_n_serving(e);
    return n > 0 ? n : 1;
}

/* Until n sequences have ended: they end at all replicas at a time. */
static double drain_us(const struct sk_engine *e, double n)
{
    return sk_pace_drain_us(&e->pace, n) / n_living(e);
}

/* How long until sequences have ended that hold so many of `all` tokens, which n_seq have together. */
static double drain_tok_us(const struct sk_engine *e, uint64_t tok, uint64_t all, uint32_t n_seq)
{
    return all ? drain_us(e, (double)tok * n_seq / (double)all + 1) : 0;
}

static int check_ready(const struct sk_engine *e, struct sk_err *err)
{
    struct sk_engine_status st;
    if (e->is_over) /* it holds the model that is replaced */
        return sk_err_set(err, SK_EREPLACED, NULL, "The model was replaced by another one; ask again.");
    sk_engine_status(e, &st);
    if (e->is_started && !e->is_hopeless && st.state != SK_ENGINE_FAILED && st.state < SK_ENGINE_STOPPING)
        return 0;
    return sk_err_set(err, SK_EUNAVAIL, NULL, "The model is not ready: %s.", st.text);
}

static int check_length(const struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err)
{
    uint64_t want = (uint64_t)req->n_prompt + req->params->max_tokens;
    if (want <= e->hello.max_len)
        return 0;
    return sk_err_set(err, SK_ECTX, NULL,
                      "This model's maximum context length is %u tokens. However, you requested %llu tokens (%u in the "
                      "prompt, %u for the answer).",
                      e->hello.max_len, (unsigned long long)want, req->n_prompt, req->params->max_tokens);
}

int sk_job_fits(const struct sk_engine *e, uint64_t n_seq, uint64_t n_tok, struct sk_err *err)
{
    const struct sk_conf *conf = e->conf.conf;
    uint64_t max_seq = e->hello.max_seqs + (uint64_t)conf->max_queue, max_tok = (uint64_t)conf->journal_tokens;
    if (e->is_started && n_seq > max_seq)
        return sk_err_set(err, SK_ERANGE, NULL,
                          "This request has %llu sequences; not more than %llu can run or wait (--max-seqs, "
                          "--max-queue).",
                          (unsigned long long)n_seq, (unsigned long long)max_seq);
    if (e->is_started && n_tok > max_tok)
        return sk_err_set(err, SK_ERANGE, NULL,
                          "This request's prompts have %llu tokens; unfinished requests can hold not more than %llu "
                          "(--journal-tokens).",
                          (unsigned long long)n_tok, (unsigned long long)max_tok);
    return 0;
}

/* Alone it has all places, and what goes beyond these waits. */
static int check_size(const struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err)
{
    uint64_t places = e->hello.max_seqs, max_tok = (uint64_t)e->conf.conf->max_queue_tokens;
    uint64_t wait_tok = req->n_choice > places ? (req->n_choice - places) * req->n_prompt : 0;
    int rc = sk_job_fits(e, req->n_choice, req->n_prompt, err);
    if (rc == 0 && wait_tok > max_tok)
        rc = sk_err_set(err, SK_ERANGE, NULL,
                        "This request's prompts that would have to wait have %llu tokens; not more than %llu can wait "
                        "(--max-queue-tokens).",
                        (unsigned long long)wait_tok, (unsigned long long)max_tok);
    return rc;
}

/* Its sequences that find no place. */
static uint64_t n_to_wait(const struct sk_engine *e, const struct sk_job_req *req, uint64_t want)
{
    uint64_t over = want > e->hello.max_seqs ? want - e->hello.max_seqs : 0;
    return sk_engine_n_serving(e) == 0 || over > req->n_choice ? req->n_choice : over;
}

static int check_queue(struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err)
{
    const struct sk_conf *conf = e->conf.conf;
    const struct sk_fair *f = &e->fair;
    uint32_t open = f->n_board + f->n_waiting;
    uint64_t limit = e->hello.max_seqs + (uint64_t)conf->max_queue, want = (uint64_t)open + req->n_choice;
    if (want > limit) {
        sk_err_set(err, SK_EQUEUE, NULL,
                   "The queue is full: %u sequences run or wait, and this request has %u more; the limit is %llu "
                   "(--max-seqs, --max-queue).",
                   open, req->n_choice, (unsigned long long)limit);
        return refuse(err, SK_EQUEUE, drain_us(e, (double)(want - limit)));
    }
    uint64_t more_tok = n_to_wait(e, req, want) * req->n_prompt, max_tok = (uint64_t)conf->max_queue_tokens;
    if (more_tok > 0 && f->waiting_tok + more_tok > max_tok) {
        sk_err_set(err, SK_EQUEUE, NULL,
                   "The queue is full: the prompts that wait have %llu tokens, and this request has %llu more; the "
                   "limit is %llu (--max-queue-tokens).",
                   (unsigned long long)f->waiting_tok, (unsigned long long)more_tok, (unsigned long long)max_tok);
        return refuse(err, SK_EQUEUE,
                      drain_tok_us(e, f->waiting_tok + more_tok - max_tok, f->waiting_tok, f->n_waiting));
    }
    max_tok = (uint64_t)conf->journal_tokens;
    if (e->journal_tok + req->n_prompt > max_tok) {
        sk_err_set(err, SK_EQUEUE, NULL, "Unfinished requests hold %llu tokens; the limit is %llu (--journal-tokens).",
                   (unsigned long long)e->journal_tok, (unsigned long long)max_tok);
        return refuse(err, SK_EQUEUE, drain_tok_us(e, e->journal_tok + req->n_prompt - max_tok, e->journal_tok, open));
    }
    return 0;
}

/* The answer may end early by a stop id or string, so only what must come counts. */
static uint32_t least_answer(const struct sk_params *p)
{
    if (p->flags & SK_PARAMS_IGNORE_EOS && p->n_stop_ids == 0)
        return p->max_tokens;
    return p->min_tokens > 1 ? p->min_tokens : 1;
}

static const char *put_span(char *ret, size_t n, uint64_t us)
{
    if (us < 1000000)
        snprintf(ret, n, "%llu ms", (unsigned long long)us / 1000);
    else
        snprintf(ret, n, "%.1f s", (double)us / 1e6);
    return ret;
}

static int check_due(struct sk_engine *e, uint64_t est_us, uint64_t due_us, const char *what, struct sk_err *err)
{
    uint64_t now = sk_clock_us(), left_us = due_us > now ? due_us - now : 0;
    if (due_us == 0 || (left_us > 0 && est_us <= left_us))
        return 0;
    char est[32], left[32];
    sk_err_set(err, SK_EBEHIND, NULL, "By the measured rate the %s would come after %s, and has to after %s.", what,
               put_span(est, sizeof est, est_us), put_span(left, sizeof left, left_us));
    if (e->fair.n_board + e->fair.n_waiting == 0)
        sk_pace_doubt(&e->pace);
    return refuse(err, SK_EBEHIND, est_us > left_us ? (double)(est_us - left_us) : 0);
}

int sk_admit_check(struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err)
{
    struct sk_engine_estimate est;
    int rc = check_ready(e, err);
    if (rc == 0)
        rc = check_length(e, req, err);
    if (rc == 0)
        rc = check_size(e, req, err);
    if (rc == 0)
        rc = check_queue(e, req, err);
    if (rc != 0)
        return rc;
    sk_engine_estimate(e, req->tenant, req->n_prompt, least_answer(req->params), &est);
    rc = check_due(e, est.first_us, req->first_us, "first token", err);
    return rc == 0 ? check_due(e, est.end_us, req->end_us, "end", err) : rc;
}

/* Prompts on board that are not computed yet come first, unless the tenant has a claim to overtake them (fair.h). */
void sk_engine_estimate(const struct sk_engine *e, const struct sk_tenant *t, uint32_t n_prompt, uint32_t n_answer,
                        struct sk_engine_estimate *ret)
{
    const struct sk_pace *p = &e->pace;
    uint32_t places = e->hello.max_seqs, step_tok = (uint32_t)e->conf.conf->max_step_tokens;
    memset(ret, 0, sizeof *ret);
    if (!sk_pace_is_known(p))
        return;
    uint32_t n = n_living(e), n_board = (e->fair.n_board + n - 1) / n, seats = (places + n - 1) / n; /* of a replica */
    double queue_us = drain_us(e, sk_fair_ahead(&e->fair, t, places));
    double before_tok = queue_us > 0 ? 0 : (double)e->fair.fresh_tok / n;
    if (t->n_waiting + t->n_sent == 0 && before_tok > step_tok)
        before_tok = step_tok;
    uint32_t n_row = n_board < seats ? n_board : seats - 1;
    double fill_us = sk_pace_fill_us(p, (n_prompt + before_tok) * (1 - p->cached), n_row, step_tok,
                                     1000.0 * (double)e->conf.conf->itl_target_ms);
    double answer_us = n_answer > 1 ? (n_answer - 1) * sk_pace_step_us(p, n_row + 1) : 0;
    ret->queue_us = (uint64_t)queue_us;
    ret->first_us = (uint64_t)(queue_us + fill_us);
    ret->end_us = (uint64_t)(queue_us + fill_us + answer_us);
}
