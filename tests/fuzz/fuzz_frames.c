/* What a daemon may say to an engine, in any order: the batch manager over a pretended rank takes it or ends the
 * connection, and its state holds. */
#include <stdlib.h>
#include <string.h>

#include "comm/base/err.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/pretend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_STEP = 3000 };

static void step(struct sk_loop *l, struct sk_buf *out)
{
    struct sk_err err = {0};
    sk_assert(sk_loop_step(l, out, &err) == 0 && out->n <= sk_loop_max_out(l));
    sk_buf_clear(out);
    invariants_check(l);
}

/* Steps between frames, so that they meet sequences in every state. */
static void feed(struct sk_loop *l, const uint8_t *data, size_t n, struct sk_buf *out)
{
    struct sk_err err = {0};
    for (size_t at = 0; n - at >= sizeof(struct sk_frame);) {
        struct sk_frame head;
        memcpy(&head, data + at, sizeof head);
        if (head.bytes < sizeof head || head.bytes > n - at)
            return;
        struct sk_frame *f = malloc(head.bytes);
        if (!f)
            abort();
        memcpy(f, data + at, head.bytes);
        int rc = sk_wire_check(f);
        if (!rc)
            rc = sk_loop_frame(l, f, out, &err);
        free(f);
        sk_buf_clear(out);
        invariants_check(l);
        if (rc)
            return;
        for (int i = 0; i < 2 && sk_loop_busy(l); i++)
            step(l, out);
        at += head.bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_loop_conf c = {.max_seqs = 4,
                             .max_row = 16,
                             .max_len = 64,
                             .max_queue = 4,
                             .n_vocab = PRETEND_VOCAB,
                             .n_eos = 1,
                             .eos = {PRETEND_EOS}};
    c.kv = (struct sk_kvpool_conf){.n_group = 2, .block_tok = 4, .window = {0, 10}, .n_blk = {18, 12}, .keep = true};
    struct sk_loop *l;
    struct sk_err err = {0};
    struct sk_buf out;
    c.crew = pretend_new(&c);
    sk_assert(sk_loop_open(&c, &l, &err) == 0);
    pretend_bind(c.crew, l);
    sk_buf_init(&out, sk_loop_max_out(l));
    l->greeted = true;
    feed(l, data, n, &out);
    for (int i = 0; sk_loop_busy(l); i++) {
        sk_assert(i < MAX_STEP);
        step(l, &out);
    }
    sk_buf_done(&out);
    sk_loop_close(l);
    pretend_free(c.crew);
    return 0;
}
