#include "clients/bench/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/json.h"

enum { MAX_TOLD_BYTES = 8192, MAX_TOKENS = 1 << 20, BYTES_PER_TOKEN = 4 };

static void tell(struct sk_trace *t, const char *path, size_t number, const char *what)
{
    if (t->n_bad++ < SK_TRACE_MAX_TOLD)
        sk_buf_fmt(&t->bad, "%s:%zu: %s\n", path, number, what);
}

static int add_item(struct sk_trace *t, struct sk_trace_item item, struct sk_err *err)
{
    if (t->n == SK_TRACE_MAX_ITEMS)
        return sk_err_set(err, SK_ETOOBIG, NULL, "a trace has at most %d requests", SK_TRACE_MAX_ITEMS);
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct sk_trace_item *items = sk_realloc(t->items, cap * sizeof *items);
        if (!items)
            return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        t->items = items;
        t->cap = cap;
    }
    t->n_timed += item.at_ms >= 0;
    t->n_messages += item.turns[0].messages != NULL;
    t->items[t->n++] = item;
    return 0;
}

static const char *keep(struct sk_trace *t, const char *s, struct sk_err *err)
{
    const char *p = sk_arena_strndup(&t->arena, s, strlen(s));
    if (!p)
        sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    return p;
}

/* The first of the keys that is there; each dataset has its own word. */
static int get_length(const struct cJSON *v, const char *const keys[3], int64_t *ret, struct sk_err *err)
{
    for (int i = 0; i < 3 && *ret == 0; i++) {
        int rc = sk_json_get_int(v, keys[i], 1, MAX_TOKENS, ret, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- a JSON line ---- */

static int read_messages(struct sk_trace *t, const struct cJSON *v, struct sk_trace_turn *turn, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, SK_TRACE_MAX_LINE);
    int rc = 0;
    if (sk_json_type(v) != SK_JSON_ARRAY || sk_json_len(v) == 0)
        rc = sk_err_set(err, SK_ETYPE, "messages", "messages must be an array with messages in it");
    else if (sk_json_print(&b, v) || !(turn->messages = sk_arena_strndup(&t->arena, b.p, b.n)))
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_buf_done(&b);
    return rc;
}

static int read_line(struct sk_trace *t, const struct cJSON *v, struct sk_trace_item *ret, struct sk_err *err)
{
    static const char *const in[3] = {"input_length", "input_tokens", "prompt_len"};
    static const char *const out[3] = {"output_length", "output_tokens", "max_tokens"};
    struct sk_trace_turn turn = {0};
    const char *prompt = NULL;
    double at_ms = -1;
    if (sk_json_type(v) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_ETYPE, NULL, "a line must be an object, not %s", sk_json_typename(v));
    int rc = get_length(v, in, &turn.n_in, err);
    rc = rc ? rc : get_length(v, out, &turn.n_out, err);
    rc = rc ? rc : sk_json_get_num(v, "timestamp", 0, 1e15, &at_ms, err);
    rc = rc ? rc : sk_json_get_str(v, "prompt", &prompt, err);
    if (rc)
        return rc;
    const struct cJSON *messages = sk_json_get(v, "messages");
    if (prompt)
        rc = (turn.text = keep(t, prompt, err)) ? 0 : -SK_ENOMEM;
    else if (messages)
        rc = read_messages(t, messages, &turn, err);
    else if (!turn.n_in)
        rc = sk_err_set(err, SK_EMISSING, "prompt", "neither prompt nor messages nor input_length");
    if (rc)
        return rc;
    struct sk_trace_turn *turns = sk_arena_alloc(&t->arena, sizeof *turns);
    if (!turns)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    *turns = turn;
    *ret = (struct sk_trace_item){.turns = turns, .n_turn = 1, .at_ms = at_ms};
    return 0;
}

/* ---- a conversation of ShareGPT ---- */

static bool says(const struct cJSON *turn, const char *a, const char *b)
{
    const char *from = sk_json_str(sk_json_get(turn, "from"));
    return from && (strcmp(from, a) == 0 || strcmp(from, b) == 0);
}

static int read_talk(struct sk_trace *t, const struct cJSON *v, struct sk_trace_item *ret, struct sk_err *err)
{
    const struct cJSON *said = sk_json_get(v, "conversations");
    size_t n = sk_json_len(said);
    if (sk_json_type(v) != SK_JSON_OBJECT || sk_json_type(said) != SK_JSON_ARRAY)
        return sk_err_set(err, SK_ETYPE, "conversations", "an object with an array `conversations` is expected");
    if (n > SK_TRACE_MAX_TURNS)
        return sk_err_set(err, SK_ERANGE, "conversations", "%zu turns; at most %d are read", n, SK_TRACE_MAX_TURNS);
    struct sk_trace_turn *turns = sk_arena_alloc(&t->arena, (n ? n : 1) * sizeof *turns);
    if (!turns)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    int n_turn = 0;
    for (const struct cJSON *s = sk_json_first(said); s; s = sk_json_next(s)) {
        const char *value = sk_json_str(sk_json_get(s, "value"));
        if (!value)
            return sk_err_set(err, SK_ETYPE, "value", "a turn without a string `value`");
        if (says(s, "human", "user")) {
            if (!(turns[n_turn++].text = keep(t, value, err)))
                return -SK_ENOMEM;
        } else if (says(s, "gpt", "assistant") && n_turn) {
            turns[n_turn - 1].n_out = (int64_t)(strlen(value) / BYTES_PER_TOKEN + 1);
        }
    }
    if (n_turn == 0)
        return sk_err_set(err, SK_EMISSING, "conversations", "nobody asks anything");
    *ret = (struct sk_trace_item){.turns = turns, .n_turn = n_turn, .at_ms = -1};
    return 0;
}

/* ---- files ---- */

/* Its blanks at the beginning: n if it is nothing else. */
static size_t n_blank(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n'))
        i++;
    return i;
}

static int take(struct sk_trace *t, const char *path, size_t number, const struct cJSON *v, struct sk_err *err)
{
    struct sk_trace_item item = {0};
    struct sk_err why = {0};
    int rc = sk_json_get(v, "conversations") ? read_talk(t, v, &item, &why) : read_line(t, v, &item, &why);
    if (rc == -SK_ENOMEM)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s", why.msg);
    if (rc) {
        tell(t, path, number, why.msg);
        return 0;
    }
    item.number = number;
    return add_item(t, item, err);
}

static int take_array(struct sk_trace *t, const char *path, const char *s, size_t n, struct sk_err *err)
{
    struct cJSON *v;
    struct sk_err why = {0};
    size_t number = 0;
    int rc = sk_json_parse(s, n, SK_TRACE_MAX_BYTES, &v, &why);
    if (rc)
        return sk_err_set(err, -rc, NULL, "%s: %s", path, why.msg);
    for (const struct cJSON *e = sk_json_first(v); e && rc == 0; e = sk_json_next(e))
        rc = take(t, path, ++number, e, err);
    sk_json_free(v);
    return rc;
}

static int take_lines(struct sk_trace *t, const char *path, const char *s, size_t n, struct sk_err *err)
{
    size_t number = 0;
    int rc = 0;
    for (const char *end = s + n; s < end && rc == 0;) {
        const char *lf = memchr(s, '\n', (size_t)(end - s));
        size_t n_line = (size_t)((lf ? lf : end) - s);
        struct cJSON *v;
        struct sk_err why = {0};
        number++;
        if (n_blank(s, n_line) < n_line) {
            int bad = sk_json_parse(s, n_line, SK_TRACE_MAX_LINE, &v, &why);
            if (bad == -SK_ENOMEM)
                rc = sk_err_set(err, SK_ENOMEM, NULL, "%s", why.msg);
            else if (bad)
                tell(t, path, number, why.msg);
            else
                rc = take(t, path, number, v, err);
            if (!bad)
                sk_json_free(v);
        }
        s += n_line + (lf != NULL);
    }
    return rc;
}

static int by_time(const void *a, const void *b)
{
    const struct sk_trace_item *x = a, *y = b;
    if (x->at_ms != y->at_ms)
        return x->at_ms < y->at_ms ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static void order(struct sk_trace *t)
{
    if (t->n_timed < t->n)
        return;
    qsort(t->items, t->n, sizeof *t->items, by_time);
    double first = t->items[0].at_ms;
    for (size_t i = 0; i < t->n; i++)
        t->items[i].at_ms -= first;
}

int sk_trace_text(struct sk_trace *t, const char *path, const char *s, size_t n, struct sk_err *err)
{
    *t = (struct sk_trace){0};
    sk_buf_init(&t->bad, MAX_TOLD_BYTES);
    sk_arena_init(&t->arena, 2 * (size_t)SK_TRACE_MAX_BYTES);
    size_t first = n_blank(s, n);
    int rc = first < n && s[first] == '[' ? take_array(t, path, s, n, err) : take_lines(t, path, s, n, err);
    if (rc)
        return rc;
    if (t->n == 0)
        return sk_err_set(err, SK_EFORMAT, NULL, "%s has nothing to send%s%s", path, t->n_bad ? ": " : "",
                          t->n_bad ? t->bad.p : "");
    order(t);
    return 0;
}

int sk_trace_read(struct sk_trace *t, const char *path, struct sk_err *err)
{
    struct sk_buf b;
    *t = (struct sk_trace){0};
    sk_buf_init(&b, SK_TRACE_MAX_BYTES);
    int rc = sk_buf_file(&b, path, err);
    if (rc == 0)
        rc = sk_trace_text(t, path, b.p ? b.p : "", b.n, err);
    sk_buf_done(&b);
    return rc;
}

void sk_trace_done(struct sk_trace *t)
{
    sk_free(t->items);
    sk_buf_done(&t->bad);
    sk_arena_done(&t->arena);
    *t = (struct sk_trace){0};
}
