/* Server-sent events: framing only. WHATWG HTML, section 9.2. */
#ifndef SK_SSE_H
#define SK_SSE_H
#include "comm/base/buf.h"

/* Appends `data: TEXT` and the empty line; `name` (NULL = none) makes it a named event. The text holds no line feed
 * (compact JSON has none). 0, -SK_ETOOBIG or -SK_ENOMEM: adds all of it or nothing. */
int sk_sse_event(struct sk_buf *b, const char *name, const char *text, size_t n);
/* data: [DONE] */
int sk_sse_done(struct sk_buf *b);
/* A comment: clients skip it; it keeps proxies from closing a silent stream. */
int sk_sse_comment(struct sk_buf *b);

#endif
