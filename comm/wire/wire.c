#include "comm/wire/wire.h"

#include <stdbool.h>
#include <string.h>

#define PAD8(n) (((size_t)(n) + 7) & ~(size_t)7)

/* Layouts are the protocol: a compiler that pads them otherwise must not build. */
_Static_assert(sizeof(struct sk_frame) == 8, "frame");
_Static_assert(sizeof(struct sk_wire_hello) == 192, "hello");
_Static_assert(sizeof(struct sk_wire_state) == 464, "state");
_Static_assert(sizeof(struct sk_wire_prompt) == 24, "prompt");
_Static_assert(sizeof(struct sk_params) == 104, "params");
_Static_assert(sizeof(struct sk_wire_seq) == 136, "seq");
_Static_assert(sizeof(struct sk_wire_cancel) == 24, "cancel");
_Static_assert(sizeof(struct sk_wire_item) == 16 && sizeof(struct sk_wire_top) == 8, "item");
_Static_assert(sizeof(struct sk_wire_entry) == 48 && sizeof(struct sk_wire_tokens) == 24, "tokens");
_Static_assert(sizeof(struct sk_wire_stats) == 104, "stats");
_Static_assert(sizeof(struct sk_wire_beat) == 24, "beat");
_Static_assert(sizeof(struct sk_wire_peek) == 32 && sizeof(struct sk_wire_view) == 128, "peek, view");
_Static_assert(sizeof(struct sk_wire_view_seq) == 40, "view's sequence");
_Static_assert(sizeof(struct sk_wire_ranks) == 16 && sizeof(struct sk_wire_rank) == 144, "ranks");
_Static_assert(sizeof(struct sk_wire_seats) == 32 && sizeof(struct sk_wire_seat) == 16, "seats");

/* ---- writing ---- */

/* A frame is added whole or not at all: a part of one would put every later frame out of step. */
static int put_parts(struct sk_buf *b, const void *head, size_t n_head, const void *const part[2],
                     const size_t n_part[2])
{
    static const char zeros[8];
    size_t bytes = n_head + PAD8(n_part[0]) + PAD8(n_part[1]);
    if (bytes > SK_FRAME_MAX)
        return -SK_ETOOBIG;
    int rc = sk_buf_reserve(b, bytes);
    if (rc)
        return rc;
    sk_buf_add(b, head, n_head);
    for (int i = 0; i < 2; i++) {
        sk_buf_add(b, part[i], n_part[i]);
        sk_buf_add(b, zeros, PAD8(n_part[i]) - n_part[i]);
    }
    return 0;
}

static struct sk_frame frame_of(enum sk_frame_kind kind, size_t bytes)
{
    return (struct sk_frame){.bytes = (uint32_t)bytes, .kind = (uint16_t)kind};
}

static int put_fixed(struct sk_buf *b, const void *head, size_t n)
{
    return put_parts(b, head, n, (const void *const[2]){NULL, NULL}, (const size_t[2]){0, 0});
}

int sk_wire_put_hello(struct sk_buf *b, const struct sk_wire_hello *h)
{
    struct sk_wire_hello w = *h;
    w.frame = frame_of(SK_FRAME_HELLO, sizeof w);
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_state(struct sk_buf *b, uint32_t permille, int failed, const char *text)
{
    struct sk_wire_state w = {.permille = permille, .failed = (uint32_t)failed};
    w.frame = frame_of(SK_FRAME_STATE, sizeof w);
    size_t n = strnlen(text, sizeof w.text - 1);
    memcpy(w.text, text, n);
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_prompt(struct sk_buf *b, uint64_t job, uint32_t n_choice, const int32_t *tok, uint32_t n_tok)
{
    size_t n = (size_t)n_tok * sizeof *tok;
    struct sk_wire_prompt w = {.job = job, .n_tok = n_tok, .n_choice = n_choice};
    w.frame = frame_of(SK_FRAME_PROMPT, sizeof w + PAD8(n));
    return put_parts(b, &w, sizeof w, (const void *const[2]){tok, NULL}, (const size_t[2]){n, 0});
}

int sk_wire_put_seq(struct sk_buf *b, const struct sk_wire_seq *s, const int32_t *list, const int32_t *done)
{
    size_t n_list = (size_t)s->n_list * sizeof *list, n_done = (size_t)s->n_done * sizeof *done;
    struct sk_wire_seq w = *s;
    w.frame = frame_of(SK_FRAME_SEQ, sizeof w + PAD8(n_list) + PAD8(n_done));
    return put_parts(b, &w, sizeof w, (const void *const[2]){list, done}, (const size_t[2]){n_list, n_done});
}

int sk_wire_put_cancel(struct sk_buf *b, uint64_t job, uint32_t choice)
{
    struct sk_wire_cancel w = {.frame = frame_of(SK_FRAME_CANCEL, sizeof w), .job = job, .choice = choice};
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_stats(struct sk_buf *b, const struct sk_wire_stats *s)
{
    struct sk_wire_stats w = *s;
    w.frame = frame_of(SK_FRAME_STATS, sizeof w);
    w.zero = 0;
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_beat(struct sk_buf *b, uint64_t number, uint64_t step)
{
    struct sk_wire_beat w = {.frame = frame_of(SK_FRAME_BEAT, sizeof w), .number = number, .step = step};
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_quit(struct sk_buf *b)
{
    struct sk_frame w = frame_of(SK_FRAME_QUIT, sizeof w);
    return put_fixed(b, &w, sizeof w);
}

int sk_wire_put_peek(struct sk_buf *b, uint64_t number, uint64_t salt, const int32_t *tok, uint32_t n_tok)
{
    size_t n = (size_t)n_tok * sizeof *tok;
    struct sk_wire_peek w = {.number = number, .salt = salt, .n_tok = n_tok};
    w.frame = frame_of(SK_FRAME_PEEK, sizeof w + PAD8(n));
    return put_parts(b, &w, sizeof w, (const void *const[2]){tok, NULL}, (const size_t[2]){n, 0});
}

int sk_wire_put_ranks(struct sk_buf *b, const struct sk_wire_rank *ranks, uint32_t n)
{
    size_t bytes = (size_t)n * sizeof *ranks;
    struct sk_wire_ranks w = {.frame = frame_of(SK_FRAME_RANKS, sizeof w + bytes), .n_rank = n};
    return put_parts(b, &w, sizeof w, (const void *const[2]){ranks, NULL}, (const size_t[2]){bytes, 0});
}

int sk_wire_put_seats(struct sk_buf *b, const struct sk_wire_seats *s, const struct sk_wire_seat *seats)
{
    size_t bytes = (size_t)s->n_seat * sizeof *seats;
    struct sk_wire_seats w = *s;
    w.frame = frame_of(SK_FRAME_SEATS, sizeof w + bytes);
    return put_parts(b, &w, sizeof w, (const void *const[2]){seats, NULL}, (const size_t[2]){bytes, 0});
}

int sk_wire_put_view(struct sk_buf *b, const struct sk_wire_view *v, const struct sk_wire_view_seq *seqs)
{
    size_t n = (size_t)v->n_seq * sizeof *seqs;
    struct sk_wire_view w = *v;
    w.frame = frame_of(SK_FRAME_VIEW, sizeof w + n);
    w.stats.frame = (struct sk_frame){0};
    w.stats.zero = 0;
    return put_parts(b, &w, sizeof w, (const void *const[2]){seqs, NULL}, (const size_t[2]){n, 0});
}

void sk_wire_tokens_begin(struct sk_buf *b, size_t *ret_at, uint64_t step)
{
    struct sk_wire_tokens w = {.step = step};
    *ret_at = b->n;
    sk_buf_add(b, &w, sizeof w);
}

void sk_wire_tokens_entry(struct sk_buf *b, const struct sk_wire_entry *e)
{
    sk_buf_add(b, e, sizeof *e);
}

void sk_wire_tokens_item(struct sk_buf *b, const struct sk_wire_item *it, const struct sk_wire_top *top)
{
    sk_buf_add(b, it, sizeof *it);
    sk_buf_add(b, top, it->n_top * sizeof *top);
}

int sk_wire_tokens_end(struct sk_buf *b, size_t at, uint32_t n_entry, uint32_t n_waiting)
{
    if (b->failed)
        return b->failed;
    if (n_entry == 0) {
        b->n = at;
        return 0;
    }
    size_t bytes = b->n - at;
    if (bytes > SK_FRAME_MAX)
        return -SK_ETOOBIG;
    struct sk_wire_tokens w;
    memcpy(&w, b->p + at, sizeof w);
    w.frame = frame_of(SK_FRAME_TOKENS, bytes);
    w.n_entry = n_entry;
    w.n_waiting = n_waiting;
    memcpy(b->p + at, &w, sizeof w);
    return 0;
}

/* ---- reading ---- */

static bool text_ok(const char *s, size_t n)
{
    return memchr(s, '\0', n) != NULL;
}

static bool hello_ok(const struct sk_wire_hello *h)
{
    return h->magic == SK_WIRE_MAGIC && text_ok(h->build, sizeof h->build) && text_ok(h->digest, sizeof h->digest) &&
           text_ok(h->isa, sizeof h->isa) && h->n_group <= SK_WIRE_MAX_GROUPS;
}

static bool tokens_ok(const struct sk_wire_tokens *t)
{
    const char *p = (const char *)(t + 1);
    size_t left = t->frame.bytes - sizeof *t;
    for (uint32_t i = 0; i < t->n_entry; i++) {
        const struct sk_wire_entry *e = (const struct sk_wire_entry *)p;
        if (left < sizeof *e || e->finish > SK_FINISH_ERROR)
            return false;
        p += sizeof *e;
        left -= sizeof *e;
        for (uint32_t k = 0; k < e->n_item; k++) {
            const struct sk_wire_item *it = (const struct sk_wire_item *)p;
            if (left < sizeof *it)
                return false;
            size_t bytes = sizeof *it + it->n_top * sizeof(struct sk_wire_top);
            if (left < bytes)
                return false;
            p += bytes;
            left -= bytes;
        }
    }
    return left == 0;
}

static bool ranks_ok(const struct sk_wire_ranks *r, size_t more)
{
    const struct sk_wire_rank *rank = (const void *)(r + 1);
    if (r->n_rank == 0 || r->n_rank > SK_WIRE_MAX_RANKS || more != r->n_rank * sizeof *rank)
        return false;
    for (uint32_t i = 0; i < r->n_rank; i++)
        if (!text_ok(rank[i].host, sizeof rank[i].host))
            return false;
    return true;
}

/* Bytes that a frame of this kind begins with; 0 = no such kind. */
static size_t head_bytes(unsigned kind)
{
    static const size_t bytes[SK_FRAME_KIND_COUNT] = {
        [SK_FRAME_HELLO] = sizeof(struct sk_wire_hello),   [SK_FRAME_STATE] = sizeof(struct sk_wire_state),
        [SK_FRAME_PROMPT] = sizeof(struct sk_wire_prompt), [SK_FRAME_SEQ] = sizeof(struct sk_wire_seq),
        [SK_FRAME_CANCEL] = sizeof(struct sk_wire_cancel), [SK_FRAME_TOKENS] = sizeof(struct sk_wire_tokens),
        [SK_FRAME_STATS] = sizeof(struct sk_wire_stats),   [SK_FRAME_BEAT] = sizeof(struct sk_wire_beat),
        [SK_FRAME_QUIT] = sizeof(struct sk_frame),         [SK_FRAME_PEEK] = sizeof(struct sk_wire_peek),
        [SK_FRAME_VIEW] = sizeof(struct sk_wire_view),     [SK_FRAME_RANKS] = sizeof(struct sk_wire_ranks),
        [SK_FRAME_SEATS] = sizeof(struct sk_wire_seats),
    };
    return kind < SK_FRAME_KIND_COUNT ? bytes[kind] : 0;
}

static bool body_ok(const struct sk_frame *f, size_t head)
{
    const struct sk_wire_prompt *p = (const void *)f;
    const struct sk_wire_seq *s = (const void *)f;
    const struct sk_wire_peek *k = (const void *)f;
    const struct sk_wire_view *v = (const void *)f;
    size_t more = f->bytes - head;
    switch (f->kind) {
    case SK_FRAME_HELLO:
        return more == 0 && hello_ok((const void *)f);
    case SK_FRAME_STATE:
        return more == 0 && text_ok(((const struct sk_wire_state *)f)->text, sizeof(((struct sk_wire_state *)0)->text));
    case SK_FRAME_PROMPT:
        return more == PAD8((uint64_t)p->n_tok * 4);
    case SK_FRAME_SEQ:
        return more == PAD8((uint64_t)s->n_list * 4) + PAD8((uint64_t)s->n_done * 4) &&
               (s->flags & ~(uint32_t)(SK_SEQ_SUSPECT | SK_SEQ_URGENT)) == 0;
    case SK_FRAME_PEEK:
        return more == PAD8((uint64_t)k->n_tok * 4) && k->zero == 0;
    case SK_FRAME_VIEW:
        return more == (uint64_t)v->n_seq * sizeof(struct sk_wire_view_seq);
    case SK_FRAME_RANKS:
        return ranks_ok((const void *)f, more);
    case SK_FRAME_SEATS:
        return more == (uint64_t)((const struct sk_wire_seats *)f)->n_seat * sizeof(struct sk_wire_seat);
    case SK_FRAME_TOKENS:
        return tokens_ok((const void *)f);
    default:
        return more == 0;
    }
}

int sk_wire_check(const struct sk_frame *f)
{
    size_t head = head_bytes(f->kind);
    if (head == 0 || f->zero != 0 || f->bytes < head || f->bytes % 8 != 0 || f->bytes > SK_FRAME_MAX)
        return -SK_EPROTO;
    return body_ok(f, head) ? 0 : -SK_EPROTO;
}

const int32_t *sk_wire_prompt_tok(const struct sk_wire_prompt *p)
{
    return (const int32_t *)(p + 1);
}

const int32_t *sk_wire_seq_list(const struct sk_wire_seq *s)
{
    return (const int32_t *)(s + 1);
}

const int32_t *sk_wire_seq_done(const struct sk_wire_seq *s)
{
    return (const int32_t *)((const char *)(s + 1) + PAD8((size_t)s->n_list * 4));
}

const int32_t *sk_wire_peek_tok(const struct sk_wire_peek *p)
{
    return (const int32_t *)(p + 1);
}

const struct sk_wire_view_seq *sk_wire_view_seqs(const struct sk_wire_view *v)
{
    return (const struct sk_wire_view_seq *)(v + 1);
}

const struct sk_wire_rank *sk_wire_ranks_list(const struct sk_wire_ranks *r)
{
    return (const struct sk_wire_rank *)(r + 1);
}

const struct sk_wire_seat *sk_wire_seats_list(const struct sk_wire_seats *s)
{
    return (const struct sk_wire_seat *)(s + 1);
}

const struct sk_wire_entry *sk_wire_first(const struct sk_wire_tokens *t)
{
    return t->n_entry ? (const struct sk_wire_entry *)(t + 1) : NULL;
}

const struct sk_wire_entry *sk_wire_next(const struct sk_wire_tokens *t, const struct sk_wire_entry *e)
{
    const struct sk_wire_item *it = sk_wire_item_first(e);
    for (uint32_t i = 0; i < e->n_item; i++)
        it = sk_wire_item_next(it);
    return (const char *)it < (const char *)t + t->frame.bytes ? (const struct sk_wire_entry *)it : NULL;
}

const struct sk_wire_item *sk_wire_item_first(const struct sk_wire_entry *e)
{
    return (const struct sk_wire_item *)(e + 1);
}

const struct sk_wire_item *sk_wire_item_next(const struct sk_wire_item *it)
{
    return (const struct sk_wire_item *)(sk_wire_item_top(it) + it->n_top);
}

const struct sk_wire_top *sk_wire_item_top(const struct sk_wire_item *it)
{
    return (const struct sk_wire_top *)(it + 1);
}
