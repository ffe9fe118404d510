#include "clients/skein/render.h"

#include <ctype.h>
#include <string.h>

#include "clients/client/plain.h"

enum { BOLD = 1, DIM = 2, CODE = 4 }; /* styles, as bits */

enum { MAX_INDENT = 12, MAX_HEADING = 6, MIN_FENCE = 3 };

void sk_render_init(struct sk_render *r, enum sk_render_mode mode)
{
    *r = (struct sk_render){.mode = mode};
}

static void set_style(struct sk_render *r, unsigned style, struct sk_buf *out)
{
    if (style == r->style)
        return;
    sk_buf_fmt(out, "\x1b[0%s%s%sm", style & BOLD ? ";1" : "", style & DIM ? ";2" : "", style & CODE ? ";36" : "");
    r->style = style;
}

static void show(struct sk_render *r, const char *s, size_t n, struct sk_buf *out)
{
    if (n == 0)
        return;
    sk_buf_add(out, s, n);
    r->last = s[n - 1];
}

static size_t run_of(char c, const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && s[i] == c)
        i++;
    return i;
}

/* ---- spans ---- */

enum verdict { OPEN, CLOSED, NONE };

/* What s[0..n), which begins with '*' or '`', is; the marker's length goes to *ret_m. `before` is the byte before it: a
 * word's end there makes stars a power, not an emphasis. */
static enum verdict judge_span(const char *s, size_t n, char before, size_t *ret_m)
{
    const bool is_bold = *s == '*';
    const size_t m = run_of(*s, s, n);
    *ret_m = m;
    if (m > 2 || (is_bold && isalnum((unsigned char)before)))
        return NONE;
    if (m == n)
        return OPEN;
    if (is_bold && (m != 2 || s[m] == ' '))
        return NONE;
    if (n > 2 * m && run_of(*s, s + n - m, m) == m && !(is_bold && s[n - m - 1] == ' '))
        return CLOSED;
    return n == SK_RENDER_MAX_SPAN ? NONE : OPEN;
}

static void put_inline(struct sk_render *r, const char *s, size_t n, struct sk_buf *out);

/* The span is none: its first byte is text, and another may begin in the rest. */
static void give_up_span(struct sk_render *r, struct sk_buf *out)
{
    char rest[SK_RENDER_MAX_SPAN];
    const size_t n = r->n_span - 1;
    memcpy(rest, r->span + 1, n);
    r->n_span = 0;
    show(r, r->span, 1, out);
    put_inline(r, rest, n, out);
}

static void put_inline(struct sk_render *r, const char *s, size_t n, struct sk_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        size_t m;
        if (r->n_span == 0 && s[i] != '*' && s[i] != '`') {
            show(r, s + i, 1, out);
            continue;
        }
        r->span[r->n_span++] = s[i];
        switch (judge_span(r->span, r->n_span, r->last, &m)) {
        case OPEN:
            break;
        case NONE:
            give_up_span(r, out);
            break;
        case CLOSED:
            set_style(r, r->line_style | (*r->span == '*' ? BOLD : CODE), out);
            show(r, r->span + m, r->n_span - 2 * m, out);
            set_style(r, r->line_style, out);
            r->n_span = 0;
            break;
        }
    }
}

/* ---- lines ---- */

static void settle_span(struct sk_render *r, struct sk_buf *out)
{
    while (r->n_span)
        give_up_span(r, out);
}

static void put_text(struct sk_render *r, const char *s, size_t n, struct sk_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            settle_span(r, out);
            set_style(r, 0, out);
            show(r, "\n", 1, out);
            r->in_line = false;
        } else if (r->line_style & (CODE | DIM)) {
            show(r, s + i, 1, out);
        } else {
            put_inline(r, s + i, 1, out);
        }
    }
}

enum line { UNKNOWN, TEXT, HEADING, BULLET, FENCE };

/* The kind of the line of which s[0..n) is there: a marker of *ret_m bytes after *ret_indent blanks. */
static enum line judge_line(const char *s, size_t n, size_t *ret_indent, size_t *ret_m)
{
    const size_t indent = run_of(' ', s, n);
    *ret_indent = indent;
    *ret_m = 0;
    if (indent > MAX_INDENT)
        return TEXT;
    if (indent == n)
        return UNKNOWN;
    const char c = s[indent];
    const size_t m = run_of(c, s + indent, n - indent);
    *ret_m = m;
    if (!strchr("#-*+`~", c))
        return TEXT;
    if (indent + m == n && n < SK_RENDER_MAX_HEAD)
        return UNKNOWN;
    if (strchr("`~", c))
        return m >= MIN_FENCE ? FENCE : TEXT;
    if (indent + m == n || s[indent + m] != ' ')
        return TEXT;
    if (c == '#')
        return m <= MAX_HEADING ? HEADING : TEXT;
    return m == 1 ? BULLET : TEXT;
}

/* Its kind is known: shows the head in its style. */
static void begin_line(struct sk_render *r, enum line kind, size_t indent, size_t m, struct sk_buf *out)
{
    const size_t n = r->n_head;
    const char c = r->head[indent < n ? indent : 0];
    r->n_head = 0;
    r->in_line = true;
    r->line_style = r->n_fence ? CODE : kind == HEADING ? BOLD : 0;
    if (kind == FENCE && r->n_fence == 0) {
        r->line_style = DIM;
        r->fence = c;
        r->n_fence = m;
    } else if (kind == FENCE && c == r->fence && m >= r->n_fence) {
        r->line_style = DIM;
        r->n_fence = 0;
    }
    set_style(r, r->line_style, out);
    if (kind == HEADING && r->line_style == BOLD) {
        put_text(r, r->head, indent, out);
    } else if (kind == BULLET && !r->line_style) {
        put_text(r, r->head, indent, out);
        show(r, "\xE2\x80\xA2 ", 4, out);
    } else {
        put_text(r, r->head, n, out);
    }
}

static void put_byte(struct sk_render *r, char c, struct sk_buf *out)
{
    if (r->in_line) {
        put_text(r, &c, 1, out);
        return;
    }
    size_t indent, m;
    r->head[r->n_head++] = c;
    const enum line kind = judge_line(r->head, r->n_head, &indent, &m);
    if (kind != UNKNOWN)
        begin_line(r, kind, indent, m, out);
}

int sk_render_text(struct sk_render *r, const char *s, size_t n, struct sk_buf *out)
{
    if (r->mode == SK_RENDER_RAW)
        return sk_buf_add(out, s, n);
    if (r->mode == SK_RENDER_PLAIN)
        return sk_plain_put(out, s, n);
    struct sk_buf plain;
    sk_buf_init(&plain, out->max);
    int rc = sk_plain_put(&plain, s, n);
    for (size_t i = 0; i < plain.n; i++)
        put_byte(r, plain.p[i], out);
    sk_buf_done(&plain);
    return rc ? rc : out->failed;
}

int sk_render_end(struct sk_render *r, struct sk_buf *out)
{
    if (r->n_head)
        begin_line(r, TEXT, 0, 0, out);
    settle_span(r, out);
    set_style(r, 0, out);
    sk_render_init(r, r->mode);
    return out->failed;
}
