#include "server/job/job.h"

#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/job/engine.h"

enum {
    MAX_CRASHES = 3,             /* engines that one job may take part in ending */
    MAX_PENDING_BYTES = 1 << 20, /* frames wait here rather than in the channel: a cancel must not queue behind them */
    MAX_SENDING_BYTES = SK_FRAME_MAX / 2
};

/* --- states of a choice --- */

static void to_waiting(struct sk_job *j, struct choice *c)
{
    c->state = CHOICE_WAITING;
    c->skip = c->n_tok ? 0 : c->n_prompt_items;
    j->engine->n_waiting++;
    if (j->n_waiting++ == 0)
        TAILQ_INSERT_TAIL(&j->engine->queue, j, queue);
}

static void leave_queue(struct sk_job *j)
{
    j->engine->n_waiting--;
    if (--j->n_waiting == 0)
        TAILQ_REMOVE(&j->engine->queue, j, queue);
}

static void to_sent(struct sk_job *j, struct choice *c, uint32_t sending)
{
    leave_queue(j);
    c->state = CHOICE_SENT;
    c->sending = sending;
    j->engine->n_sent++;
}

/* The engine's finish of a sequence, not this, gives its credit back. */
static void to_over(struct sk_job *j, struct choice *c)
{
    if (c->state == CHOICE_WAITING)
        leave_queue(j);
    c->state = CHOICE_OVER;
    if (--j->n_open == 0)
        TAILQ_REMOVE(&j->engine->jobs, j, link);
}

static void end_with_error(struct sk_job *j, uint32_t i, int code)
{
    const struct sk_wire_entry entry = {.choice = i, .finish = SK_FINISH_ERROR, .reason = code};
    const struct sk_job_event ev = {.choice = i, .entry = &entry};
    to_over(j, &j->choice[i]);
    j->cb(j->arg, j, &ev); /* may free j */
}

/* --- sendings --- */

static uint64_t wire_id(const struct sk_engine *e, uint32_t sending)
{
    return (uint64_t)e->sendings[sending].generation << 32 | sending;
}

static struct sending *find_sending(struct sk_engine *e, uint64_t id)
{
    uint32_t i = (uint32_t)id;
    if (i >= e->n_sending || e->sendings[i].n_seq == 0 || wire_id(e, i) != id)
        return NULL;
    return &e->sendings[i];
}

static int new_sending(struct sk_engine *e, uint32_t *ret)
{
    for (uint32_t k = 0; k < e->n_sending; k++) {
        uint32_t i = (e->sending_hint + k) % e->n_sending;
        if (e->sendings[i].n_seq == 0) {
            e->sending_hint = i + 1;
            e->sendings[i].generation++;
            *ret = i;
            return 0;
        }
    }
    uint32_t n = e->n_sending ? 2 * e->n_sending : 64; /* bounded by the engine's credit */
    struct sending *p = sk_realloc(e->sendings, n * sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    memset(p + e->n_sending, 0, (n - e->n_sending) * sizeof *p);
    *ret = e->n_sending;
    p[*ret].generation = 1;
    e->sendings = p;
    e->n_sending = n;
    return 0;
}

static void end_sequence(struct sk_engine *e, struct sending *s)
{
    e->n_sent--;
    if (--s->n_seq == 0)
        s->job = NULL;
}

/* --- out --- */

static void put_seq(struct sk_job *j, uint32_t i, uint64_t id, struct sk_buf *out)
{
    const struct choice *c = &j->choice[i];
    struct sk_wire_seq seq = {.job = id, .choice = i, .n_list = j->n_list, .n_done = c->n_tok, .params = j->params};
    if (c->n_tok)
        seq.params.n_prompt_logprobs = -1; /* delivered already */
    sk_wire_put_seq(out, &seq, j->list, c->tok);
}

static size_t seq_bytes(const struct sk_job *j, const struct choice *c)
{
    return sizeof(struct sk_wire_seq) + 4 * ((size_t)j->n_list + c->n_tok) + 16;
}

/* How many of the waiting choices go into one sending: as many as there is credit and room for, at least one. */
static uint32_t fit(const struct sk_job *j, uint32_t credit)
{
    size_t bytes = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < j->n_choice && n < credit; i++) {
        if (j->choice[i].state != CHOICE_WAITING)
            continue;
        bytes += seq_bytes(j, &j->choice[i]);
        if (n > 0 && bytes > MAX_SENDING_BYTES)
            break;
        n++;
    }
    return n;
}

static int send_some(struct sk_job *j, uint32_t n, struct sk_buf *out)
{
    struct sk_engine *e = j->engine;
    uint32_t s = 0;
    int rc = new_sending(e, &s);
    if (rc != 0)
        return rc;
    e->sendings[s].job = j;
    e->sendings[s].n_seq = n;
    uint64_t id = wire_id(e, s);
    sk_wire_put_prompt(out, id, n, j->prompt, j->n_prompt);
    for (uint32_t i = 0; i < j->n_choice && n > 0; i++) {
        if (j->choice[i].state != CHOICE_WAITING)
            continue;
        put_seq(j, i, id, out);
        to_sent(j, &j->choice[i], s);
        n--;
    }
    return 0;
}

/* A job's choices go together when the engine could ever take them together, so that they share their prompt's blocks.
 */
void sk_job_pump(struct sk_engine *e)
{
    struct sk_link *link = sk_super_link(e->super);
    struct sk_job *j;
    if (!link)
        return;
    while ((j = TAILQ_FIRST(&e->queue)) && sk_link_pending(link) < MAX_PENDING_BYTES) {
        uint32_t credit = e->hello.credit - e->n_sent;
        uint32_t want = fit(j, e->hello.credit);
        if (want > credit || send_some(j, want, sk_link_out(link)) != 0)
            break;
    }
    sk_link_flush(link);
}

/* --- in --- */

static int journal_add(struct sk_job *j, struct choice *c, int32_t id)
{
    if (c->n_tok == c->cap) {
        uint32_t cap = c->cap ? 2 * c->cap : 32;
        int32_t *p = sk_realloc(c->tok, cap * sizeof *p);
        if (!p)
            return -SK_ENOMEM;
        c->tok = p;
        c->cap = cap;
    }
    c->tok[c->n_tok++] = id;
    j->engine->journal_tok++;
    return 0;
}

static int journal_entry(struct sk_job *j, struct choice *c, const struct sk_wire_entry *entry)
{
    const struct sk_wire_item *it = entry->n_item ? sk_wire_item_first(entry) : NULL;
    int rc = 0;
    for (uint32_t i = 0; i < entry->n_item && rc == 0; i++, it = i < entry->n_item ? sk_wire_item_next(it) : NULL) {
        if (it->flags & SK_ITEM_PROMPT)
            c->n_prompt_items++;
        else
            rc = journal_add(j, c, it->id);
    }
    return rc;
}

/* After a restart the engine makes prompt log-probs again from the first; those delivered before are taken out. Returns
 * the entry without them (in e->scratch), or NULL when out of memory. */
static const struct sk_wire_entry *without_delivered(struct sk_engine *e, struct choice *c,
                                                     const struct sk_wire_entry *entry)
{
    struct sk_wire_entry head = *entry;
    const struct sk_wire_item *it = sk_wire_item_first(entry);
    uint32_t n_drop = 0;
    size_t at;
    for (const struct sk_wire_item *k = it; n_drop < entry->n_item && n_drop < c->skip && (k->flags & SK_ITEM_PROMPT);
         k = sk_wire_item_next(k))
        n_drop++;
    c->skip -= n_drop;
    head.n_item -= n_drop;
    sk_buf_clear(&e->scratch);
    sk_wire_tokens_begin(&e->scratch, &at, 0);
    sk_wire_tokens_entry(&e->scratch, &head);
    for (uint32_t i = 0; i < entry->n_item; i++) {
        if (i >= n_drop)
            sk_wire_tokens_item(&e->scratch, it, sk_wire_item_top(it));
        if (i + 1 < entry->n_item)
            it = sk_wire_item_next(it);
    }
    return sk_wire_tokens_end(&e->scratch, at, 1) == 0
               ? sk_wire_first((const struct sk_wire_tokens *)(const void *)e->scratch.p)
               : NULL;
}

static void take_entry(struct sk_engine *e, struct sk_job *j, const struct sk_wire_entry *entry)
{
    struct choice *c = &j->choice[entry->choice];
    if (c->skip > 0 && entry->n_item > 0)
        entry = without_delivered(e, c, entry);
    if (!entry || journal_entry(j, c, entry) != 0) {
        uint32_t i = (uint32_t)(c - j->choice);
        sk_job_cancel(j, i);
        const struct sk_wire_entry lost = {.choice = i, .finish = SK_FINISH_ERROR, .reason = SK_ENOMEM};
        j->cb(j->arg, j, &(struct sk_job_event){.choice = i, .entry = &lost});
        return;
    }
    if (entry->finish != SK_FINISH_NONE)
        to_over(j, c);
    else if (entry->n_item == 0)
        return;
    const struct sk_job_event ev = {.choice = entry->choice, .entry = entry};
    j->cb(j->arg, j, &ev); /* may free j, or any other job */
}

void sk_job_take(struct sk_engine *e, const struct sk_wire_tokens *t)
{
    for (const struct sk_wire_entry *entry = sk_wire_first(t); entry; entry = sk_wire_next(t, entry)) {
        struct sending *s = find_sending(e, entry->job);
        if (!s)
            continue; /* of an engine before */
        struct sk_job *j = s->job;
        uint32_t i = entry->choice;
        if (entry->finish != SK_FINISH_NONE)
            end_sequence(e, s);
        if (j && i < j->n_choice && j->choice[i].state == CHOICE_SENT && &e->sendings[j->choice[i].sending] == s)
            take_entry(e, j, entry);
    }
}

/* --- the engine's end --- */

static void end_one(struct sk_job *j, int code)
{
    uint32_t i = 0;
    while (j->choice[i].state == CHOICE_OVER)
        i++;
    end_with_error(j, i, code);
}

static struct sk_job *find_crasher(struct sk_engine *e)
{
    struct sk_job *j;
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        if (j->n_crash >= MAX_CRASHES)
            return j;
    }
    return NULL;
}

static void forget_sendings(struct sk_engine *e)
{
    for (uint32_t i = 0; i < e->n_sending; i++) {
        e->sendings[i].n_seq = 0;
        e->sendings[i].job = NULL;
    }
    e->n_sent = 0;
}

void sk_job_requeue(struct sk_engine *e, bool own_fault)
{
    struct sk_job *j;
    forget_sendings(e);
    e->n_waiting = 0;
    TAILQ_INIT(&e->queue);
    TAILQ_FOREACH(j, &e->jobs, link)
    {
        bool was_sent = false;
        j->n_waiting = 0;
        for (uint32_t i = 0; i < j->n_choice; i++) {
            was_sent |= j->choice[i].state == CHOICE_SENT;
            if (j->choice[i].state != CHOICE_OVER)
                to_waiting(j, &j->choice[i]);
        }
        j->n_crash += was_sent && own_fault;
    }
    while ((j = find_crasher(e))) { /* from the start each time: a callback may free any job */
        sk_log(SK_LOG_ERROR, "a sequence ends with an error: %u engines crashed with its request on board", j->n_crash);
        end_one(j, SK_EINTERNAL);
    }
}

void sk_job_fail_all(struct sk_engine *e, int code)
{
    struct sk_job *j;
    while ((j = TAILQ_FIRST(&e->jobs)))
        end_one(j, code);
}

/* --- the owner's side --- */

static int may_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err)
{
    const struct sk_conf *conf = e->conf.conf;
    enum sk_engine_state state = sk_super_state(e->super);
    if (!e->is_known || state == SK_ENGINE_FAILED || state >= SK_ENGINE_STOPPING) {
        struct sk_engine_status st;
        sk_engine_status(e, &st);
        return sk_err_set(err, SK_EUNAVAIL, NULL, "The model is not ready: %s.", st.text);
    }
    uint64_t want = (uint64_t)req->n_prompt + req->params->max_tokens;
    if (want > e->hello.max_len)
        return sk_err_set(err, SK_ECTX, NULL,
                          "This model's maximum context length is %u tokens. However, you requested %llu tokens (%u in "
                          "the prompt, %u for the "
                          "answer).",
                          e->hello.max_len, (unsigned long long)want, req->n_prompt, req->params->max_tokens);
    uint64_t open = (uint64_t)e->n_sent + e->n_waiting + req->n_choice,
             limit = e->hello.max_seqs + (uint64_t)conf->max_queue;
    if (open > limit)
        return sk_err_set(
            err, SK_EQUEUE, NULL,
            "The queue is full: %u sequences run or wait, and this request has %u more; the limit is %llu.",
            e->n_sent + e->n_waiting, req->n_choice, (unsigned long long)limit);
    if (e->journal_tok + req->n_prompt > (uint64_t)conf->journal_tokens)
        return sk_err_set(err, SK_EQUEUE, NULL,
                          "Unfinished requests hold %llu tokens; the limit is %lld (--journal-tokens).",
                          (unsigned long long)e->journal_tok, (long long)conf->journal_tokens);
    return 0;
}

static void job_release(struct sk_job *j)
{
    for (uint32_t i = 0; i < j->n_choice; i++)
        sk_free(j->choice[i].tok);
    sk_free(j->prompt);
    sk_free(j->list);
    sk_free(j);
}

int sk_job_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret, struct sk_err *err)
{
    uint32_t n_list = (uint32_t)sk_params_list_len(req->params);
    sk_assert(req->n_choice > 0 && req->n_prompt > 0);
    int rc = may_submit(e, req, err);
    if (rc != 0)
        return rc;
    struct sk_job *j = sk_calloc(1, sizeof *j + req->n_choice * sizeof j->choice[0]);
    if (!j)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    *j = (struct sk_job){.engine = e,
                         .cb = req->cb,
                         .arg = req->arg,
                         .n_prompt = req->n_prompt,
                         .n_list = n_list,
                         .params = *req->params,
                         .n_choice = req->n_choice,
                         .n_open = req->n_choice};
    j->prompt = sk_malloc(req->n_prompt * sizeof *j->prompt);
    j->list = sk_malloc(n_list * sizeof *j->list);
    if (!j->prompt || !j->list) {
        job_release(j);
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    memcpy(j->prompt, req->prompt, req->n_prompt * sizeof *j->prompt);
    if (n_list)
        memcpy(j->list, req->list, n_list * sizeof *j->list);
    e->journal_tok += j->n_prompt;
    TAILQ_INSERT_TAIL(&e->jobs, j, link);
    for (uint32_t i = 0; i < j->n_choice; i++)
        to_waiting(j, &j->choice[i]);
    sk_job_pump(e);
    *ret = j;
    return 0;
}

void sk_job_cancel(struct sk_job *j, uint32_t choice)
{
    struct sk_engine *e = j->engine;
    struct sk_link *link = sk_super_link(e->super);
    for (uint32_t i = 0; i < j->n_choice; i++) {
        struct choice *c = &j->choice[i];
        if ((choice != SK_WIRE_ALL && choice != i) || c->state == CHOICE_OVER)
            continue;
        if (c->state == CHOICE_SENT && link)
            sk_wire_put_cancel(sk_link_out(link), wire_id(e, c->sending), i);
        to_over(j, c);
    }
    if (link)
        sk_link_flush(link);
}

void sk_job_free(struct sk_job *j)
{
    struct sk_engine *e = j->engine;
    sk_job_cancel(j, SK_WIRE_ALL);
    e->journal_tok -= j->n_prompt;
    for (uint32_t i = 0; i < j->n_choice; i++) {
        struct choice *c = &j->choice[i];
        e->journal_tok -= c->n_tok;
        if (c->sending < e->n_sending && e->sendings[c->sending].job == j)
            e->sendings[c->sending].job = NULL; /* its sequences end in silence */
    }
    job_release(j);
}
