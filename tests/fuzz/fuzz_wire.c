/* A stream of frames: each that checks is walked to its last byte through the typed views, and never past it. */
#include <stdlib.h>
#include <string.h>

#include "comm/base/err.h"
#include "comm/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint64_t sum;

static void walk_words(const int32_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        sum += (uint32_t)p[i];
}

static void walk_tokens(const struct sk_wire_tokens *t)
{
    uint32_t n_entry = 0;
    const char *end = (const char *)(t + 1);
    for (const struct sk_wire_entry *e = sk_wire_first(t); e; e = sk_wire_next(t, e), n_entry++) {
        const struct sk_wire_item *it = sk_wire_item_first(e);
        for (uint32_t i = 0; i < e->n_item; i++, it = sk_wire_item_next(it))
            for (uint32_t k = 0; k < it->n_top; k++)
                sum += (uint32_t)sk_wire_item_top(it)[k].id;
        end = (const char *)it;
    }
    sk_assert(n_entry == t->n_entry && end == (const char *)t + t->frame.bytes);
}

static void walk(const struct sk_frame *f)
{
    const struct sk_wire_prompt *p = (const void *)f;
    const struct sk_wire_seq *s = (const void *)f;
    const struct sk_wire_peek *k = (const void *)f;
    const struct sk_wire_view *v = (const void *)f;
    switch (f->kind) {
    case SK_FRAME_HELLO:
        sum += strlen(((const struct sk_wire_hello *)f)->build) + strlen(((const struct sk_wire_hello *)f)->isa);
        break;
    case SK_FRAME_STATE:
        sum += strlen(((const struct sk_wire_state *)f)->text);
        break;
    case SK_FRAME_PROMPT:
        walk_words(sk_wire_prompt_tok(p), p->n_tok);
        break;
    case SK_FRAME_SEQ:
        walk_words(sk_wire_seq_list(s), s->n_list);
        walk_words(sk_wire_seq_done(s), s->n_done);
        sum += (uint64_t)sk_params_check(&s->params, sk_wire_seq_list(s), s->n_list, 1000);
        break;
    case SK_FRAME_PEEK:
        walk_words(sk_wire_peek_tok(k), k->n_tok);
        break;
    case SK_FRAME_VIEW:
        for (uint32_t i = 0; i < v->n_seq; i++)
            sum += sk_wire_view_seqs(v)[i].n_blk;
        break;
    case SK_FRAME_TOKENS:
        walk_tokens((const void *)f);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    for (size_t at = 0; n - at >= sizeof(struct sk_frame);) {
        struct sk_frame head;
        memcpy(&head, data + at, sizeof head);
        if (head.bytes < sizeof head || head.bytes > n - at)
            break;
        struct sk_frame *f = malloc(head.bytes); /* of its exact size: a read past it is seen */
        if (!f)
            abort();
        memcpy(f, data + at, head.bytes);
        if (sk_wire_check(f) == 0)
            walk(f);
        free(f);
        at += head.bytes;
    }
    return 0;
}
