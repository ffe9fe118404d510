#include "engine/batch/sched.h"

#include <math.h>
#include <string.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "comm/wire/plan.h"

/* A running sequence, or one about to: what this step gives it. */
struct sk_sched_cand {
    struct sk_seq *seq;
    uint32_t from, n_computed, n_blk; /* planned, computed, before the step; an admitted one has its hit */
    uint32_t first[SK_MAX_GROUPS];
    uint32_t grow;           /* blocks of each group that its run takes */
    bool out;                /* preempted */
    struct sk_sched_run run; /* n = 0: none */
};

/* Everything that a decision changes is counted here, not in the state. */
struct sched {
    const struct sk_sched_conf *conf;
    const struct sk_kvpool *pool;
    struct sk_sched_out *out;
    const struct sk_seq *suspect; /* whose turn it is, or comes: the first one; NULL = there is none */
    enum sk_seq_kind kind;        /* whose step this is */
    uint32_t n_cand;
    uint32_t n_share;              /* decode runs that it may have */
    uint32_t left;                 /* rows of the budget */
    double chunk_us;               /* that chunks may still take; HUGE_VAL = as long as they do */
    uint32_t n_least;              /* rows of chunks that are given whatever they take */
    uint32_t avail[SK_MAX_GROUPS]; /* blocks that can still be taken */
};

int sk_sched_open(const struct sk_sched_conf *conf, struct sk_sched_out *ret)
{
    *ret = (struct sk_sched_out){.cap = conf->max_seqs};
    ret->preempt = sk_calloc(ret->cap, sizeof *ret->preempt);
    ret->admit = sk_calloc(ret->cap, sizeof *ret->admit);
    ret->run = sk_calloc(ret->cap, sizeof *ret->run);
    ret->cand = sk_calloc(ret->cap, sizeof *ret->cand);
    if (ret->preempt && ret->admit && ret->run && ret->cand)
        return 0;
    sk_sched_close(ret);
    return -SK_ENOMEM;
}

void sk_sched_close(struct sk_sched_out *out)
{
    sk_free(out->preempt);
    sk_free(out->admit);
    sk_free(out->run);
    sk_free(out->cand);
    *out = (struct sk_sched_out){0};
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t sk_sched_peak(const struct sk_kvpool_conf *c, uint32_t g, uint32_t n_pos, uint32_t chunk)
{
    uint32_t all = sk_kvpool_blocks(c, n_pos), w = c->window[g];
    if (w == 0)
        return all;
    /* the w - 1 positions before a chunk and the chunk may begin with the last position of a block */
    uint64_t span = (uint64_t)w - 1 + chunk + c->block_tok - 1, n = (span + c->block_tok - 1) / c->block_tok;
    return n < all ? (uint32_t)n : all;
}

/* The last token is drawn and never computed. */
static uint32_t last_comp(uint32_t n_prompt, uint32_t max_gen)
{
    return max_gen > 0 ? n_prompt + max_gen - 1 : n_prompt;
}

bool sk_sched_fits(const struct sk_kvpool_conf *c, uint32_t n_prompt, uint32_t max_gen)
{
    for (uint32_t g = 0; g < c->n_group; g++)
        if (sk_sched_peak(c, g, last_comp(n_prompt, max_gen), 1) > c->n_blk[g])
            return false;
    return true;
}

static struct sk_sched_cand *add_cand(struct sched *s, struct sk_seq *q, uint32_t n_computed, uint32_t n_blk,
                                      const uint32_t *first)
{
    struct sk_sched_cand *c = &s->out->cand[s->n_cand++];
    uint32_t from = q->n_planned > n_computed ? q->n_planned : n_computed;
    *c = (struct sk_sched_cand){.seq = q, .from = from, .n_computed = n_computed, .n_blk = n_blk};
    memcpy(c->first, first, sizeof c->first);
    return c;
}

/* Has it rows in this step? */
static bool takes_part(const struct sched *s, const struct sk_seq *q)
{
    return s->kind == SK_SEQ_KIND_SUSPECT ? q == s->suspect : sk_seq_kind(q) == s->kind;
}

/* ---- runs ---- */

/* The next stretch from position `from`, at most `room` rows: it ends where the class does, and where prompt log-probs
 * begin to be wanted (those of a sequence computed again have been delivered up to n_scored). */
static struct sk_sched_run next_run(struct sk_seq *q, uint32_t from, uint32_t room)
{
    struct sk_sched_run r = {.seq = q, .pos = from};
    bool prompt = from < q->n_prompt;
    uint32_t end = prompt ? q->n_prompt : q->n_tok;
    if (prompt && sk_seq_scores(q)) {
        if (from < q->n_scored)
            end = q->n_scored;
        else
            r.want = SK_RUN_PROMPT_LOGPROBS;
    }
    r.n = min_u32(end - from, room);
    if (r.want)
        r.n_result = min_u32(from + r.n, q->n_prompt - 1) - from;
    if (from + r.n == q->n_tok && q->max_gen > 0) {
        r.want |= SK_RUN_SAMPLE;
        r.n_result++;
        if (sk_seq_n_gen(q) < q->params.min_tokens)
            r.want |= SK_RUN_MIN_TOKENS;
    }
    return r;
}

/* One row that continues an answer, as against a chunk. */
static bool is_decode(const struct sk_seq *q)
{
    return q->n_planned >= q->n_prompt && q->n_planned + 1 == q->n_tok;
}

/* The same, or its next token is being drawn. */
static bool generates(const struct sk_seq *q)
{
    bool draws = q->n_plan > 0 && q->n_planned >= q->n_tok && q->max_gen > 0;
    return !q->cancelled && (draws || is_decode(q));
}

/* Rows that the blocks which can be taken allow: no run takes more blocks than a step has rows. */
static uint32_t block_room(const struct sched *s, const struct sk_sched_cand *c)
{
    uint32_t n = s->conf->max_row;
    for (uint32_t g = 0; g < s->pool->conf.n_group; g++)
        n = min_u32(n, s->avail[g]);
    return (c->n_blk + n) * s->pool->conf.block_tok - c->from;
}

/* Rows from position pos on that the budgets of rows and time allow. */
static uint32_t row_room(const struct sched *s, const struct sk_seq *q, uint32_t pos)
{
    uint32_t left = s->left;
    if (s->conf->no_evict) /* it promised blocks for one step's rows before a window moves on */
        left = min_u32(left, s->conf->max_row - (q->n_planned - q->n_computed));
    if (s->chunk_us == HUGE_VAL)
        return left;
    uint32_t n = sk_cost_rows(s->conf->rate, pos < q->n_prompt, pos, s->chunk_us, left);
    return n > s->n_least ? n : min_u32(s->n_least, left);
}

static void spend(struct sched *s, const struct sk_sched_cand *c)
{
    struct sk_cost_work w = {0};
    s->left -= c->run.n;
    if (s->chunk_us == HUGE_VAL)
        return;
    sk_cost_add(&w, c->run.pos < c->seq->n_prompt, c->run.pos, c->run.n);
    s->chunk_us -= sk_cost_us(s->conf->rate, &w);
    s->n_least -= min_u32(s->n_least, c->run.n);
}

static void grant(struct sched *s, struct sk_sched_cand *c)
{
    c->run = next_run(c->seq, c->from, min_u32(row_room(s, c->seq, c->from), block_room(s, c)));
    uint32_t need = sk_kvpool_blocks(&s->pool->conf, c->from + c->run.n);
    c->grow = need > c->n_blk ? need - c->n_blk : 0;
    for (uint32_t g = 0; g < s->pool->conf.n_group; g++)
        s->avail[g] -= c->grow;
    spend(s, c);
}

/* Preempts the youngest that is younger than candidate i, and not under way. Blocks that others hold too are not
 * counted as won: the next step will know. */
static bool preempt_younger(struct sched *s, uint32_t i)
{
    uint32_t j = s->n_cand;
    while (--j > i && (s->out->cand[j].out || s->out->cand[j].seq->n_plan > 0))
        ;
    if (j <= i)
        return false;
    struct sk_sched_cand *c = &s->out->cand[j];
    for (uint32_t g = 0; g < s->pool->conf.n_group; g++) {
        s->avail[g] += c->grow;
        for (uint32_t b = c->first[g]; b < c->n_blk; b++)
            s->avail[g] += sk_kvpool_refs(s->pool, g, c->seq->blk[g][b]) == 1;
    }
    s->left += c->run.n;
    c->run.n = c->grow = 0;
    c->out = true;
    s->out->preempt[s->out->n_preempt++] = c->seq;
    return true;
}

/* Gives runs to the running sequences of one kind, oldest first. One that gets no block waits for the older ones. */
static void give_running(struct sched *s, bool decode)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_cand && !(decode && n == s->n_share); i++) {
        struct sk_sched_cand *c = &s->out->cand[i];
        if (c->out || !takes_part(s, c->seq) || !sk_seq_can_go(c->seq) || is_decode(c->seq) != decode)
            continue;
        if (row_room(s, c->seq, c->from) == 0)
            continue;
        while (block_room(s, c) == 0 && preempt_younger(s, i))
            ;
        if (block_room(s, c) > 0)
            grant(s, c);
        n += c->run.n > 0;
    }
}

/* ---- admission ---- */

/* Blocks of group g that the candidates will still ask for: of the tokens they have now, or with no_evict of all they
 * may come to. A windowed group's blocks come back as it goes on, but shared ones do not come back to all: there
 * no_evict counts whole peaks against the whole pool. */
static uint32_t promised(const struct sched *s, uint32_t g)
{
    const struct sk_kvpool_conf *c = &s->pool->conf;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < s->n_cand; i++) {
        const struct sk_sched_cand *k = &s->out->cand[i];
        const struct sk_seq *q = k->seq;
        uint32_t n_pos = s->conf->no_evict ? last_comp(q->n_prompt, q->max_gen) : q->n_tok;
        uint32_t peak = sk_sched_peak(c, g, n_pos, s->conf->max_row);
        uint32_t held = s->conf->no_evict && c->window[g] ? 0 : k->n_blk + k->grow - k->first[g];
        sum += peak > held ? peak - held : 0;
    }
    return sum;
}

static bool room_for(const struct sched *s, const struct sk_seq *q, const struct sk_kv_hit *hit)
{
    const struct sk_kvpool_conf *c = &s->pool->conf;
    bool no_evict = s->conf->no_evict;
    for (uint32_t g = 0; g < c->n_group; g++) {
        uint32_t n_pos = no_evict ? last_comp(q->n_prompt, q->max_gen) : q->n_tok;
        uint32_t cost = min_u32(sk_sched_peak(c, g, n_pos, s->conf->max_row), c->n_blk[g]);
        uint64_t have = s->avail[g];
        if (no_evict && c->window[g]) {
            have = c->n_blk[g];
        } else {
            uint32_t shared = hit->n_blk - hit->first[g];
            cost = (cost > shared ? cost - shared : 0) + hit->n_idle[g];
        }
        /* each running one may soon want a block: without this margin what is admitted now is preempted next */
        uint64_t margin = no_evict ? 0 : s->n_cand;
        if (s->n_cand > 0 && cost + promised(s, g) + margin > have)
            return false;
    }
    return true;
}

static uint32_t common_prefix(const struct sk_seq *a, const struct sk_seq *b, uint32_t max)
{
    uint32_t n = 0;
    while (n < max && a->tok[n] == b->tok[n])
        n++;
    return n;
}

/* Is a sequence at hand computing at least half of what q would have to? Then q had better wait for those blocks; but
 * for nothing of a suspect's, which may come to nothing. */
static bool is_coming(const struct sched *s, const struct sk_seq *q, const struct sk_kv_hit *hit)
{
    uint32_t bt = s->pool->conf.block_tok, have = hit->n_blk * bt;
    for (uint32_t i = 0; i < s->n_cand; i++) {
        const struct sk_sched_cand *c = &s->out->cand[i];
        if (c->seq->n_prompt / bt * bt <= c->n_computed || c->seq->params.salt != q->params.salt ||
            sk_seq_is_suspect(c->seq))
            continue;
        uint32_t max = min_u32(min_u32(c->seq->n_prompt, q->n_prompt), q->n_tok - 1);
        uint32_t n = common_prefix(c->seq, q, max) / bt * bt;
        if (n > c->n_computed && n > have && 2 * (n - have) >= q->n_tok - have)
            return true;
    }
    return false;
}

static struct sk_kv_hit find_hit(const struct sched *s, const struct sk_seq *q)
{
    struct sk_kv_hit hit = {.node = SK_KV_NONE};
    if (sk_seq_reads_cache(q)) {
        struct sk_kv_text text = sk_seq_text(q);
        hit = sk_kvpool_find(s->pool, &text, (q->n_tok - 1) / s->pool->conf.block_tok);
    }
    return hit;
}

/* In its own step the suspect alone is looked at; in the others' all but those suspects whose turn it is not yet. */
static bool is_next_in_line(const struct sched *s, const struct sk_seq *q)
{
    return sk_seq_is_suspect(q) ? q == s->suspect : s->kind != SK_SEQ_KIND_SUSPECT;
}

/* Urgent and ordinary ones are admitted in each other's steps too, without rows: so none overtakes another. */
static void admit_waiting(struct sched *s, const struct sk_seqs *seqs)
{
    struct sk_sched_out *out = s->out;
    uint32_t word = 0, n_passed = 0;
    for (struct sk_seq *q = seqs->wait.first; q; q = q->next) {
        if (s->left == 0 || s->n_cand == out->cap || n_passed == out->cap)
            return;
        if (!is_next_in_line(s, q))
            continue;
        bool now = sk_seq_is_suspect(q) == (s->kind == SK_SEQ_KIND_SUSPECT);
        struct sk_kv_hit hit = find_hit(s, q);
        if (now && sk_seq_reads_cache(q) && is_coming(s, q, &hit)) {
            n_passed++;
            continue;
        }
        if (takes_part(s, q) && row_room(s, q, hit.n_blk * s->pool->conf.block_tok) == 0)
            return;
        word += now ? q->n_tok + q->n_list : 0;
        if (out->n_admit > 0 && word > s->conf->max_open_word)
            return;
        if (!room_for(s, q, &hit))
            return; /* in order: what comes later must not overtake it for ever, nor the suspect, whose turn comes */
        if (!now)
            continue;
        for (uint32_t g = 0; g < s->pool->conf.n_group; g++)
            s->avail[g] -= hit.n_idle[g];
        out->admit[out->n_admit++] = (struct sk_sched_admit){.seq = q, .hit = hit};
        struct sk_sched_cand *c = add_cand(s, q, hit.n_blk * s->pool->conf.block_tok, hit.n_blk, hit.first);
        if (takes_part(s, q))
            grant(s, c);
    }
}

/* ---- */

static void decide_nothing(struct sk_sched_out *out)
{
    out->n_preempt = out->n_admit = out->n_run = out->n_row = out->n_result = 0;
}

static void put_runs(struct sched *s, bool prompt)
{
    for (uint32_t i = 0; i < s->n_cand; i++) {
        const struct sk_sched_cand *c = &s->out->cand[i];
        if (c->run.n == 0 || (c->run.pos < c->seq->n_prompt) != prompt)
            continue;
        s->out->run[s->out->n_run++] = c->run;
        s->out->n_row += c->run.n;
        s->out->n_result += c->run.n_result;
    }
}

/* While an answer is being generated, a step of any kind is one that it waits for; steps of each kind that is there
 * come in turn, and share the time between two of its tokens. */
static void limit_chunks(struct sched *s, uint32_t n_kind)
{
    const struct sk_cost_rate *rate = s->conf->rate;
    struct sk_cost_work here = sk_cost_no_work(), all = here; /* rows that continue answers: of this step, of all */
    for (uint32_t i = 0; i < s->n_cand; i++) {
        const struct sk_sched_cand *c = &s->out->cand[i];
        if (generates(c->seq) && !c->out)
            sk_cost_add(&all, false, c->from, 1);
        if (c->run.n > 0)
            sk_cost_add(&here, false, c->run.pos, c->run.n);
    }
    if (!rate || all.n[SK_COST_DECODE_ROW] == 0)
        return;
    all.n[SK_COST_DECODE_ROW] /= s->conf->n_stage; /* as many of them are in each plan */
    all.n[SK_COST_DECODE_PAIR] /= s->conf->n_stage;
    double us = s->conf->itl_target_us;
    bool automatic = us == 0;
    if (automatic)
        us = fmax(2 * sk_cost_us(rate, &all), SK_SCHED_LEAST_TARGET_US);
    /* A first token waits for an urgent step: it has the target to itself, and may be the odd one that is beyond. */
    double part = automatic && s->kind == SK_SEQ_KIND_URGENT ? 1 : n_kind * rate->spread;
    s->chunk_us = us / part - sk_cost_us(rate, &here);
    s->n_least = SK_SCHED_LEAST_CHUNK;
}

/* What a plan takes of the decode sequences of its kind. */
static uint32_t decode_share(const struct sched *s)
{
    uint32_t n = 0, n_stage = s->conf->n_stage;
    for (uint32_t i = 0; i < s->n_cand; i++)
        n += takes_part(s, s->out->cand[i].seq) && generates(s->out->cand[i].seq);
    return n_stage == 1 ? n : (n + n_stage - 1) / n_stage;
}

/* And of the chunks' rows: large parts while there is much to do, smaller ones towards the end. */
static uint32_t chunk_share(const struct sched *s, const struct sk_seqs *seqs)
{
    uint32_t n_stage = s->conf->n_stage, max_row = s->conf->max_row;
    uint64_t n = 0;
    if (n_stage == 1)
        return max_row;
    for (uint32_t i = 0; i < s->n_cand; i++) {
        const struct sk_sched_cand *c = &s->out->cand[i];
        if (takes_part(s, c->seq) && sk_seq_can_go(c->seq))
            n += c->seq->n_tok - c->from;
    }
    for (const struct sk_seq *q = seqs->wait.first; q; q = q->next)
        n += takes_part(s, q) ? q->n_tok : 0;
    n /= SK_SCHED_STAGE_PARTS * n_stage;
    if (n > max_row / n_stage)
        n = max_row / n_stage;
    return min_u32(n > SK_SCHED_LEAST_PART ? (uint32_t)n : SK_SCHED_LEAST_PART, max_row);
}

static void plan(struct sched *s, const struct sk_seqs *seqs, uint32_t n_kind)
{
    struct sk_sched_out *out = s->out;
    decide_nothing(out);
    out->kind = s->kind;
    s->left = s->conf->max_row;
    s->chunk_us = HUGE_VAL; /* the decode rows' own time is what there is to keep short */
    s->n_cand = 0;
    for (uint32_t g = 0; g < s->pool->conf.n_group; g++)
        s->avail[g] = sk_kvpool_avail(s->pool, g);
    for (struct sk_seq *q = seqs->run.first; q; q = q->next)
        add_cand(s, q, q->n_computed, q->n_blk, q->first);

    s->n_share = decode_share(s);
    give_running(s, true);
    limit_chunks(s, n_kind);
    s->left = min_u32(s->left, chunk_share(s, seqs));
    give_running(s, false);
    if (out->n_preempt == 0)
        admit_waiting(s, seqs);
    put_runs(s, true);
    put_runs(s, false);
}

/* Which kinds are there, and which suspect: the one that runs, else the first that waits; no other is admitted before
 * it is done. */
static void survey(struct sched *s, const struct sk_seqs *seqs, bool *ret_is_there)
{
    const struct sk_seq_list *const lists[] = {&seqs->run, &seqs->wait};
    for (int i = 0; i < 2; i++)
        for (const struct sk_seq *q = lists[i]->first; q; q = q->next) {
            ret_is_there[sk_seq_kind(q)] = true;
            if (!s->suspect && sk_seq_is_suspect(q))
                s->suspect = q;
        }
}

/* The kinds, whose last step is longest ago first. */
static void sort_turns(const struct sk_seqs *seqs, enum sk_seq_kind *ret)
{
    for (int k = 0; k < SK_SEQ_KIND_COUNT; k++) {
        int i = k;
        for (; i > 0 && seqs->last_step[ret[i - 1]] > seqs->last_step[k]; i--)
            ret[i] = ret[i - 1];
        ret[i] = (enum sk_seq_kind)k;
    }
}

/* With a plan for each stage under way more is of use only to prompts: those who generate would wait for it. And a
 * suspect has nobody beside it. */
static bool waits(const struct sched *s, const struct sk_seqs *seqs)
{
    bool any = false;
    if (seqs->n_plan == 0)
        return false;
    for (const struct sk_seq *q = seqs->run.first; q; q = q->next)
        any = any || generates(q);
    return (any && seqs->n_plan >= s->conf->n_stage) || (s->suspect && s->suspect->n_plan > 0);
}

void sk_sched_next(const struct sk_sched_conf *conf, const struct sk_seqs *seqs, const struct sk_kvpool *pool,
                   struct sk_sched_out *ret)
{
    struct sched s = {.conf = conf, .pool = pool, .out = ret};
    enum sk_seq_kind turn[SK_SEQ_KIND_COUNT];
    bool is_there[SK_SEQ_KIND_COUNT] = {[SK_SEQ_KIND_ORDINARY] = true}; /* or nobody: *ret is set all the same */
    uint32_t n_kind = 0;
    survey(&s, seqs, is_there);
    decide_nothing(ret);
    if (waits(&s, seqs))
        return;
    sort_turns(seqs, turn);
    for (int k = 0; k < SK_SEQ_KIND_COUNT; k++)
        n_kind += is_there[k];
    for (int i = 0; i < SK_SEQ_KIND_COUNT; i++) {
        s.kind = turn[i];
        if (!is_there[s.kind])
            continue;
        plan(&s, seqs, n_kind);
        if (ret->n_row == 0 && ret->n_preempt == 0)
            continue;
        if (s.kind == SK_SEQ_KIND_SUSPECT && seqs->n_plan > 0)
            decide_nothing(ret); /* once nothing else is under way */
        return;
    }
}
