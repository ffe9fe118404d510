/* What a user types, put together from lines: a line that ends in a backslash goes on in the next one, and what is
 * between """ at the start of a line and """ at the end of one is taken as it is. Pure. */
#ifndef SK_INPUT_H
#define SK_INPUT_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum { SK_INPUT_MAX_BYTES = 4 << 20 /* also of a pipe's text */ };

struct sk_input {
    struct sk_buf text;
    bool is_open;  /* more lines are wanted */
    bool is_block; /* inside """ */
};

void sk_input_init(struct sk_input *in);
void sk_input_done(struct sk_input *in);
void sk_input_clear(struct sk_input *in);
/* A line without its end; a whole text before it is forgotten. 1: in->text is whole; 0: it is open; -SK_ETOOBIG,
 * -SK_ENOMEM: it is forgotten. */
int sk_input_line(struct sk_input *in, const char *line, size_t n, struct sk_err *err);
/* Appends all of a descriptor (a pipe) to `b`. -SK_ETOOBIG with the limit, -SK_EIO. */
int sk_input_pipe(struct sk_buf *b, int fd, struct sk_err *err);

#endif
