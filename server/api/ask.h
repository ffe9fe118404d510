/* An answer for which each engine is asked what it holds. */
#ifndef SK_ASK_H
#define SK_ASK_H
#include "comm/base/buf.h"
#include "comm/wire/wire.h"
#include "server/job/job.h"

struct sk_call;

/* What is said of one engine, a JSON object; `v` NULL = it does not answer. */
typedef void sk_ask_put(struct sk_buf *b, const struct sk_engine *e, const struct sk_wire_view *v);

/* Answers the request with the text in `b`, which must have come up to "[", one object of each engine, and "]}". One
 * engine is asked after the other. Takes over what `b` holds. */
void sk_ask_engines(const struct sk_call *c, struct sk_buf *b, sk_ask_put *put);

#endif
