/* A reply of HTTP/1.1 as it comes in (RFC 9112): bytes in any pieces -> status, the few header fields that matter,
 * body. Pure. */
#ifndef SK_H1_H
#define SK_H1_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/base/err.h"

enum { SK_H1_MAX_LINE = 4096, SK_H1_MAX_HEAD = 65536 };

/*   STATUS -> FIELD -> LENGTH -> DONE      Content-Length
 *     ^         |---> CLOSE                 until the connection ends
 *     |         |---> SIZE -> DATA -> CRLF -> SIZE ... -> TRAILER -> DONE
 *     '--1xx----'---> DONE                  no body */
enum sk_h1_state {
    SK_H1_STATUS,
    SK_H1_FIELD,
    SK_H1_LENGTH,
    SK_H1_CLOSE,
    SK_H1_SIZE,
    SK_H1_DATA,
    SK_H1_CRLF,
    SK_H1_TRAILER,
    SK_H1_DONE
};

struct sk_h1 {
    enum sk_h1_state state;
    int status;
    bool keep;         /* the connection can be used again once DONE */
    bool event_stream; /* Content-Type: text/event-stream */
    bool chunked, has_length;
    uint64_t left; /* bytes of the body or chunk */
    size_t n_head, n_line;
    char line[SK_H1_MAX_LINE]; /* what came of the current line */
};

void sk_h1_init(struct sk_h1 *h);
/* Takes bytes from *p (advanced; *n becomes what is left). 1: (*ret_body)[0..*ret_n) is a piece of the body, in place;
 * call again. 0: all is taken, or the state is DONE and what is left belongs to no reply. -SK_EPROTO: not HTTP, or a
 * line or head beyond the limits. */
int sk_h1_next(struct sk_h1 *h, const char **p, size_t *n, const char **ret_body, size_t *ret_n, struct sk_err *err);
/* The head is complete: status, keep and event_stream can be read. */
bool sk_h1_has_head(const struct sk_h1 *h);
/* The connection ended. 0: the reply is complete; -SK_EPROTO: it is not. */
int sk_h1_end(struct sk_h1 *h);

#endif
