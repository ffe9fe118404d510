#include "clients/bench/piece.h"

#include <string.h>

enum { MAX_DEPTH = 64 };

struct cursor {
    const char *p, *end;
};

struct slice {
    const char *p;
    size_t n;
};

static int peek(struct cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
        c->p++;
    return c->p < c->end ? (unsigned char)*c->p : -1;
}

static bool take(struct cursor *c, char want)
{
    if (peek(c) != want)
        return false;
    c->p++;
    return true;
}

static bool take_string(struct cursor *c, struct slice *ret)
{
    if (!take(c, '"'))
        return false;
    const char *from = c->p;
    for (; c->p < c->end && *c->p != '"'; c->p++)
        if (*c->p == '\\' && ++c->p == c->end)
            return false;
    if (c->p == c->end)
        return false;
    *ret = (struct slice){.p = from, .n = (size_t)(c->p++ - from)};
    return true;
}

/* Any value. Brackets are counted, not matched by kind. */
static bool skip(struct cursor *c)
{
    struct slice ignored;
    int depth = 0;
    do {
        int ch = peek(c);
        if (ch == '"') {
            if (!take_string(c, &ignored))
                return false;
        } else if (ch == '{' || ch == '[') {
            c->p++;
            if (++depth > MAX_DEPTH)
                return false;
        } else if (ch == '}' || ch == ']') {
            c->p++;
            if (--depth < 0)
                return false;
        } else if ((ch == ',' || ch == ':') && depth) {
            c->p++;
        } else {
            const char *from = c->p;
            while (c->p < c->end && !strchr(",:]}[{\" \t\r\n", *c->p))
                c->p++;
            if (c->p == from)
                return false;
        }
    } while (depth);
    return true;
}

static bool is(struct slice s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

typedef bool (*take_member)(struct cursor *c, struct slice key, struct sk_piece *ret);

/* An object, member by member; a value of another kind, such as null, is passed over. */
static bool walk(struct cursor *c, take_member member, struct sk_piece *ret)
{
    if (peek(c) != '{')
        return skip(c);
    c->p++;
    if (take(c, '}'))
        return true;
    do {
        struct slice key;
        if (!take_string(c, &key) || !take(c, ':') || !member(c, key, ret))
            return false;
    } while (take(c, ','));
    return take(c, '}');
}

static bool take_text(struct cursor *c, struct sk_piece *ret)
{
    struct slice s;
    if (peek(c) != '"')
        return skip(c);
    if (!take_string(c, &s))
        return false;
    if (!ret->text || s.n) {
        ret->text = s.p;
        ret->n_text = s.n;
    }
    return true;
}

static bool message_member(struct cursor *c, struct slice key, struct sk_piece *ret)
{
    if (is(key, "content") || is(key, "reasoning") || is(key, "reasoning_content"))
        return take_text(c, ret);
    if (is(key, "tool_calls"))
        ret->has_tool = peek(c) == '[';
    return skip(c);
}

static bool choice_member(struct cursor *c, struct slice key, struct sk_piece *ret)
{
    if (is(key, "text"))
        return take_text(c, ret);
    if (is(key, "delta") || is(key, "message"))
        return walk(c, message_member, ret);
    if (is(key, "finish_reason"))
        ret->finished = peek(c) == '"';
    return skip(c);
}

static bool take_choices(struct cursor *c, struct sk_piece *ret)
{
    if (peek(c) != '[')
        return skip(c);
    c->p++;
    if (take(c, ']'))
        return true;
    if (!walk(c, choice_member, ret))
        return false;
    while (take(c, ','))
        if (!skip(c))
            return false;
    return take(c, ']');
}

static bool take_count(struct cursor *c, int64_t *ret)
{
    int64_t x = 0;
    peek(c);
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9' && x < INT32_MAX; c->p++)
        *ret = x = x * 10 + (*c->p - '0');
    return c->p < c->end && strchr(",}", *c->p) ? true : skip(c);
}

static bool usage_member(struct cursor *c, struct slice key, struct sk_piece *ret)
{
    if (is(key, "prompt_tokens"))
        return take_count(c, &ret->n_in);
    if (is(key, "completion_tokens"))
        return take_count(c, &ret->n_out);
    return skip(c);
}

static bool take_error(struct cursor *c, struct sk_piece *ret)
{
    struct slice s;
    if (!take_string(c, &s))
        return false;
    ret->error = s.p;
    ret->n_error = s.n;
    return true;
}

static bool error_member(struct cursor *c, struct slice key, struct sk_piece *ret)
{
    return is(key, "message") && peek(c) == '"' ? take_error(c, ret) : skip(c);
}

static bool top_member(struct cursor *c, struct slice key, struct sk_piece *ret)
{
    if (is(key, "choices"))
        return take_choices(c, ret);
    if (is(key, "usage"))
        return walk(c, usage_member, ret);
    if (!is(key, "error") || peek(c) == 'n')
        return skip(c);
    ret->error = "";
    return peek(c) == '"' ? take_error(c, ret) : walk(c, error_member, ret);
}

int sk_piece_read(const char *s, size_t n, struct sk_piece *ret, size_t *ret_at)
{
    struct cursor c = {.p = s, .end = s + n};
    struct sk_piece piece = {.n_in = -1, .n_out = -1};
    bool ok = peek(&c) == '{' && walk(&c, top_member, &piece) && peek(&c) < 0;
    if (!ok) {
        *ret_at = (size_t)(c.p - s);
        return -SK_EJSON;
    }
    *ret = piece;
    return 0;
}
