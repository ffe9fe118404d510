/* What a benchmark sends, from a file: JSON lines, or the JSON array of conversations of ShareGPT. */
#ifndef SK_TRACE_H
#define SK_TRACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"

enum {
    SK_TRACE_MAX_BYTES = 1 << 30, /* of a file */
    SK_TRACE_MAX_LINE = 16 << 20,
    SK_TRACE_MAX_ITEMS = 1 << 22,
    SK_TRACE_MAX_TURNS = 1024,
    SK_TRACE_MAX_TOLD = 5 /* bad lines that are described */
};

struct sk_trace_turn {
    const char *text;     /* of the user; NULL: n_in random words */
    const char *messages; /* instead: a JSON array of chat messages */
    int64_t n_in, n_out;  /* 0: as the options say */
};

struct sk_trace_item { /* a conversation */
    const struct sk_trace_turn *turns;
    int n_turn;
    double at_ms;  /* < 0: the file says none */
    size_t number; /* line, or place in the array, from 1 */
};

struct sk_trace {
    struct sk_trace_item *items; /* owned; in the file's order, by time where all have one */
    size_t n, cap;
    size_t n_timed;        /* items with a timestamp */
    size_t n_messages;     /* items that only the chat endpoint takes */
    uint64_t n_bad;        /* lines or conversations passed over */
    struct sk_buf bad;     /* the first of them: "FILE:LINE: what\n" each */
    struct sk_arena arena; /* texts */
};

/* A JSON line is an object with `prompt` (string), `messages` (array) or `input_length` (also input_tokens,
 * prompt_len), and may have `output_length` (output_tokens, max_tokens) and `timestamp` (milliseconds; the first one is
 * the origin). A ShareGPT conversation has `conversations`: [{from: human|user|gpt|assistant|system, value}]; its
 * answers count as one token for four bytes. Malformed ones are counted in n_bad. -SK_ENOENT, -SK_EIO, -SK_ETOOBIG,
 * -SK_ENOMEM; -SK_EFORMAT: not one is usable. */
int sk_trace_read(struct sk_trace *t, const char *path, struct sk_err *err);
/* The same of s[0..n); `path` is for messages. */
int sk_trace_text(struct sk_trace *t, const char *path, const char *s, size_t n, struct sk_err *err);
void sk_trace_done(struct sk_trace *t); /* also after a failure */

#endif
