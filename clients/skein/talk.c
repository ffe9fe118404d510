#include "clients/skein/talk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/conf_row.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/base/utf8.h"

enum { MAX_PATH = 1024, FIRST_CAP = 16 };

void sk_talk_init(struct sk_talk *t)
{
    *t = (struct sk_talk){0};
}

static void drop_last(struct sk_talk *t)
{
    struct sk_talk_message *m = &t->messages[--t->n_message];
    t->n_bytes -= m->n;
    sk_free(m->text);
}

void sk_talk_reset(struct sk_talk *t)
{
    while (t->n_message)
        drop_last(t);
}

void sk_talk_done(struct sk_talk *t)
{
    sk_talk_reset(t);
    sk_free(t->messages);
    sk_free(t->system.text);
    sk_talk_init(t);
}

/* ---- messages ---- */

/* A copy of a text that comes into the place of one of `n_old` bytes. */
static int copy_text(const struct sk_talk *t, const char *s, size_t n, size_t n_old, char **ret, struct sk_err *err)
{
    if (!sk_utf8_valid(s, n) || memchr(s, '\0', n))
        return sk_err_set(err, SK_EUTF8, NULL, "the text is not UTF-8");
    if (n > SK_TALK_MAX_BYTES - (t->n_bytes - n_old))
        return sk_err_set(err, SK_ETOOBIG, NULL, "the conversation has more than %d bytes; /reset begins anew",
                          SK_TALK_MAX_BYTES);
    *ret = sk_strndup(s, n);
    return *ret ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
}

static int add(struct sk_talk *t, const struct sk_talk_message *m, struct sk_err *err)
{
    if (t->n_message == SK_TALK_MAX_MESSAGES)
        return sk_err_set(err, SK_ETOOBIG, NULL, "the conversation has %d messages; /reset begins anew",
                          SK_TALK_MAX_MESSAGES);
    if (t->n_message == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : FIRST_CAP;
        struct sk_talk_message *more = sk_realloc(t->messages, cap * sizeof *more);
        if (!more)
            return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        t->messages = more;
        t->cap = cap;
    }
    t->messages[t->n_message++] = *m;
    t->n_bytes += m->n;
    return 0;
}

int sk_talk_question(struct sk_talk *t, const char *s, size_t n, struct sk_err *err)
{
    struct sk_talk_message m = {.n = n};
    struct sk_talk_message *last = t->n_message ? &t->messages[t->n_message - 1] : NULL;
    const bool is_instead = last && !last->is_answer;
    int rc = copy_text(t, s, n, is_instead ? last->n : 0, &m.text, err);
    if (rc)
        return rc;
    if (is_instead)
        drop_last(t);
    rc = add(t, &m, err);
    if (rc)
        sk_free(m.text);
    return rc;
}

int sk_talk_answer(struct sk_talk *t, const char *s, size_t n, bool is_partial, struct sk_err *err)
{
    struct sk_talk_message m = {.n = n, .is_answer = true, .is_partial = is_partial};
    int rc = copy_text(t, s, n, 0, &m.text, err);
    if (!rc && (rc = add(t, &m, err)))
        sk_free(m.text);
    return rc;
}

int sk_talk_system(struct sk_talk *t, const char *s, size_t n, struct sk_err *err)
{
    char *text = NULL;
    int rc = n ? copy_text(t, s, n, t->system.n, &text, err) : 0;
    if (rc)
        return rc;
    sk_free(t->system.text);
    t->n_bytes += n - t->system.n;
    t->system = (struct sk_talk_message){.text = text, .n = n};
    return 0;
}

bool sk_talk_again(struct sk_talk *t)
{
    if (t->n_message && t->messages[t->n_message - 1].is_answer)
        drop_last(t);
    return t->n_message > 0 && !t->messages[t->n_message - 1].is_answer;
}

/* ---- as JSON ---- */

static void put_message(struct sk_buf *b, const char *role, const struct sk_talk_message *m, bool with_mark)
{
    sk_buf_fmt(b, "%s{\"role\":\"%s\",\"content\":", b->p[b->n - 1] == '[' ? "" : ",", role);
    sk_json_quote(b, m->text, m->n);
    sk_buf_str(b, m->is_partial && with_mark ? ",\"partial\":true}" : "}");
}

static void put_messages(struct sk_buf *b, const struct sk_talk *t, bool with_marks)
{
    if (sk_buf_str(b, "\"messages\":["))
        return;
    if (t->system.text)
        put_message(b, "system", &t->system, with_marks);
    for (size_t i = 0; i < t->n_message && !b->failed; i++)
        put_message(b, t->messages[i].is_answer ? "assistant" : "user", &t->messages[i], with_marks);
    sk_buf_char(b, ']');
}

/* An option's name is the field's, but for the hyphens. */
static void put_field(struct sk_buf *b, const struct sk_conf_row *r, const struct sk_conf *c)
{
    sk_buf_str(b, ",\"");
    for (const char *s = r->name; *s; s++)
        sk_buf_char(b, *s == '-' ? '_' : *s);
    sk_buf_str(b, "\":");
    if (r->kind == SK_CONF_STR) {
        const char *s = sk_conf_row_field(r, c);
        sk_json_quote(b, s, strlen(s));
    } else {
        sk_conf_row_put_value(b, r, c);
    }
}

int sk_talk_request(const struct sk_talk *t, const char *model, const struct sk_conf *c, struct sk_buf *b)
{
    sk_buf_str(b, "{\"model\":");
    sk_json_quote(b, model, strlen(model));
    sk_buf_char(b, ',');
    put_messages(b, t, false);
    sk_buf_str(b, ",\"stream\":true");
    if (c->chat_stats) /* only then: some servers refuse the field */
        sk_buf_str(b, ",\"stream_options\":{\"include_usage\":true}");
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if ((r->prog & SK_OPT_FIELD) && sk_conf_row_is_given(r, c))
            put_field(b, r, c);
    return sk_buf_char(b, '}');
}

/* ---- its file ---- */

static int write_file(int fd, const char *tmp, const char *path, const struct sk_buf *b, struct sk_err *err)
{
    FILE *f = fdopen(fd, "w");
    if (!f) {
        close(fd);
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    const size_t n = fwrite(b->p, 1, b->n, f);
    if (fclose(f) != 0 || n != b->n)
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
    if (rename(tmp, path) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
    return 0;
}

int sk_talk_save(const struct sk_talk *t, const char *path, struct sk_err *err)
{
    char tmp[MAX_PATH];
    struct sk_buf b;
    sk_buf_init(&b, 8 * (size_t)SK_TALK_MAX_BYTES);
    sk_buf_char(&b, '{');
    put_messages(&b, t, true);
    int rc = sk_buf_str(&b, "}\n");
    if (rc) {
        sk_err_set(err, -rc, NULL, "%s: %s", path, sk_err_text(rc));
        goto out;
    }
    if (snprintf(tmp, sizeof tmp, "%s.XXXXXX", path) >= (int)sizeof tmp) {
        rc = sk_err_set(err, SK_EINVAL, NULL, "the file's name has more than %d bytes", MAX_PATH - 8);
        goto out;
    }
    int fd = mkstemp(tmp);
    if (fd < 0) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
        goto out;
    }
    rc = write_file(fd, tmp, path, &b, err);
    if (rc)
        unlink(tmp);
out:
    sk_buf_done(&b);
    return rc;
}

static int bad_message(size_t i, const char *why, struct sk_err *err)
{
    return sk_err_set(err, SK_EFORMAT, "messages", "messages[%zu]: %s", i, why);
}

static const char *unknown_key(const struct cJSON *object, const char *const *keys, int n)
{
    for (const struct cJSON *v = sk_json_first(object); v; v = sk_json_next(v)) {
        int i = 0;
        while (i < n && strcmp(sk_json_key(v), keys[i]) != 0)
            i++;
        if (i == n)
            return sk_json_key(v);
    }
    return NULL;
}

static int load_message(struct sk_talk *t, size_t i, const struct cJSON *v, struct sk_err *err)
{
    static const char *const keys[] = {"role", "content", "partial"};
    const char *role = sk_json_str(sk_json_get(v, "role")), *text = sk_json_str(sk_json_get(v, "content"));
    const struct cJSON *partial = sk_json_get(v, "partial");
    if (sk_json_type(v) != SK_JSON_OBJECT)
        return bad_message(i, "it must be an object", err);
    if (unknown_key(v, keys, 3))
        return bad_message(i, "it can have role, content and partial only", err);
    if (!role || !text)
        return bad_message(i, "role and content must be strings", err);
    if (partial && sk_json_type(partial) != SK_JSON_BOOL)
        return bad_message(i, "partial must be true or false", err);
    if (partial && strcmp(role, "assistant") != 0)
        return bad_message(i, "only an assistant's message can be partial", err);
    if (strcmp(role, "user") == 0)
        return sk_talk_question(t, text, strlen(text), err);
    if (strcmp(role, "assistant") == 0)
        return sk_talk_answer(t, text, strlen(text), sk_json_is_true(partial), err);
    if (strcmp(role, "system") != 0)
        return bad_message(i, "role must be system, user or assistant", err);
    if (i > 0)
        return bad_message(i, "only the first message can be the system's", err);
    return sk_talk_system(t, text, strlen(text), err);
}

static int load_messages(struct sk_talk *t, const struct cJSON *v, struct sk_err *err)
{
    static const char *const keys[] = {"messages"};
    const struct cJSON *messages = sk_json_get(v, "messages");
    if (sk_json_type(messages) != SK_JSON_ARRAY || unknown_key(v, keys, 1))
        return sk_err_set(err, SK_EFORMAT, "messages", "a conversation is an object with an array \"messages\" only");
    size_t i = 0;
    for (const struct cJSON *m = sk_json_first(messages); m; m = sk_json_next(m)) {
        int rc = load_message(t, i++, m, err);
        if (rc)
            return rc;
    }
    return 0;
}

int sk_talk_load(struct sk_talk *t, const char *path, struct sk_err *err)
{
    struct sk_talk loaded;
    struct sk_err why = {0};
    struct cJSON *v = NULL;
    int rc = sk_json_load(path, 8 * (size_t)SK_TALK_MAX_BYTES, &v, err);
    if (rc)
        return rc;
    sk_talk_init(&loaded);
    rc = load_messages(&loaded, v, &why);
    sk_json_free(v);
    if (rc) {
        sk_talk_done(&loaded);
        return sk_err_set(err, -rc, why.param, "%s: %s", path, why.msg);
    }
    sk_talk_done(t);
    *t = loaded;
    return 0;
}
