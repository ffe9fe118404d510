/* How the answers of a request go out: piece by piece as events, or as one body. */
#ifndef SK_SHOW_H
#define SK_SHOW_H
#include <stdint.h>
#include "comm/base/buf.h"

struct sk_gen;

/* A stream's next event for answer `i`, where it has something to show. */
void sk_show_piece(struct sk_gen *g, uint32_t i);
/* The usage, where it was asked for, and the end. Not 0: the client has not read, and will be cut off. */
int sk_show_end(struct sk_gen *g);
/* An error event, and the end. */
void sk_show_error(struct sk_gen *g, const struct sk_err *err);
/* Everything in one body, into b. 0, -SK_ETOOBIG, -SK_ENOMEM. */
int sk_show_whole(struct sk_gen *g, struct sk_buf *b);

#endif
