/* Who is on board (comm/wire/board.h): whom a crash would be of. */
#include "engine/batch/loop.h"

static void add_seqs(struct sk_loop *l, bool all)
{
    const struct sk_seq_list *const lists[] = {&l->seqs->run, &l->seqs->wait};
    for (int i = 0; i < 2; i++)
        for (const struct sk_seq *q = lists[i]->first; q; q = q->next)
            if (all || q->n_plan > 0)
                sk_board_add(l->conf.board, q->job->id, q->choice);
}

void sk_seat_all(struct sk_loop *l)
{
    sk_board_begin(l->conf.board, l->step, false);
    add_seqs(l, true);
}

void sk_seat_under_way(struct sk_loop *l)
{
    if (l->seqs->n_plan == 0) {
        sk_board_end(l->conf.board);
        return;
    }
    sk_board_begin(l->conf.board, l->step, true);
    add_seqs(l, false);
}

void sk_seat_frame(struct sk_loop *l, const struct sk_frame *f)
{
    const struct sk_wire_prompt *p = (const void *)f;
    const struct sk_wire_seq *s = (const void *)f;
    const struct sk_wire_cancel *c = (const void *)f;
    sk_board_begin(l->conf.board, l->step, l->seqs->n_plan > 0);
    if (f->kind == SK_FRAME_PROMPT)
        sk_board_add(l->conf.board, p->job, SK_WIRE_ALL);
    else if (f->kind == SK_FRAME_SEQ)
        sk_board_add(l->conf.board, s->job, s->choice);
    else if (f->kind == SK_FRAME_CANCEL)
        sk_board_add(l->conf.board, c->job, c->choice);
    add_seqs(l, false);
}

void sk_seat_put(struct sk_loop *l, struct sk_buf *out)
{
    struct sk_wire_seats s = {.step = l->step, .progress = l->step};
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        if (q->n_plan > 0)
            l->seat[s.n_seat++] = (struct sk_wire_seat){.job = q->job->id, .choice = q->choice};
    sk_wire_put_seats(out, &s, l->seat);
}
