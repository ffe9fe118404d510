#include "engine/batch/flight.h"

#include <string.h>

#include "comm/base/log.h"
#include "comm/base/mem.h"

/* A plan and its rows without its words and result rows: at most. */
enum { PLAN_BYTES = 640 };
_Static_assert(sizeof(struct sk_plan_head) + sizeof(struct sk_plan_open) + 2 * sizeof(struct sk_plan_tok) +
                       sizeof(struct sk_plan_run) + sizeof(struct sk_plan_close) +
                       SK_MAX_GROUPS * (sizeof(struct sk_plan_append) + sizeof(struct sk_plan_drop) + 8) + 64 <=
                   PLAN_BYTES,
               "the records of a sequence, padding and the heads of two records");

struct sk_flight {
    struct sk_board *board;
    struct sk_record *rec;
    struct sk_kvpool_conf kv;
    uint32_t max_row, spare_slot, n_spare[SK_MAX_GROUPS], max_blk;
    bool has_window;
    bool recording; /* the segment `which` is open */
    bool said;
    int which;
    uint32_t n_plan;               /* plans of the engine in it */
    size_t row_bytes;              /* that the rows of those under way will take */
    uint8_t *known[SK_MAX_GROUPS]; /* of each block: did this segment compute what is in it? */
    int32_t *table[SK_MAX_GROUPS]; /* [max_blk] block table of the text at hand */
    uint32_t first[SK_MAX_GROUPS]; /* its entries before it are spare blocks */
    struct sk_buf plan;
};

uint32_t sk_flight_spare(const struct sk_kvpool_conf *kv, uint32_t g, uint32_t max_len, uint32_t max_row)
{
    return kv->window[g] ? sk_sched_peak(kv, g, max_len, max_row) : 0;
}

static int open_memory(struct sk_flight *f, const struct sk_loop_conf *c)
{
    f->max_blk = sk_kvpool_blocks(&f->kv, c->max_len);
    for (uint32_t g = 0; g < f->kv.n_group; g++) {
        f->known[g] = sk_calloc(f->kv.n_blk[g], sizeof *f->known[g]);
        f->table[g] = sk_calloc(f->max_blk, sizeof *f->table[g]);
        if (!f->known[g] || !f->table[g])
            return -SK_ENOMEM;
    }
    size_t words = (size_t)SK_MAX_LIST + c->max_len + (size_t)f->kv.n_group * f->max_blk;
    sk_buf_init(&f->plan, PLAN_BYTES + words * sizeof(int32_t) + c->max_seqs * sizeof(struct sk_plan_open));
    return sk_buf_reserve(&f->plan, f->plan.max);
}

int sk_flight_open(struct sk_board *board, const struct sk_record_head *head, const struct sk_loop_conf *loop,
                   struct sk_flight **ret, struct sk_err *err)
{
    struct sk_flight *f = sk_calloc(1, sizeof *f);
    if (!f)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the flight recorder");
    *f = (struct sk_flight){.board = board, .kv = loop->kv, .max_row = loop->max_row, .spare_slot = loop->max_seqs};
    int rc = 0;
    bool ok = head->limits.max_slot > f->spare_slot && board->segment_bytes > sizeof *head;
    for (uint32_t g = 0; g < f->kv.n_group; g++) {
        f->has_window |= f->kv.window[g] > 0;
        f->n_spare[g] = head->limits.n_blk[g] - f->kv.n_blk[g];
        ok = ok && head->limits.n_blk[g] >= f->kv.n_blk[g] &&
             f->n_spare[g] >= sk_flight_spare(&f->kv, g, loop->max_len, loop->max_row);
    }
    if (!ok)
        rc = sk_err_set(err, SK_EINVAL, NULL, "flight recorder: no room, or the replay's rank is too small");
    if (!rc && open_memory(f, loop))
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for the flight recorder");
    if (!rc)
        rc = sk_record_new(head, loop->max_row, &f->rec, err);
    if (rc)
        sk_flight_close(f);
    else
        *ret = f;
    return rc;
}

void sk_flight_close(struct sk_flight *f)
{
    if (!f)
        return;
    for (uint32_t g = 0; g < SK_MAX_GROUPS; g++) {
        sk_free(f->known[g]);
        sk_free(f->table[g]);
    }
    sk_record_close(f->rec);
    sk_buf_done(&f->plan);
    sk_free(f);
}

/* ---- how much room: upper bounds ---- */

static size_t text_bytes(const struct sk_flight *f, uint32_t n_pos)
{
    size_t words = n_pos + (size_t)f->kv.n_group * sk_kvpool_blocks(&f->kv, n_pos);
    return (n_pos / f->max_row + 3) * (size_t)PLAN_BYTES + words * sizeof(int32_t); /* a chunk may end with its class */
}

static size_t slot_bytes(const struct sk_flight *f, const struct sk_seq *q)
{
    size_t words = q->n_list + q->n_tok + (size_t)f->kv.n_group * q->n_blk_sent;
    return PLAN_BYTES + words * sizeof(int32_t);
}

static size_t state_bytes(const struct sk_flight *f, const struct sk_loop *l)
{
    size_t n = sizeof(struct sk_record_head) + PLAN_BYTES + l->n_slot_close * sizeof(struct sk_plan_open);
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        n += text_bytes(f, q->n_computed) + slot_bytes(f, q);
    return n;
}

/* The step to come: what its hits need, its plan, its rows. What is drafted is not decided yet. */
static size_t step_bytes(const struct sk_flight *f, const struct sk_loop *l)
{
    const struct sk_sched_out *todo = &l->todo;
    uint32_t n_group = f->kv.n_group, n_draft = 0;
    for (uint32_t i = 0; i < todo->n_run && n_draft < l->conf.max_row - todo->n_row; i++)
        n_draft += l->conf.draft.max;
    size_t n = PLAN_BYTES + n_draft * sizeof(int32_t) + l->n_slot_close * sizeof(struct sk_plan_close) +
               (size_t)l->seqs->run.n * (n_group * sizeof(struct sk_plan_drop) + sizeof(struct sk_plan_trim)) +
               sk_record_rows_bytes(todo->n_result + n_draft);
    for (uint32_t i = 0; i < todo->n_admit; i++)
        n += text_bytes(f, todo->admit[i].hit.n_blk * f->kv.block_tok) + PLAN_BYTES +
             todo->admit[i].seq->n_list * sizeof(int32_t);
    for (uint32_t i = 0; i < todo->n_run; i++) {
        const struct sk_sched_run *r = &todo->run[i];
        uint32_t end = r->pos + r->n;
        size_t words = end + 1 > r->seq->n_tok_sent ? end + 1 - r->seq->n_tok_sent : 0;
        words += (size_t)n_group * (sk_kvpool_blocks(&f->kv, end) - r->seq->n_blk_sent);
        words += (size_t)n_group * sk_kvpool_blocks(&f->kv, l->conf.draft.max);
        n += PLAN_BYTES + words * sizeof(int32_t);
    }
    return n;
}

/* ---- writing ---- */

static void write_plan(struct sk_flight *f, uint32_t n_row)
{
    int rc = sk_plan_end(&f->plan, n_row, 0);
    sk_assert(rc == 0); /* reserved for the longest sequence */
    sk_record_plan(f->rec, f->plan.p, f->plan.n);
    sk_record_rows(f->rec, NULL, 0);
}

static void set_known(struct sk_flight *f, uint32_t from_blk, uint32_t end_blk, int32_t *const table[SK_MAX_GROUPS],
                      const uint32_t first[SK_MAX_GROUPS])
{
    for (uint32_t g = 0; g < f->kv.n_group; g++)
        for (uint32_t i = from_blk > first[g] ? from_blk : first[g]; i < end_blk; i++)
            f->known[g][table[g][i]] = 1;
}

/* The first of the table's blocks that this segment has not computed; n_blk = there is none. */
static uint32_t first_unknown(const struct sk_flight *f, uint32_t n_blk)
{
    uint32_t n = n_blk;
    for (uint32_t g = 0; g < f->kv.n_group; g++)
        for (uint32_t i = f->first[g]; i < n; i++)
            if (!f->known[g][f->table[g][i]])
                n = i;
    return n;
}

static void put_text_head(struct sk_flight *f, const struct sk_seq *q, uint32_t n_pos)
{
    struct sk_plan_open o = {.slot = f->spare_slot, .n_prompt = q->n_prompt, .seq = q->id};
    sk_params_default(&o.params);
    sk_plan_put_open(&f->plan, &o, NULL);
    for (uint32_t g = 0; g < f->kv.n_group; g++)
        sk_plan_put_append(&f->plan, f->spare_slot, g, f->table[g], sk_kvpool_blocks(&f->kv, n_pos));
    sk_plan_put_tok(&f->plan, f->spare_slot, 0, q->tok, n_pos);
}

/* Computes positions 0 .. n_pos - 1 of the sequence's text into the blocks of f->table, those that are not known. With
 * a window all of them: what was computed behind it is in the spare blocks no more. */
static void put_text(struct sk_flight *f, const struct sk_seq *q, uint32_t n_pos, uint64_t step)
{
    uint32_t n_blk = sk_kvpool_blocks(&f->kv, n_pos), unknown = first_unknown(f, n_blk);
    if (unknown == n_blk)
        return;
    for (uint32_t g = 0; g < f->kv.n_group; g++)
        for (uint32_t i = 0; i < f->first[g]; i++)
            f->table[g][i] = (int32_t)(f->kv.n_blk[g] + i % f->n_spare[g]);
    uint32_t start = f->has_window ? 0 : unknown * f->kv.block_tok;
    for (uint32_t pos = start, n; pos < n_pos; pos += n) {
        uint32_t end = pos < q->n_prompt && q->n_prompt < n_pos ? q->n_prompt : n_pos;
        n = end - pos < f->max_row ? end - pos : f->max_row;
        sk_plan_begin(&f->plan, step);
        if (pos == start)
            put_text_head(f, q, n_pos);
        sk_plan_put_run(&f->plan, f->spare_slot, pos, n, 0, 0);
        write_plan(f, n);
    }
    sk_plan_begin(&f->plan, step);
    sk_plan_put_close(&f->plan, f->spare_slot);
    write_plan(f, 0);
    set_known(f, 0, n_blk, f->table, f->first);
}

static void put_running(struct sk_flight *f, const struct sk_seq *q, uint64_t step)
{
    uint32_t n_blk = sk_kvpool_blocks(&f->kv, q->n_computed);
    for (uint32_t g = 0; g < f->kv.n_group; g++) {
        memcpy(f->table[g], q->blk[g], n_blk * sizeof(int32_t));
        f->first[g] = q->first[g];
    }
    put_text(f, q, q->n_computed, step);
}

/* The blocks of a hit into f->table. */
static void load_hit(struct sk_flight *f, const struct sk_kvpool *p, const struct sk_sched_admit *a)
{
    for (uint32_t g = 0; g < f->kv.n_group; g++) {
        int32_t node = a->hit.node;
        f->first[g] = a->hit.first[g];
        for (uint32_t i = a->hit.n_blk; i-- > f->first[g]; node = p->nodes[node].parent)
            f->table[g][i] = p->nodes[node].blk[g];
    }
}

/* The slot as the ranks have it, but that it knows all tokens (penalties read those before the one that is drawn), and
 * that nothing was dropped behind a window, where no row looks. */
static void put_slot(struct sk_flight *f, const struct sk_seq *q, uint64_t step)
{
    sk_plan_begin(&f->plan, step);
    sk_apply_put_open(&f->plan, q);
    for (uint32_t g = 0; g < f->kv.n_group && q->n_blk_sent > 0; g++)
        sk_plan_put_append(&f->plan, q->slot, g, q->blk[g], q->n_blk_sent);
    sk_plan_put_tok(&f->plan, q->slot, 0, q->tok, q->n_tok);
    write_plan(f, 0);
}

static void put_closing(struct sk_flight *f, const struct sk_loop *l)
{
    if (l->n_slot_close == 0)
        return;
    sk_plan_begin(&f->plan, l->step);
    for (uint32_t i = 0; i < l->n_slot_close; i++) {
        struct sk_plan_open o = {.slot = l->slot_close[i], .n_prompt = 1};
        sk_params_default(&o.params);
        sk_plan_put_open(&f->plan, &o, NULL);
    }
    write_plan(f, 0);
}

/* ---- segments ---- */

static void give_up(struct sk_flight *f, size_t bytes)
{
    if (!f->said)
        sk_log(SK_LOG_WARN,
               "flight recorder: the sequences that run take %zu bytes, a segment has %zu: nothing is recorded", bytes,
               f->board->segment_bytes);
    f->said = true;
    f->recording = false;
    for (int i = 0; i < SK_BOARD_SEGMENTS; i++)
        sk_board_segment_begin(f->board, i);
}

static void begin_segment(struct sk_flight *f, const struct sk_loop *l, size_t step)
{
    size_t bytes = state_bytes(f, l) + step;
    if (bytes > f->board->segment_bytes) {
        give_up(f, bytes);
        return;
    }
    f->which = !f->which;
    f->n_plan = 0;
    for (uint32_t g = 0; g < f->kv.n_group; g++)
        memset(f->known[g], 0, f->kv.n_blk[g]);
    sk_board_segment_begin(f->board, f->which);
    sk_record_begin(f->rec, sk_board_segment_data(f->board, f->which), f->board->segment_bytes);
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        put_running(f, q, l->step);
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        put_slot(f, q, l->step);
    put_closing(f, l);
    sk_board_segment_open(f->board, f->which, sk_record_size(f->rec));
    f->recording = true;
}

static bool is_full(const struct sk_flight *f, size_t step)
{
    return f->n_plan == f->board->max_plan || step + f->row_bytes > f->board->segment_bytes - sk_record_size(f->rec);
}

bool sk_flight_waits(struct sk_flight *f, const struct sk_loop *l)
{
    if (!f->recording || l->seqs->n_plan == 0 || l->todo.n_row == 0)
        return false;
    for (uint32_t i = 0; i < l->todo.n_admit; i++) {
        load_hit(f, l->pool, &l->todo.admit[i]);
        if (first_unknown(f, l->todo.admit[i].hit.n_blk) < l->todo.admit[i].hit.n_blk)
            return true;
    }
    return is_full(f, step_bytes(f, l) + l->todo.n_preempt * sizeof(struct sk_plan_close));
}

/* Its plan is counted as under way already. */
void sk_flight_prepare(struct sk_flight *f, const struct sk_loop *l)
{
    size_t step = step_bytes(f, l);
    if (l->seqs->n_plan <= 1 && (!f->recording || is_full(f, step)))
        begin_segment(f, l, step);
    for (uint32_t i = 0; i < l->todo.n_admit && f->recording; i++) {
        const struct sk_sched_admit *a = &l->todo.admit[i];
        load_hit(f, l->pool, a);
        put_text(f, a->seq, a->hit.n_blk * f->kv.block_tok, l->step);
    }
}

void sk_flight_plan(struct sk_flight *f, const struct sk_loop *l)
{
    if (!f->recording)
        return;
    sk_record_plan(f->rec, l->plan.p, l->plan.n);
    sk_board_segment_grow(f->board, f->which, sk_record_size(f->rec));
    f->n_plan++;
    f->row_bytes += sk_record_rows_bytes(l->todo.n_result);
    for (uint32_t i = 0; i < l->todo.n_run; i++) {
        const struct sk_sched_run *r = &l->todo.run[i];
        set_known(f, r->pos / f->kv.block_tok, sk_kvpool_blocks(&f->kv, r->pos + r->n), r->seq->blk, r->seq->first);
    }
}

void sk_flight_rows(struct sk_flight *f, const struct sk_result_row *rows, uint32_t n)
{
    if (!f->recording)
        return;
    sk_record_rows(f->rec, rows, n);
    f->row_bytes -= sk_record_rows_bytes(n);
    sk_board_segment_grow(f->board, f->which, sk_record_size(f->rec));
}
