/* One answer as it comes in: head and body of an HTTP response -> text. Pure.
 *
 *   HEAD --200, event stream--> STREAM --finish_reason--> FINISHED --[DONE], end--> DONE
 *   HEAD --200, JSON--> WHOLE --end--> DONE      (a server that does not stream)
 *   HEAD --other status--> REFUSED
 *   HEAD, STREAM, FINISHED, WHOLE --what is no answer--> BROKEN
 *
 * The text that came before a stream broke is kept. */
#ifndef SK_REPLY_H
#define SK_REPLY_H
#include <stddef.h>
#include <stdint.h>
#include "clients/client/events.h"
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum {
    SK_REPLY_MAX_TEXT = 8 << 20,  /* bytes of an answer */
    SK_REPLY_MAX_EVENT = 1 << 20, /* of one event of the stream, or one line */
    SK_REPLY_MAX_BODY = 16 << 20, /* of a body that is no stream */
    SK_REPLY_MAX_FINISH = 32
};

enum sk_reply_state {
    SK_REPLY_HEAD,
    SK_REPLY_STREAM,
    SK_REPLY_FINISHED,
    SK_REPLY_WHOLE,
    SK_REPLY_REFUSED,
    SK_REPLY_DONE,
    SK_REPLY_BROKEN
};

struct sk_reply {
    enum sk_reply_state state;
    long status;                      /* HTTP */
    struct sk_buf text;               /* so far; UTF-8 */
    char finish[SK_REPLY_MAX_FINISH]; /* "stop", "length", ...; "": none came */
    uint64_t n_piece;                 /* of text */
    int64_t n_tok;                    /* of the answer, as the server counts; -1: it did not say */
    struct sk_buf body;               /* of WHOLE and REFUSED, the latter cut */
    struct sk_events sse;
    struct sk_err err; /* of BROKEN */
};

void sk_reply_init(struct sk_reply *r);
void sk_reply_done(struct sk_reply *r);
/* `type`: the Content-Type, or NULL. */
int sk_reply_head(struct sk_reply *r, long status, const char *type, struct sk_err *err);
/* More of the body; r->text has grown by what was in it. After a failure (-SK_EPROTO, -SK_EJSON, -SK_EUTF8,
 * -SK_ETOOBIG, -SK_ENOMEM: BROKEN) every call fails alike. */
int sk_reply_bytes(struct sk_reply *r, const char *p, size_t n, struct sk_err *err);
int sk_reply_end(struct sk_reply *r, struct sk_err *err); /* the body is over */

#endif
