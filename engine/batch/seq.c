#include "engine/batch/seq.h"

#include "comm/base/err.h"
#include "comm/base/mem.h"

/* ---- lists ---- */

static void list_remove(struct sk_seq_list *l, struct sk_seq *q)
{
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

static void list_insert_after(struct sk_seq_list *l, struct sk_seq *q, struct sk_seq *at)
{
    q->prev = at;
    q->next = at ? at->next : l->first;
    *(q->prev ? &q->prev->next : &l->first) = q;
    *(q->next ? &q->next->prev : &l->last) = q;
    l->n++;
}

int sk_seqs_open(uint32_t max_seq, struct sk_seqs **ret)
{
    struct sk_seqs *s = sk_calloc(1, sizeof *s);
    if (!s)
        return -SK_ENOMEM;
    s->max_seq = max_seq;
    s->n_bucket = max_seq;
    s->seqs = sk_calloc(max_seq, sizeof *s->seqs);
    s->jobs = sk_calloc(max_seq, sizeof *s->jobs);
    s->buckets = sk_calloc(s->n_bucket, sizeof *s->buckets);
    if (!s->seqs || !s->jobs || !s->buckets) {
        sk_seqs_close(s);
        return -SK_ENOMEM;
    }
    for (uint32_t i = 0; i < max_seq; i++) {
        list_insert_after(&s->free, &s->seqs[i], s->free.last);
        struct sk_seq_job *j = &s->jobs[max_seq - 1 - i];
        j->next = s->jobs_free;
        s->jobs_free = j;
    }
    *ret = s;
    return 0;
}

void sk_seqs_close(struct sk_seqs *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; s->seqs && i < s->max_seq; i++) {
        sk_free(s->seqs[i].list);
        sk_free(s->seqs[i].tok);
    }
    for (uint32_t i = 0; s->jobs && i < s->max_seq; i++)
        sk_free(s->jobs[i].prompt);
    sk_free(s->seqs);
    sk_free(s->jobs);
    sk_free(s->buckets);
    sk_free(s);
}

bool sk_seq_before(const struct sk_seq *a, const struct sk_seq *b)
{
    return a->params.priority != b->params.priority ? a->params.priority < b->params.priority : a->id < b->id;
}

/* ---- jobs ---- */

static struct sk_seq_job **bucket_of(const struct sk_seqs *s, uint64_t id)
{
    return &s->buckets[id * 0x9e3779b97f4a7c15u % s->n_bucket];
}

struct sk_seq_job *sk_seq_job_find(const struct sk_seqs *s, uint64_t id)
{
    struct sk_seq_job *j = *bucket_of(s, id);
    while (j && j->id != id)
        j = j->next;
    return j;
}

struct sk_seq_job *sk_seq_job_new(struct sk_seqs *s, uint64_t id)
{
    struct sk_seq_job *j = s->jobs_free;
    if (!j || sk_seq_job_find(s, id))
        return NULL;
    s->jobs_free = j->next;
    struct sk_seq_job **at = bucket_of(s, id);
    *j = (struct sk_seq_job){.id = id, .next = *at};
    *at = j;
    return j;
}

void sk_seq_job_settle(struct sk_seqs *s, struct sk_seq_job *j)
{
    if (j->n_arrived == j->n_choice) {
        sk_free(j->prompt);
        j->prompt = NULL;
    }
    if (j->n_live > 0 || j->n_arrived < j->n_choice)
        return;
    struct sk_seq_job **at = bucket_of(s, j->id);
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    *j = (struct sk_seq_job){.next = s->jobs_free};
    s->jobs_free = j;
}

/* ---- order ---- */

/* Newcomers go to the end and preempted ones to the front: each is looked for from its side. */
static void list_insert_sorted(struct sk_seq_list *l, struct sk_seq *q)
{
    struct sk_seq *at = l->last;
    if (q->n_preempt > 0) {
        struct sk_seq *next = l->first;
        while (next && sk_seq_before(next, q))
            next = next->next;
        at = next ? next->prev : l->last;
    } else {
        while (at && sk_seq_before(q, at))
            at = at->prev;
    }
    list_insert_after(l, q, at);
}

static struct sk_seq_list *list_of(struct sk_seqs *s, enum sk_seq_state state)
{
    switch (state) {
    case SK_SEQ_FREE:
        return &s->free;
    case SK_SEQ_WAIT:
        return &s->wait;
    case SK_SEQ_RUN:
        return &s->run;
    default:
        return &s->ended;
    }
}

/* ---- states ---- */

static bool legal(enum sk_seq_state from, enum sk_seq_state to)
{
    static const uint8_t next[] = {
        [SK_SEQ_FREE] = 1 << SK_SEQ_WAIT | 1 << SK_SEQ_ENDED,
        [SK_SEQ_WAIT] = 1 << SK_SEQ_RUN | 1 << SK_SEQ_ENDED,
        [SK_SEQ_RUN] = 1 << SK_SEQ_WAIT | 1 << SK_SEQ_ENDED,
        [SK_SEQ_ENDED] = 1 << SK_SEQ_FREE,
    };
    return next[from] >> to & 1;
}

void sk_seq_to(struct sk_seqs *s, struct sk_seq *q, enum sk_seq_state to)
{
    sk_assert(legal(q->state, to));
    list_remove(list_of(s, q->state), q);
    q->state = to;
    struct sk_seq_list *l = list_of(s, to);
    if (to == SK_SEQ_WAIT || to == SK_SEQ_RUN)
        list_insert_sorted(l, q);
    else
        list_insert_after(l, q, l->last);
}

struct sk_seq *sk_seq_new(struct sk_seqs *s, struct sk_seq_job *j, uint32_t choice)
{
    struct sk_seq *q = s->free.first;
    if (!q)
        return NULL;
    struct sk_seq *next = q->next;
    *q = (struct sk_seq){
        .next = next, .job = j, .choice = choice, .id = ++s->last_id, .node = SK_KV_NONE, .job_next = j->seqs};
    j->seqs = q;
    j->n_arrived++;
    j->n_live++;
    return q;
}

void sk_seq_end(struct sk_seqs *s, struct sk_seq *q, enum sk_finish finish, int32_t reason)
{
    q->finish = finish;
    q->reason = reason;
    sk_seq_to(s, q, SK_SEQ_ENDED);
}

void sk_seq_free(struct sk_seqs *s, struct sk_seq *q)
{
    struct sk_seq_job *j = q->job;
    struct sk_seq **at = &j->seqs;
    while (*at != q)
        at = &(*at)->job_next;
    *at = q->job_next;
    j->n_live--;
    sk_free(q->list);
    sk_free(q->tok);
    q->list = q->tok = NULL;
    q->job = NULL;
    sk_seq_to(s, q, SK_SEQ_FREE);
    sk_seq_job_settle(s, j);
}
