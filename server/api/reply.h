/* JSON of answers: whole bodies, chunks of streams, errors. Pure: appends to a buffer; the buffer's `failed` says how
 * it went. */
#ifndef SK_REPLY_H
#define SK_REPLY_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "server/api/logprobs.h"

struct sk_http_req;
struct sk_job_bill;

struct sk_reply { /* what all bodies of one request have in common; strings are borrowed */
    bool chat, stream;
    const char *id, *model, *fingerprint;
    int64_t created;                       /* unix seconds */
    bool logprobs;                         /* asked for */
    bool token_ids;                        /* return_token_ids */
    bool usage;                            /* stream: include_usage */
    struct sk_logprobs_style style;        /* of the answer's tokens */
    struct sk_logprobs_style prompt_style; /* of prompt_logprobs */
};

struct sk_reply_choice { /* an answer, or the next piece of one */
    uint32_t index;
    const char *text;
    size_t n_text;
    bool role;                               /* chat stream: the first chunk, which has the role and no text */
    const char *finish;                      /* finish_reason; NULL = goes on */
    int32_t stop_id;                         /* stop_reason, >= 0: a stop token */
    const char *stop_str;                    /* or a stop string; NULL = none */
    const struct sk_logprobs *tokens;        /* of the piece, where log-probs or token ids are asked for */
    uint32_t *offset;                        /* text_offset of the first of them; moves on */
    const struct sk_logprobs *prompt_tokens; /* prompt_logprobs; NULL = not asked for */
    const int32_t *prompt_ids;               /* prompt_token_ids; NULL = not asked for, or said before */
    size_t n_prompt;
};

struct sk_reply_usage {
    uint64_t n_prompt, n_answer, n_cached; /* tokens */
    uint64_t n_cut;                 /* tokens of the prompt that truncation took away; said where there are any */
    const struct sk_job_bill *bill; /* NULL = not asked for */
};

/* A body is open, then its choices, then close: with one choice a chunk, with all of them the whole answer, with none
 * the chunk that ends a stream with the usage. `usage` NULL = none in this chunk. For a chat, prompt ids and log-probs
 * belong to the body: `top` is the choice that has them, NULL = none. */
void sk_reply_open(struct sk_buf *b, const struct sk_reply *r);
void sk_reply_choice(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *c);
void sk_reply_close(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *top,
                    const struct sk_reply_usage *usage);

/* {"error": {message, type, param, code}} */
void sk_reply_error(struct sk_buf *b, const struct sk_err *err);
/* Answers the request with it: status and headers as the code says. x-should-retry for all; Retry-After and
 * retry-after-ms, of which clients take the finer one, where it may succeed later; WWW-Authenticate. */
void sk_reply_send_error(struct sk_http_req *r, const struct sk_err *err);
/* Answers with the JSON in b (500 when b has failed) and frees it. */
void sk_reply_send(struct sk_http_req *r, int status, struct sk_buf *b);

enum { SK_REPLY_MAX_BYTES = 512 << 20 }; /* of a whole answer */

#endif
