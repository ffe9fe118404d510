#include "server/http/sse.h"

#include <string.h>

int sk_sse_event(struct sk_buf *b, const char *name, const char *text, size_t n)
{
    size_t start = b->n;
    sk_assert(!memchr(text, '\n', n));
    if (name)
        sk_buf_fmt(b, "event: %s\n", name);
    sk_buf_str(b, "data: ");
    sk_buf_add(b, text, n);
    sk_buf_str(b, "\n\n");
    if (b->failed) { /* half an event would spoil the one after it */
        b->n = start;
        return b->failed;
    }
    return 0;
}

int sk_sse_done(struct sk_buf *b)
{
    return sk_buf_str(b, "data: [DONE]\n\n");
}

int sk_sse_comment(struct sk_buf *b)
{
    return sk_buf_str(b, ": keep-alive\n\n");
}
