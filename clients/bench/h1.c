#include "clients/bench/h1.h"

#include <string.h>
#include <strings.h>

void sk_h1_init(struct sk_h1 *h)
{
    h->state = SK_H1_STATUS;
    h->status = 0;
    h->keep = true;
    h->event_stream = h->chunked = h->has_length = false;
    h->left = 0;
    h->n_head = h->n_line = 0;
}

bool sk_h1_has_head(const struct sk_h1 *h)
{
    return h->state > SK_H1_FIELD;
}

int sk_h1_end(struct sk_h1 *h)
{
    if (h->state == SK_H1_CLOSE)
        h->state = SK_H1_DONE;
    return h->state == SK_H1_DONE ? 0 : -SK_EPROTO;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "HTTP/1.1 200 OK"; HTTP/1.0 keeps no connection by default. */
static int take_status(struct sk_h1 *h, const char *s, struct sk_err *err)
{
    if (strncmp(s, "HTTP/1.", 7) != 0 || !is_digit(s[7]) || s[8] != ' ' || !is_digit(s[9]) || !is_digit(s[10]) ||
        !is_digit(s[11]) || (s[12] && s[12] != ' '))
        return sk_err_set(err, SK_EPROTO, NULL, "the reply is not HTTP/1.1: it begins with '%.40s'", s);
    h->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
    h->keep = s[7] != '0';
    h->state = SK_H1_FIELD;
    return 0;
}

static int take_length(struct sk_h1 *h, const char *s, struct sk_err *err)
{
    uint64_t n = 0;
    const char *at = s;
    for (; is_digit(*at); at++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*at - '0'), &n))
            break;
    if (at == s || *at || (h->has_length && h->left != n))
        return sk_err_set(err, SK_EPROTO, NULL, "Content-Length is '%.40s'", s);
    h->left = n;
    h->has_length = true;
    return 0;
}

/* The value of the field `name`, without blanks around it, if the line is one. */
static const char *value_of(char *line, const char *name)
{
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    char *s = line + n + 1, *end = s + strlen(s);
    while (end > s && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    return s + strspn(s, " \t");
}

static int take_field(struct sk_h1 *h, char *line, struct sk_err *err)
{
    const char *v;
    if (!strchr(line, ':'))
        return sk_err_set(err, SK_EPROTO, NULL, "a header line without a colon: '%.40s'", line);
    if ((v = value_of(line, "content-length")))
        return take_length(h, v, err);
    if ((v = value_of(line, "transfer-encoding"))) {
        if (strcasecmp(v, "chunked") != 0)
            return sk_err_set(err, SK_EPROTO, NULL, "Transfer-Encoding is '%.40s'", v);
        h->chunked = true;
    } else if ((v = value_of(line, "connection"))) {
        h->keep = strcasecmp(v, "close") == 0 ? false : strcasecmp(v, "keep-alive") == 0 ? true : h->keep;
    } else if ((v = value_of(line, "content-type"))) {
        h->event_stream = strncasecmp(v, "text/event-stream", 17) == 0;
    }
    return 0;
}

static void end_head(struct sk_h1 *h)
{
    if (h->status / 100 == 1) {
        sk_h1_init(h);
    } else if (h->status == 204 || h->status == 304) {
        h->state = SK_H1_DONE;
    } else if (h->chunked) {
        h->state = SK_H1_SIZE;
    } else if (h->has_length) {
        h->state = h->left ? SK_H1_LENGTH : SK_H1_DONE;
    } else {
        h->state = SK_H1_CLOSE;
        h->keep = false;
    }
}

static int take_size(struct sk_h1 *h, const char *s, struct sk_err *err)
{
    uint64_t n = 0;
    const char *at = s;
    for (; n < UINT64_C(1) << 56; at++) {
        int lower = *at | 0x20;
        if (is_digit(*at))
            n = n * 16 + (uint64_t)(*at - '0');
        else if (lower >= 'a' && lower <= 'f')
            n = n * 16 + (uint64_t)(lower - 'a') + 10;
        else
            break;
    }
    if (at == s || (*at && *at != ';' && *at != ' ' && *at != '\t'))
        return sk_err_set(err, SK_EPROTO, NULL, "a chunk's size is '%.40s'", s);
    h->left = n;
    h->state = n ? SK_H1_DATA : SK_H1_TRAILER;
    return 0;
}

static int take_line(struct sk_h1 *h, char *s, struct sk_err *err)
{
    switch (h->state) {
    case SK_H1_STATUS:
        return *s ? take_status(h, s, err) : 0; /* empty lines before it are passed over */
    case SK_H1_FIELD:
        if (*s)
            return take_field(h, s, err);
        end_head(h);
        return 0;
    case SK_H1_SIZE:
        return take_size(h, s, err);
    case SK_H1_CRLF:
        if (*s)
            return sk_err_set(err, SK_EPROTO, NULL, "a chunk is longer than its size");
        h->state = SK_H1_SIZE;
        return 0;
    default: /* a trailer */
        if (!*s)
            h->state = SK_H1_DONE;
        return 0;
    }
}

/* Adds bytes up to the end of a line, which is then taken. */
static int take_bytes(struct sk_h1 *h, const char **p, size_t *n, struct sk_err *err)
{
    const char *lf = memchr(*p, '\n', *n);
    size_t take = lf ? (size_t)(lf - *p) : *n;
    if (take >= sizeof h->line - h->n_line)
        return sk_err_set(err, SK_EPROTO, NULL, "a line of the reply's head is longer than %d bytes",
                          SK_H1_MAX_LINE - 1);
    memcpy(h->line + h->n_line, *p, take);
    h->n_line += take;
    *p += take + (lf != NULL);
    *n -= take + (lf != NULL);
    if (h->state < SK_H1_LENGTH || h->state == SK_H1_TRAILER) {
        h->n_head += take;
        if (h->n_head > SK_H1_MAX_HEAD)
            return sk_err_set(err, SK_EPROTO, NULL, "the reply's head is longer than %d bytes", SK_H1_MAX_HEAD);
    }
    if (!lf)
        return 0;
    if (h->n_line && h->line[h->n_line - 1] == '\r')
        h->n_line--;
    h->line[h->n_line] = '\0';
    h->n_line = 0;
    return take_line(h, h->line, err);
}

int sk_h1_next(struct sk_h1 *h, const char **p, size_t *n, const char **ret_body, size_t *ret_n, struct sk_err *err)
{
    while (*n && h->state != SK_H1_DONE) {
        if (h->state != SK_H1_LENGTH && h->state != SK_H1_DATA && h->state != SK_H1_CLOSE) {
            int rc = take_bytes(h, p, n, err);
            if (rc)
                return rc;
            continue;
        }
        size_t take = h->state != SK_H1_CLOSE && h->left < *n ? (size_t)h->left : *n;
        *ret_body = *p;
        *ret_n = take;
        *p += take;
        *n -= take;
        if (h->state != SK_H1_CLOSE && (h->left -= take) == 0)
            h->state = h->state == SK_H1_DATA ? SK_H1_CRLF : SK_H1_DONE;
        return 1;
    }
    return 0;
}
