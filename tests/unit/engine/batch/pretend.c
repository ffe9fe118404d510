#include "tests/unit/engine/batch/pretend.h"

#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"

struct pretend_slot {
    bool open;
    uint32_t n_prompt, choice, n_tok, n_blk[SK_MAX_GROUPS], first[SK_MAX_GROUPS];
    struct sk_params params;
    int32_t list[SK_MAX_LIST];
    int32_t tok[PRETEND_MAX_LEN];
    int32_t blk[SK_MAX_GROUPS][PRETEND_MAX_LEN];
};
struct pretend_result {
    struct sk_result_row *rows;
    uint32_t n;
    uint64_t step;
    bool draws[PRETEND_MAX_SLOT], runs[PRETEND_MAX_SLOT]; /* what its plan does in a slot */
};
struct sk_crew {
    struct sk_loop_conf conf;
    const struct sk_loop *loop;
    struct sk_plan_limits lim;
    struct pretend_slot slots[PRETEND_MAX_SLOT];
    uint64_t cache[SK_MAX_GROUPS][PRETEND_MAX_BLK][32];
    struct pretend_result result[PRETEND_MAX_DEPTH], *now; /* a ring; now: of the plan at hand */
    uint32_t depth, n_sent, n_done, most;
    uint64_t dice;
    uint64_t step_us, row_us; /* 0 = the clock is left alone */
};

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0xff51afd7ed558ccdu;
    return h ^ (h >> 32);
}

static uint64_t hash_text(const struct sk_loop_conf *c, const int32_t *tok, uint32_t n, uint32_t n_prompt)
{
    uint64_t h = 7;
    for (uint32_t i = 0; i < n; i++)
        h = mix(h, (uint64_t)tok[i] * 2 + (i < n_prompt || c->kv.classes_equal));
    return h;
}

static bool ends(const struct sk_params *p, const int32_t *list, int32_t id)
{
    bool end = id == PRETEND_EOS && !(p->flags & SK_PARAMS_IGNORE_EOS);
    for (uint32_t i = 0; i < p->n_stop_ids; i++)
        end = end || list[i] == id;
    return end;
}

static int32_t draw(uint64_t h, int32_t last, const struct sk_params *p, const int32_t *list, uint32_t choice,
                    bool suppress)
{
    uint64_t x = mix(mix(p->seed < PRETEND_REPEATS ? h : (uint64_t)last, p->seed), choice);
    int32_t id = (int32_t)(x % PRETEND_VOCAB);
    while (suppress && ends(p, list, id))
        id = (id + 1) % PRETEND_VOCAB;
    return id;
}

static float logprob_of(uint64_t h, int32_t id)
{
    return -(float)(mix(h, (uint64_t)id) % 10000) / 100;
}

float pretend_logprob(const struct sk_loop_conf *c, const int32_t *tok, uint32_t n, uint32_t n_prompt, int32_t id)
{
    return logprob_of(hash_text(c, tok, n, n_prompt), id);
}

uint32_t pretend_expect(const struct sk_loop_conf *c, const int32_t *prompt, uint32_t n_prompt,
                        const struct sk_params *p, const int32_t *list, uint32_t choice, int32_t *ret,
                        uint32_t *ret_finish)
{
    int32_t tok[PRETEND_MAX_LEN];
    memcpy(tok, prompt, n_prompt * sizeof *tok);
    uint32_t n = 0, max = c->max_len - n_prompt < p->max_tokens ? c->max_len - n_prompt : p->max_tokens;
    *ret_finish = SK_FINISH_LENGTH;
    while (n < max) {
        int32_t id =
            draw(hash_text(c, tok, n_prompt + n, n_prompt), tok[n_prompt + n - 1], p, list, choice, n < p->min_tokens);
        if (n >= p->min_tokens && ends(p, list, id)) {
            *ret_finish = id == PRETEND_EOS && !(p->flags & SK_PARAMS_IGNORE_EOS) ? SK_FINISH_EOS : SK_FINISH_STOP_ID;
            break;
        }
        tok[n_prompt + n] = id;
        ret[n++] = id;
    }
    return n;
}

struct sk_crew *pretend_new(const struct sk_loop_conf *c)
{
    struct sk_crew *r = sk_calloc(1, sizeof *r);
    sk_assert(r && c->max_seqs <= PRETEND_MAX_SLOT && c->max_len <= PRETEND_MAX_LEN && c->max_row <= 4096 &&
              c->kv.block_tok <= 32);
    r->conf = *c;
    r->depth = 1;
    for (int i = 0; i < PRETEND_MAX_DEPTH; i++) {
        r->result[i].rows = sk_calloc(c->max_row, sizeof *r->result[i].rows);
        sk_assert(r->result[i].rows);
    }
    r->lim = (struct sk_plan_limits){.max_slot = c->max_seqs,
                                     .max_len = c->max_len,
                                     .n_vocab = PRETEND_VOCAB,
                                     .n_group = c->kv.n_group,
                                     .max_row = c->max_row,
                                     .max_result = c->max_row};
    for (uint32_t g = 0; g < c->kv.n_group; g++) {
        sk_assert(c->kv.n_blk[g] <= PRETEND_MAX_BLK);
        r->lim.n_blk[g] = c->kv.n_blk[g];
    }
    return r;
}

void pretend_bind(struct sk_crew *r, const struct sk_loop *l)
{
    r->loop = l;
}

void pretend_slow(struct sk_crew *r, uint64_t step_us)
{
    r->step_us = step_us;
}

void pretend_slow_rows(struct sk_crew *r, uint64_t row_us)
{
    r->row_us = row_us;
}

void pretend_stages(struct sk_crew *r, uint32_t n, uint64_t seed)
{
    sk_assert(n > 1 && n + 1 <= PRETEND_MAX_DEPTH);
    r->depth = n + 1;
    r->dice = mix(7, seed);
}

uint32_t pretend_most(const struct sk_crew *r)
{
    return r->most;
}

void pretend_free(struct sk_crew *r)
{
    for (int i = 0; i < PRETEND_MAX_DEPTH; i++)
        sk_free(r->result[i].rows);
    sk_free(r);
}

static void put_row(struct sk_crew *r, const struct pretend_slot *s, uint64_t h, int32_t id, int32_t n_top)
{
    struct sk_result_row *row = &r->now->rows[r->now->n++];
    *row = (struct sk_result_row){
        .id = id, .logprob = logprob_of(h, id), .rank = 1, .n_top = n_top > 0 ? (uint32_t)n_top : 0};
    for (uint32_t i = 0; i < row->n_top; i++) {
        row->top[i].id = (int32_t)i;
        row->top[i].logprob = logprob_of(h, (int32_t)i);
    }
}

/* Would position p of this slot read what belongs there? Then it is written. */
static void attend(struct sk_crew *r, struct pretend_slot *s, uint32_t p, const uint64_t *hash)
{
    uint32_t bt = r->conf.kv.block_tok;
    for (uint32_t g = 0; g < r->conf.kv.n_group; g++) {
        uint32_t w = r->conf.kv.window[g], from = w && p + 1 > w ? p + 1 - w : 0;
        sk_assert(p / bt < s->n_blk[g] && from / bt >= s->first[g]);
        for (uint32_t q = from; q < p; q++)
            sk_assert(r->cache[g][s->blk[g][q / bt]][q % bt] == hash[q]);
        int32_t b = s->blk[g][p / bt];
        sk_assert(!r->loop || sk_kvpool_refs(r->loop->pool, g, b) == 1); /* a block being written is shared by nobody */
        r->cache[g][b][p % bt] = hash[p];
    }
}

/* A plan whose token is not back has the last rows of its sequence. */
static void check_alone(struct sk_crew *r, const struct sk_plan_run *run)
{
    for (uint32_t i = r->n_done; i != r->n_sent; i++)
        sk_assert(!r->result[i % r->depth].draws[run->slot]);
    sk_assert(!r->now->runs[run->slot]);
    r->now->runs[run->slot] = true;
    r->now->draws[run->slot] = run->want & SK_RUN_SAMPLE;
}

static void run(struct sk_crew *r, const struct sk_plan_run *run)
{
    struct pretend_slot *s = &r->slots[run->slot];
    uint64_t hash[PRETEND_MAX_LEN];
    int32_t last[PRETEND_MAX_LEN]; /* tokens as they were before anything was drawn */
    uint32_t end = run->pos + run->n;
    sk_assert(s->open && end <= s->n_tok && (run->pos >= s->n_prompt || end <= s->n_prompt));
    memcpy(last, s->tok, end * sizeof *last);
    for (uint32_t p = 0; p < end; p++)
        sk_assert(s->tok[p] >= 0); /* it was told, or drew it itself */
    check_alone(r, run);
    for (uint32_t p = 0; p < end; p++)
        hash[p] = hash_text(&r->conf, s->tok, p + 1, s->n_prompt);
    for (uint32_t p = run->pos; p < end; p++) {
        attend(r, s, p, hash);
        if ((run->want & SK_RUN_PROMPT_LOGPROBS) && p + 1 < s->n_prompt) {
            sk_assert(p + 1 < s->n_tok);
            put_row(r, s, hash[p], s->tok[p + 1], s->params.n_prompt_logprobs);
        }
    }
    for (uint32_t p = end - 1 - run->n_draft; (run->want & SK_RUN_SAMPLE) && p < end; p++) {
        int32_t id = draw(hash[p], last[p], &s->params, s->list, s->choice, run->want & SK_RUN_MIN_TOKENS);
        put_row(r, s, hash[p], id, s->params.n_logprobs);
        if (p + 1 < PRETEND_MAX_LEN)
            s->tok[p + 1] = r->depth == 1 ? id : -1; /* over the draft */
        if (p + 1 == s->n_tok)
            s->n_tok++;
    }
}

static void open_slot(struct pretend_slot *s, const struct sk_plan_open *o)
{
    sk_assert(!s->open);
    *s = (struct pretend_slot){.open = true, .n_prompt = o->n_prompt, .choice = o->choice, .params = o->params};
    memcpy(s->list, o + 1, o->n_list * sizeof s->list[0]);
}

static void append(struct pretend_slot *s, const struct sk_plan_append *a)
{
    sk_assert(s->open && s->n_blk[a->group] + a->n <= PRETEND_MAX_LEN);
    memcpy(s->blk[a->group] + s->n_blk[a->group], a + 1, a->n * sizeof(int32_t));
    s->n_blk[a->group] += a->n;
}

static void trim(const struct sk_crew *r, struct pretend_slot *s, uint32_t pos)
{
    sk_assert(s->open && pos < s->n_tok);
    s->n_tok = pos;
    for (uint32_t g = 0; g < r->conf.kv.n_group; g++)
        if (s->n_blk[g] > sk_kvpool_blocks(&r->conf.kv, pos))
            s->n_blk[g] = sk_kvpool_blocks(&r->conf.kv, pos);
}

static void take_tok(struct pretend_slot *s, const struct sk_plan_tok *t)
{
    sk_assert(s->open && t->pos <= s->n_tok && t->pos + t->n <= PRETEND_MAX_LEN);
    memcpy(s->tok + t->pos, t + 1, t->n * sizeof(int32_t));
    if (t->pos + t->n > s->n_tok)
        s->n_tok = t->pos + t->n;
}

/* A step has rows of one kind. A suspect is alone in its step, and alone of its kind among those that run; who runs is
 * on the board. */
static void check_step(const struct sk_loop *l)
{
    const struct sk_sched_out *todo = &l->todo;
    uint32_t n_suspect = 0;
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        n_suspect += sk_seq_is_suspect(q);
    sk_assert(n_suspect <= 1 && (todo->kind != SK_SEQ_KIND_SUSPECT || todo->n_run == 1));
    for (uint32_t i = 0; i < todo->n_run; i++)
        sk_assert(sk_seq_kind(todo->run[i].seq) == todo->kind && !todo->run[i].seq->cancelled);
    uint32_t n_way = 0;
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next) {
        n_way += q->n_plan > 0;
        sk_assert(q->n_plan == 0 || !sk_seq_is_suspect(q) || l->seqs->n_plan == 1);
    }
    const struct sk_board *b = l->conf.board;
    if (!b)
        return;
    sk_assert(sk_board_in_step(b) && sk_board_seats(b) == n_way && b->head->step == l->step);
    for (uint32_t i = 0; i < todo->n_run; i++) {
        bool there = false;
        for (uint32_t k = 0; k < n_way; k++)
            there =
                there || (b->seat[k].job == todo->run[i].seq->job->id && b->seat[k].choice == todo->run[i].seq->choice);
        sk_assert(there);
    }
}

uint32_t sk_crew_depth(const struct sk_crew *r)
{
    return r->depth;
}

int sk_crew_submit(struct sk_crew *r, const void *plan, size_t n, struct sk_err *err)
{
    sk_assert(r->n_sent - r->n_done < r->depth);
    sk_assert(sk_plan_check(plan, n, &r->lim, err) == 0);
    r->now = &r->result[r->n_sent % r->depth];
    *r->now = (struct pretend_result){.rows = r->now->rows, .step = ((const struct sk_plan_head *)plan)->step};
    if (r->loop)
        check_step(r->loop);
    if (r->step_us || r->row_us)
        sk_clock_set(sk_clock_us() + r->step_us + r->row_us * ((const struct sk_plan_head *)plan)->n_row);
    for (const struct sk_plan_rec *rec = sk_plan_first(plan); rec; rec = sk_plan_next(plan, rec)) {
        struct pretend_slot *s = &r->slots[((const struct sk_plan_close *)rec)->slot];
        const struct sk_plan_drop *d = (const void *)rec;
        switch (rec->kind) {
        case SK_PLAN_OPEN:
            open_slot(s, (const void *)rec);
            break;
        case SK_PLAN_APPEND:
            append(s, (const void *)rec);
            break;
        case SK_PLAN_DROP:
            sk_assert(s->open && s->first[d->group] + d->n <= s->n_blk[d->group]);
            s->first[d->group] += d->n;
            break;
        case SK_PLAN_TRIM:
            trim(r, s, ((const struct sk_plan_trim *)rec)->pos);
            break;
        case SK_PLAN_TOK:
            take_tok(s, (const void *)rec);
            break;
        case SK_PLAN_RUN:
            run(r, (const void *)rec);
            break;
        default:
            sk_assert(rec->kind == SK_PLAN_CLOSE && s->open);
            s->open = false;
            break;
        }
    }
    sk_assert(r->now->n == ((const struct sk_plan_head *)plan)->n_result);
    r->n_sent++;
    if (r->n_sent - r->n_done > r->most)
        r->most = r->n_sent - r->n_done;
    return 0;
}

int sk_crew_collect(struct sk_crew *r, bool wait, struct sk_crew_result *ret, struct sk_err *err)
{
    sk_assert(r->n_done != r->n_sent);
    r->dice = r->dice * 6364136223846793005u + 1442695040888963407u;
    if (!wait && r->depth > 1 && (r->dice >> 33) % 4 > 0)
        return 0;
    const struct pretend_result *p = &r->result[r->n_done++ % r->depth];
    *ret = (struct sk_crew_result){.rows = p->rows, .n = p->n, .step = p->step, .busy_us = r->step_us + 1};
    return 1;
}

uint32_t sk_crew_ranks(struct sk_crew *r, struct sk_wire_rank *ret)
{
    ret[0] = (struct sk_wire_rank){.host = "pretended"};
    return 1;
}
