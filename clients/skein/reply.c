#include "clients/skein/reply.h"

#include <string.h>
#include <strings.h>

#include "clients/client/plain.h"
#include "clients/client/target.h"
#include "comm/base/json.h"

enum { MAX_WORDS = 300, MAX_REFUSAL = 65536 };

void sk_reply_init(struct sk_reply *r)
{
    *r = (struct sk_reply){.n_tok = -1};
    sk_buf_init(&r->text, SK_REPLY_MAX_TEXT);
    sk_buf_init(&r->body, SK_REPLY_MAX_BODY);
    sk_events_init(&r->sse, SK_REPLY_MAX_EVENT);
}

void sk_reply_done(struct sk_reply *r)
{
    sk_buf_done(&r->text);
    sk_buf_done(&r->body);
    sk_events_done(&r->sse);
}

static void to(struct sk_reply *r, enum sk_reply_state state)
{
    static const unsigned from[] = {
        [SK_REPLY_HEAD] = 0,
        [SK_REPLY_STREAM] = 1 << SK_REPLY_HEAD,
        [SK_REPLY_FINISHED] = 1 << SK_REPLY_STREAM | 1 << SK_REPLY_FINISHED,
        [SK_REPLY_WHOLE] = 1 << SK_REPLY_HEAD,
        [SK_REPLY_REFUSED] = 1 << SK_REPLY_HEAD,
        [SK_REPLY_DONE] = 1 << SK_REPLY_STREAM | 1 << SK_REPLY_FINISHED | 1 << SK_REPLY_WHOLE,
        [SK_REPLY_BROKEN] = 1 << SK_REPLY_HEAD | 1 << SK_REPLY_STREAM | 1 << SK_REPLY_FINISHED | 1 << SK_REPLY_WHOLE,
    };
    sk_assert(from[state] >> r->state & 1);
    r->state = state;
}

/* r->err is set. */
static int broken(struct sk_reply *r, struct sk_err *err)
{
    if (r->state != SK_REPLY_BROKEN)
        to(r, SK_REPLY_BROKEN);
    if (err)
        *err = r->err;
    return -r->err.code;
}

int sk_reply_head(struct sk_reply *r, long status, const char *type, struct sk_err *err)
{
    char shown[MAX_WORDS];
    r->status = status;
    if (status != 200) {
        to(r, SK_REPLY_REFUSED);
    } else if (type && strncasecmp(type, "application/json", 16) == 0) {
        to(r, SK_REPLY_WHOLE);
    } else if (type && strncasecmp(type, "text/html", 9) == 0) {
        sk_plain_line(shown, sizeof shown, type, strlen(type));
        sk_err_set(&r->err, SK_EPROTO, NULL, "the server sent a web page (%s), no answer: is the URL right?", shown);
        return broken(r, err);
    } else {
        to(r, SK_REPLY_STREAM);
    }
    return 0;
}

/* ---- what an event says ---- */

static int add_text(struct sk_reply *r, const char *s)
{
    if (!s || !*s)
        return 0;
    r->n_piece++;
    int rc = sk_buf_str(&r->text, s);
    if (rc == -SK_ETOOBIG)
        return sk_err_set(&r->err, SK_ETOOBIG, NULL, "the answer has more than %d bytes", SK_REPLY_MAX_TEXT);
    return rc ? sk_err_set(&r->err, SK_ENOMEM, NULL, "out of memory") : 0;
}

/* The first choice's delta of a stream, or message of a whole answer. */
static int take_choice(struct sk_reply *r, const struct cJSON *choice)
{
    const struct cJSON *part = sk_json_get(choice, "delta");
    const char *finish = sk_json_str(sk_json_get(choice, "finish_reason"));
    int rc = add_text(r, sk_json_str(sk_json_get(part ? part : sk_json_get(choice, "message"), "content")));
    if (!rc && finish) {
        sk_plain_line(r->finish, sizeof r->finish, finish, strlen(finish));
        if (r->state == SK_REPLY_STREAM)
            to(r, SK_REPLY_FINISHED);
    }
    return rc;
}

static int take_object(struct sk_reply *r, const char *s, size_t n, const struct cJSON *v)
{
    char words[MAX_WORDS];
    const struct cJSON *error = sk_json_get(v, "error");
    if (error && sk_json_type(error) != SK_JSON_NULL) {
        sk_target_words(words, sizeof words, s, n);
        return sk_err_set(&r->err, SK_EPROTO, NULL, "the server gave up: %s", words);
    }
    if (sk_json_type(v) != SK_JSON_OBJECT)
        return sk_err_set(&r->err, SK_EPROTO, NULL, "an object was expected, not %s", sk_json_typename(v));
    const struct cJSON *choice = sk_json_first(sk_json_get(v, "choices"));
    const struct cJSON *usage = sk_json_get(v, "usage");
    int64_t n_tok;
    if (sk_json_is_int(sk_json_get(usage, "completion_tokens"), &n_tok) && n_tok >= 0)
        r->n_tok = n_tok;
    return choice ? take_choice(r, choice) : 0;
}

static int take_json(struct sk_reply *r, const char *s, size_t n)
{
    struct cJSON *v = NULL;
    int rc = sk_json_parse(s, n, n, &v, &r->err);
    if (!rc)
        rc = take_object(r, s, n, v);
    sk_json_free(v);
    return rc;
}

static int take_event(struct sk_reply *r, const struct sk_event *e)
{
    if (strcmp(e->data, "[DONE]") == 0) {
        to(r, SK_REPLY_DONE);
        return 0;
    }
    int rc = take_json(r, e->data, e->n);
    if (rc == -SK_EJSON || rc == -SK_EUTF8 || rc == -SK_ETOOBIG) {
        struct sk_err why = r->err;
        sk_err_set(&r->err, why.code, NULL, "line %llu of the stream: %s", (unsigned long long)e->line, why.msg);
    }
    return rc;
}

/* ---- the body ---- */

static int take_stream(struct sk_reply *r, const char *p, size_t n)
{
    struct sk_event e;
    int rc = 0;
    while (!rc && r->state != SK_REPLY_DONE) {
        int got = sk_events_next(&r->sse, &p, &n, &e, &r->err);
        if (got <= 0)
            return got;
        rc = take_event(r, &e);
    }
    return rc;
}

static int take_body(struct sk_reply *r, const char *p, size_t n)
{
    int rc = sk_buf_add(&r->body, p, n);
    return rc ? sk_err_set(&r->err, -rc, NULL, "the answer's body has more than %d bytes", SK_REPLY_MAX_BODY) : 0;
}

int sk_reply_bytes(struct sk_reply *r, const char *p, size_t n, struct sk_err *err)
{
    int rc = 0;
    switch (r->state) {
    case SK_REPLY_STREAM:
    case SK_REPLY_FINISHED:
        rc = take_stream(r, p, n);
        break;
    case SK_REPLY_WHOLE:
        rc = take_body(r, p, n);
        break;
    case SK_REPLY_REFUSED:
        if (r->body.n < MAX_REFUSAL)
            sk_buf_add(&r->body, p, n < MAX_REFUSAL ? n : MAX_REFUSAL);
        break;
    case SK_REPLY_BROKEN:
        return broken(r, err);
    default:
        break;
    }
    return rc ? broken(r, err) : 0;
}

static int end_stream(struct sk_reply *r)
{
    const struct sk_events *s = &r->sse;
    if (sk_events_end(s, &r->err))
        return -r->err.code;
    if (s->odd_line)
        return sk_err_set(&r->err, SK_EPROTO, NULL,
                          "the stream ended before the answer did; its line %llu is not of an event",
                          (unsigned long long)s->odd_line);
    return sk_err_set(&r->err, SK_EPROTO, NULL, "the stream ended before the answer did, after %llu events",
                      (unsigned long long)s->n_event);
}

int sk_reply_end(struct sk_reply *r, struct sk_err *err)
{
    int rc = 0;
    switch (r->state) {
    case SK_REPLY_STREAM:
        rc = end_stream(r);
        break;
    case SK_REPLY_WHOLE:
        rc = take_json(r, r->body.p ? r->body.p : "", r->body.n);
        if (!rc && !r->finish[0] && !r->n_piece)
            rc = sk_err_set(&r->err, SK_EPROTO, NULL, "the server's JSON has no answer in it");
        if (!rc)
            to(r, SK_REPLY_DONE);
        break;
    case SK_REPLY_FINISHED:
        to(r, SK_REPLY_DONE);
        break;
    case SK_REPLY_HEAD:
        rc = sk_err_set(&r->err, SK_EPROTO, NULL, "the server closed without an answer");
        break;
    case SK_REPLY_BROKEN:
        return broken(r, err);
    default:
        break;
    }
    return rc ? broken(r, err) : 0;
}
