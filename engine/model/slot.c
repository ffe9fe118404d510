#include "engine/model/slot.h"

#include <string.h>

#include "comm/base/mem.h"

uint64_t sk_slots_bytes(uint32_t max_slot, uint32_t max_len)
{
    return (uint64_t)max_slot * ((uint64_t)max_len + SK_SLOT_LIST) * sizeof(int32_t);
}

static struct sk_dev list_at(const struct sk_slots *s, uint32_t slot, uint32_t word)
{
    return sk_dev_at(s->list, ((uint64_t)slot * SK_SLOT_LIST + word) * sizeof(int32_t));
}

int sk_slots_open(struct sk_slots *s, const struct sk_dir *dir, const struct sk_kv *kv, uint32_t max_slot,
                  uint32_t max_len, struct sk_err *err)
{
    struct sk_backend *be = kv->be;
    *s = (struct sk_slots){
        .desc = &dir->desc, .be = be, .kv = kv, .max_slot = max_slot, .max_len = max_len, .n_eos = dir->n_eos};
    for (uint32_t i = 0; i < dir->n_eos; i++)
        if (dir->eos[i] < 0 || (uint32_t)dir->eos[i] >= dir->desc.n_vocab)
            return sk_err_set(err, SK_EFORMAT, NULL, "end-of-sequence id %d is not in the vocabulary of %u",
                              dir->eos[i], dir->desc.n_vocab);

    s->bytes = sk_slots_bytes(max_slot, max_len);
    s->slot = sk_calloc(max_slot, sizeof *s->slot);
    s->next = sk_calloc(max_slot, sizeof *s->next);
    s->mem = be->alloc(be, s->bytes);
    if (!s->slot || !s->next || !s->mem.a)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for %u sequences of %u tokens", max_slot, max_len);
    s->token = s->mem;
    s->list = sk_dev_at(s->mem, (uint64_t)max_slot * max_len * sizeof(int32_t));
    for (uint32_t i = 0; i < max_slot; i++)
        be->upload(be, list_at(s, i, 0), dir->eos, dir->n_eos * sizeof(int32_t));
    return 0;
}

void sk_slots_close(struct sk_slots *s)
{
    if (s->mem.a)
        s->be->free(s->be, s->mem, s->bytes);
    sk_free(s->slot);
    sk_free(s->next);
    *s = (struct sk_slots){0};
}

/* ---- what records do to the state: each says what is wrong, or NULL and it is done ---- */

/* Bad words stand last in the list, {n, ids...} each. */
static uint32_t count_bad_words(const struct sk_plan_open *o)
{
    const int32_t *end = (const int32_t *)(o + 1) + o->n_list, *word = end - o->params.n_bad_word;
    uint32_t n = 0;
    for (; word < end; word += 1 + *word)
        n++;
    return n;
}

static const char *apply_open(struct sk_slot *slot, const struct sk_plan_open *o)
{
    if (slot->open)
        return "slot is open";
    *slot = (struct sk_slot){.open = true,
                             .n_prompt = o->n_prompt,
                             .choice = o->choice,
                             .n_bad_word = count_bad_words(o),
                             .params = o->params};
    return NULL;
}

static const char *apply_append(const struct sk_slots *s, struct sk_slot *slot, const struct sk_plan_append *a)
{
    if (a->n > s->kv->need.ld_table - slot->n_blk[a->group])
        return "more blocks than the longest sequence has";
    slot->n_blk[a->group] += a->n;
    return NULL;
}

static const char *apply_drop(struct sk_slot *slot, const struct sk_plan_drop *d)
{
    if (d->n > slot->n_blk[d->group] - slot->first_blk[d->group])
        return "more blocks than the slot holds";
    slot->first_blk[d->group] += d->n;
    return NULL;
}

static const char *apply_tok(struct sk_slot *slot, const struct sk_plan_tok *t)
{
    if (t->pos > slot->n_known)
        return "tokens leave a gap";
    if (t->pos + t->n > slot->n_known)
        slot->n_known = t->pos + t->n;
    return NULL;
}

static const char *apply_trim(const struct sk_slots *s, struct sk_slot *slot, const struct sk_plan_trim *t)
{
    uint32_t n_blk = sk_kv_blocks(t->pos);
    if (t->pos > slot->n_known)
        return "slot is shorter than that";
    for (uint32_t g = 0; g < s->desc->n_group; g++) {
        if (n_blk < slot->first_blk[g])
            return "blocks there were dropped";
        if (n_blk < slot->n_blk[g])
            slot->n_blk[g] = n_blk;
    }
    slot->n_known = t->pos;
    return NULL;
}

static const char *apply_run(const struct sk_slots *s, const struct sk_slot *slot, const struct sk_plan_run *r)
{
    uint32_t end = r->pos + r->n;
    if (end > slot->n_known)
        return "a token of the run is not known";
    if (r->pos < slot->n_prompt && end > slot->n_prompt)
        return "run has positions of both classes";
    if ((r->want & SK_RUN_SAMPLE) && end < slot->n_prompt)
        return "a prompt token would be drawn";
    if (r->n_draft > 0 && r->pos < slot->n_prompt)
        return "a prompt has no drafts";
    if ((r->want & SK_RUN_PROMPT_LOGPROBS) && end < slot->n_prompt && end >= slot->n_known)
        return "the token whose log-prob is wanted is not known";
    for (uint32_t g = 0; g < s->desc->n_group; g++) {
        uint32_t window = s->desc->group_window[g];
        uint32_t from = window && r->pos + 1 > window ? r->pos + 1 - window : 0;
        if ((uint64_t)slot->n_blk[g] * SK_KV_BLOCK < end || slot->first_blk[g] > from / SK_KV_BLOCK)
            return "positions have no block";
    }
    return NULL;
}

static uint32_t slot_of(const struct sk_plan_rec *r)
{
    return ((const struct sk_plan_close *)r)->slot; /* every record begins alike */
}

static const char *apply_rec(const struct sk_slots *s, struct sk_slot *state, const struct sk_plan_rec *r)
{
    struct sk_slot *slot = &state[slot_of(r)];
    if (r->kind != SK_PLAN_OPEN && !slot->open)
        return "slot is not open";
    switch (r->kind) {
    case SK_PLAN_OPEN:
        return apply_open(slot, (const void *)r);
    case SK_PLAN_APPEND:
        return apply_append(s, slot, (const void *)r);
    case SK_PLAN_DROP:
        return apply_drop(slot, (const void *)r);
    case SK_PLAN_TOK:
        return apply_tok(slot, (const void *)r);
    case SK_PLAN_TRIM:
        return apply_trim(s, slot, (const void *)r);
    case SK_PLAN_RUN:
        return apply_run(s, slot, (const void *)r);
    default: /* SK_PLAN_CLOSE */
        slot->open = false;
        return NULL;
    }
}

uint32_t sk_slot_prompt_results(const struct sk_slot *slot, const struct sk_plan_run *run)
{
    uint32_t last = slot->n_prompt - 1; /* the first position that is not asked about */
    if (!(run->want & SK_RUN_PROMPT_LOGPROBS) || run->pos >= last)
        return 0;
    return run->pos + run->n < last ? run->n : last - run->pos;
}

/* Draws count only after all runs: a run may not read what the same plan draws. */
static void settle_draws(struct sk_slot *state, const void *plan)
{
    for (const struct sk_plan_rec *r = sk_plan_first(plan); r; r = sk_plan_next(plan, r)) {
        const struct sk_plan_run *run = (const void *)r;
        if (r->kind != SK_PLAN_RUN || !(run->want & SK_RUN_SAMPLE))
            continue;
        struct sk_slot *slot = &state[run->slot];
        if (run->pos + run->n + 1 > slot->n_known)
            slot->n_known = run->pos + run->n + 1;
    }
}

int sk_slots_check(struct sk_slots *s, const void *plan, struct sk_err *err)
{
    const struct sk_plan_head *head = plan;
    uint64_t n_result = 0;
    bool decode_seen = false;
    memcpy(s->next, s->slot, s->max_slot * sizeof *s->slot);

    for (const struct sk_plan_rec *r = sk_plan_first(plan); r; r = sk_plan_next(plan, r)) {
        const char *wrong = apply_rec(s, s->next, r);
        const struct sk_plan_run *run = (const void *)r;
        if (!wrong && r->kind == SK_PLAN_RUN) {
            const struct sk_slot *slot = &s->next[run->slot];
            n_result += sk_slot_prompt_results(slot, run) + (run->want & SK_RUN_SAMPLE ? 1 + run->n_draft : 0);
            if (run->pos >= slot->n_prompt)
                decode_seen = true;
            else if (decode_seen)
                wrong = "prompt-class run after a decode-class one";
        }
        if (wrong)
            return sk_err_set(err, SK_EPROTO, NULL, "plan %llu: slot %u, record of kind %u: %s",
                              (unsigned long long)head->step, slot_of(r), r->kind, wrong);
    }
    if (n_result != head->n_result)
        return sk_err_set(err, SK_EPROTO, NULL, "plan %llu: its runs give %llu result rows, its head says %u",
                          (unsigned long long)head->step, (unsigned long long)n_result, head->n_result);
    settle_draws(s->next, plan);
    return 0;
}

/* ---- taking a plan ---- */

static void write_list(const struct sk_slots *s, const struct sk_plan_open *o)
{
    s->be->upload(s->be, list_at(s, o->slot, s->n_eos), o + 1, o->n_list * sizeof(int32_t));
}

static void write_tokens(const struct sk_slots *s, const struct sk_plan_tok *t)
{
    uint64_t at = (uint64_t)t->slot * s->max_len + t->pos;
    s->be->upload(s->be, sk_dev_at(s->token, at * sizeof(int32_t)), t + 1, t->n * sizeof(int32_t));
}

static void write_blocks(const struct sk_slots *s, const struct sk_plan_append *a)
{
    uint64_t at = (uint64_t)a->slot * s->kv->need.ld_table + s->slot[a->slot].n_blk[a->group];
    s->be->upload(s->be, sk_dev_at(s->kv->table[a->group], at * sizeof(int32_t)), a + 1, a->n * sizeof(int32_t));
}

/* Record by record, since an append's place in its table depends on those before it. */
void sk_slots_commit(struct sk_slots *s, const void *plan)
{
    for (const struct sk_plan_rec *r = sk_plan_first(plan); r; r = sk_plan_next(plan, r)) {
        if (r->kind == SK_PLAN_OPEN)
            write_list(s, (const void *)r);
        else if (r->kind == SK_PLAN_APPEND)
            write_blocks(s, (const void *)r);
        else if (r->kind == SK_PLAN_TOK)
            write_tokens(s, (const void *)r);
        sk_assert(!apply_rec(s, s->slot, r)); /* it was tried */
    }
    settle_draws(s->slot, plan);
}
