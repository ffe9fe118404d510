/* What a benchmark reads of one JSON object of an answer: an event of a stream, or a whole reply. One pass over the
 * bytes, nothing allocated: a few hundred nanoseconds, where a tree of the object would take several microseconds. It
 * checks the frame that it walks along, not all of JSON's rules. */
#ifndef SK_PIECE_H
#define SK_PIECE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/base/err.h"

struct sk_piece {
    const char *text;    /* of the first choice: inside of a JSON string, still escaped, in place; NULL: none */
    size_t n_text;       /* 0 with text set: the empty string */
    bool has_tool;       /* a piece of a tool call */
    bool finished;       /* finish_reason is set */
    int64_t n_in, n_out; /* usage; -1: none */
    const char *error;   /* error.message, likewise escaped; "" in an error without words; NULL: no error */
    size_t n_error;
};

/* text is choices[0].text, .delta.content or .message.content (or reasoning, reasoning_content). -SK_EJSON, and
 * *ret_at is the byte. */
int sk_piece_read(const char *s, size_t n, struct sk_piece *ret, size_t *ret_at);

#endif
