#include "clients/client/events.h"

#include <string.h>

void sk_events_init(struct sk_events *s, size_t max_bytes)
{
    *s = (struct sk_events){.max_bytes = max_bytes};
    sk_buf_init(&s->line, max_bytes);
    sk_buf_init(&s->data, max_bytes);
}

void sk_events_done(struct sk_events *s)
{
    sk_buf_done(&s->line);
    sk_buf_done(&s->data);
}

static void forget_event(struct sk_events *s)
{
    sk_buf_clear(&s->data);
    s->name[0] = '\0';
    s->first_line = 0;
    s->has_data = false;
}

static void set_name(struct sk_events *s, const char *value, size_t n)
{
    if (n >= sizeof s->name)
        n = sizeof s->name - 1;
    memcpy(s->name, value, n);
    s->name[n] = '\0';
}

static bool is(const char *word, const char *s, size_t n)
{
    return strlen(word) == n && memcmp(word, s, n) == 0;
}

/* One line that is neither empty nor a comment. The data's buffer keeps what fails. */
static void add_field(struct sk_events *s, const char *line, size_t n)
{
    const char *colon = memchr(line, ':', n);
    size_t n_name = colon ? (size_t)(colon - line) : n;
    const char *value = colon ? colon + 1 : line + n, *end = line + n;
    if (value < end && *value == ' ')
        value++;
    if (is("data", line, n_name)) {
        if (s->has_data)
            sk_buf_char(&s->data, '\n');
        sk_buf_add(&s->data, value, (size_t)(end - value));
        s->has_data = true;
    } else if (is("event", line, n_name)) {
        set_name(s, value, (size_t)(end - value));
    } else if (!is("id", line, n_name) && !is("retry", line, n_name)) {
        if (!s->odd_line)
            s->odd_line = s->n_line;
        return;
    }
    if (!s->first_line)
        s->first_line = s->n_line;
}

/* True: the line, an empty one, ended an event. */
static bool end_line(struct sk_events *s, const char *line, size_t n)
{
    if (s->n_line++ == 0 && n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        n -= 3;
    }
    if (n == 0 && s->has_data)
        return true;
    if (n == 0)
        forget_event(s);
    else if (*line != ':')
        add_field(s, line, n);
    return false;
}

/* Bytes before the first CR or LF; n without one. */
static size_t line_length(const char *p, size_t n)
{
    const char *lf = memchr(p, '\n', n);
    if (lf)
        n = (size_t)(lf - p);
    const char *cr = memchr(p, '\r', n);
    return cr ? (size_t)(cr - p) : n;
}

static int failed(const struct sk_events *s, int rc, struct sk_err *err)
{
    if (rc == -SK_ETOOBIG)
        return sk_err_set(err, SK_ETOOBIG, NULL, "line %llu of the stream: more than %zu bytes in one event",
                          (unsigned long long)(s->line.failed ? s->n_line + 1 : s->n_line), s->max_bytes);
    return sk_err_set(err, -rc, NULL, "out of memory");
}

int sk_events_next(struct sk_events *s, const char **p, size_t *n, struct sk_event *ret, struct sk_err *err)
{
    if (s->clear) {
        forget_event(s);
        s->clear = false;
    }
    while (*n && !s->line.failed && !s->data.failed) {
        if (s->was_cr && **p == '\n') {
            s->was_cr = false;
            ++*p;
            --*n;
            continue;
        }
        s->was_cr = false;
        size_t len = line_length(*p, *n);
        bool is_ended = len < *n;
        const char *line = *p;
        if (!is_ended || s->line.n || len > s->max_bytes) { /* it comes in pieces, or fails */
            sk_buf_add(&s->line, line, len);
            line = s->line.p;
        }
        *p += len;
        *n -= len;
        if (!is_ended || s->line.failed)
            continue;
        s->was_cr = **p == '\r';
        ++*p;
        --*n;
        bool is_event = end_line(s, line, s->line.n ? s->line.n : len);
        sk_buf_clear(&s->line);
        if (is_event) {
            *ret = (struct sk_event){.name = s->name[0] ? s->name : "message",
                                         .data = s->data.p ? s->data.p : "",
                                         .n = s->data.n,
                                         .line = s->first_line};
            s->n_event++;
            s->clear = true;
            return 1;
        }
    }
    int rc = s->line.failed ? s->line.failed : s->data.failed;
    return rc ? failed(s, rc, err) : 0;
}

int sk_events_end(const struct sk_events *s, struct sk_err *err)
{
    if (s->line.n || (s->has_data && !s->clear))
        return sk_err_set(err, SK_EPROTO, NULL, "the stream broke off inside an event, at line %llu",
                          (unsigned long long)(s->n_line + 1));
    return 0;
}
