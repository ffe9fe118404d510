/* An answer on its way to the terminal, in any pieces. Markdown, lightly: **bold**, `code`, fenced blocks, headings and
 * bullets get ANSI attributes; all else is left as it is. A span waits until it is closed, so that what is none (2 **
 * 3) keeps its stars. Pure. */
#ifndef SK_RENDER_H
#define SK_RENDER_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/buf.h"

enum sk_render_mode {
    SK_RENDER_RAW,   /* every byte as it came: for files and pipes */
    SK_RENDER_PLAIN, /* control characters made visible (plain.h): for terminals without colours */
    SK_RENDER_STYLED /* likewise, with attributes */
};

enum {
    SK_RENDER_MAX_HEAD = 32, /* bytes at the start of a line that decide what it is */
    SK_RENDER_MAX_SPAN = 256 /* bytes of a bold or code span; a longer one is no span */
};

struct sk_render {
    enum sk_render_mode mode;
    char head[SK_RENDER_MAX_HEAD];
    char span[SK_RENDER_MAX_SPAN];
    size_t n_head, n_span;
    bool in_line;               /* the line's kind is known; its head was shown */
    char fence;                 /* '`' or '~': inside a block that n_fence of it began */
    size_t n_fence;             /* 0: outside */
    char last;                  /* byte shown last */
    unsigned line_style, style; /* of this line; as the terminal has it */
};

void sk_render_init(struct sk_render *r, enum sk_render_mode mode);
/* Appends to `out` what is to be shown for s[0..n), whole characters of UTF-8. Failure is the buffer's. */
int sk_render_text(struct sk_render *r, const char *s, size_t n, struct sk_buf *out);
/* The answer ended, maybe amid something: what waits is shown, attributes are reset, the state is as after init. */
int sk_render_end(struct sk_render *r, struct sk_buf *out);

#endif
