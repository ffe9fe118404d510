/* Tokens with their log-probs, kept as the wire brought them until a reply takes them, and their JSON forms: OpenAI's
 * of chat, OpenAI's older one of completions, and vLLM's prompt_logprobs. */
#ifndef SK_LOGPROBS_H
#define SK_LOGPROBS_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/dir/vocab.h"
#include "comm/wire/wire.h"

struct sk_logprobs {
    struct sk_buf items; /* struct sk_wire_item, each followed by its tops */
    uint32_t n;
};

void sk_logprobs_init(struct sk_logprobs *l);
void sk_logprobs_done(struct sk_logprobs *l);
void sk_logprobs_clear(struct sk_logprobs *l); /* keeps the memory */
/* 0, -SK_ETOOBIG, -SK_ENOMEM. */
int sk_logprobs_add(struct sk_logprobs *l, const struct sk_wire_item *it);
/* A token without a log-prob: the first of a prompt. Its JSON is null. `hidden`: it was added to the text (BOS), so
 * that text_offset does not count it. */
int sk_logprobs_add_bare(struct sk_logprobs *l, int32_t id, bool hidden);

struct sk_logprobs_style {
    const struct sk_vocab *vocab;
    int32_t n_top; /* alternatives to show */
    bool as_ids;   /* tokens are written "token_id:123" */
};

/* {"content": [{token, logprob, bytes, top_logprobs}], "refusal": null} */
void sk_logprobs_put_chat(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st);
/* {"tokens", "token_logprobs", "top_logprobs", "text_offset"}. Offsets are in characters; the first is *offset, which
 * moves on. */
void sk_logprobs_put_legacy(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st,
                            uint32_t *offset);
/* [null, {"id": {logprob, rank, decoded_token}}, ...] */
void sk_logprobs_put_prompt(struct sk_buf *b, const struct sk_logprobs *l, const struct sk_logprobs_style *st);
/* [id, ...] of the items that are not prompt tokens. */
void sk_logprobs_put_ids(struct sk_buf *b, const struct sk_logprobs *l);

#endif
