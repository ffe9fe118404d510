/* POST /tokenize and /detokenize, in the forms of vLLM (prompt or messages -> tokens, count; tokens -> prompt) and of
 * llama.cpp (content -> tokens; tokens -> content). */
#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "server/api/api.h"
#include "server/api/messages.h"
#include "server/api/reply.h"

enum { MAX_TEXT_BYTES = 4 << 20 }; /* encoded on the loop in less than a second */

struct asked { /* a request that waits for its template, or not */
    struct sk_http_req *http;
    struct sk_model *model;
    struct sk_tmpl *tmpl;
    int render; /* -1 = none goes on */
    bool vllm;  /* the form of the answer */
    bool add_special, parse_special;
    bool strings; /* vLLM: return_token_strs */
    bool pieces;  /* llama.cpp: with_pieces */
};

/* Text, or an array of bytes where it is no UTF-8. */
static void put_piece(struct sk_buf *b, const char *s, size_t n)
{
    if (sk_utf8_valid(s, n)) {
        sk_json_quote(b, s, n);
        return;
    }
    sk_buf_char(b, '[');
    for (size_t i = 0; i < n; i++)
        sk_buf_fmt(b, "%s%u", i ? "," : "", (unsigned char)s[i]);
    sk_buf_char(b, ']');
}

static void put_tokens(struct sk_buf *b, const struct asked *a, const int32_t *ids, size_t n)
{
    const struct sk_vocab *v = a->model->vocab;
    size_t n_text;
    sk_buf_str(b, "\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        sk_buf_str(b, i ? "," : "");
        if (!a->pieces) {
            sk_buf_int(b, ids[i]);
            continue;
        }
        const char *text = sk_vocab_bytes(v, (uint32_t)ids[i], &n_text);
        sk_buf_fmt(b, "{\"id\":%d,\"piece\":", ids[i]);
        put_piece(b, text, n_text);
        sk_buf_char(b, '}');
    }
    sk_buf_char(b, ']');
    if (!a->vllm)
        return;
    sk_buf_fmt(b, ",\"count\":%zu,\"max_model_len\":%u,\"token_strs\":", n, a->model->max_len);
    if (!a->strings) {
        sk_buf_str(b, "null");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const char *word = sk_vocab_word(v, (uint32_t)ids[i], &n_text);
        sk_buf_char(b, i ? ',' : '[');
        sk_json_quote(b, word, n_text);
    }
    sk_buf_str(b, n ? "]" : "[]");
}

static int encode(const struct asked *a, const char *text, size_t n, struct sk_err *err)
{
    struct sk_buf b;
    int32_t *ids;
    size_t n_id;
    if (n > MAX_TEXT_BYTES)
        return sk_err_set(err, SK_ERANGE, a->vllm ? "prompt" : "content",
                          "The text has %zu bytes; it may have at most %d.", n, MAX_TEXT_BYTES);
    int rc = sk_token_encode(a->model->token, text, n, a->parse_special ? SK_TOKEN_SPECIALS : SK_TOKEN_PLAIN,
                             a->add_special, 2 * n + 64, &ids, &n_id, err);
    if (rc != 0)
        return rc;
    sk_buf_init(&b, SK_REPLY_MAX_BYTES);
    sk_buf_char(&b, '{');
    put_tokens(&b, a, ids, n_id);
    sk_buf_char(&b, '}');
    sk_free(ids);
    sk_reply_send(a->http, 200, &b);
    return 0;
}

static void on_gone(void *user)
{
    struct asked *a = user;
    if (a->render >= 0)
        sk_tmpl_cancel(a->tmpl, a->render);
    a->render = -1;
}

static void on_free(void *user)
{
    struct asked *a = user;
    a->model->n_user--;
    sk_free(a);
}

static void on_rendered(void *arg, int rc, const char *text, size_t n, const struct sk_err *why)
{
    struct asked *a = arg;
    struct sk_err err = {0};
    if (rc != 0)
        err = *why;
    a->render = -1;
    if (rc == 0)
        rc = encode(a, text, n, &err);
    if (rc != 0)
        sk_reply_send_error(a->http, &err);
}

static int render(struct asked *a, const struct cJSON *body, size_t max_bytes, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, max_bytes);
    int rc = sk_messages_put(body, &b, err);
    if (rc == 0) {
        a->tmpl = sk_messages_tmpl(a->model, body);
        rc = sk_tmpl_render(a->tmpl, b.p, b.n, on_rendered, a, err);
    }
    if (rc >= 0)
        a->render = rc;
    sk_buf_done(&b);
    return rc < 0 ? rc : 0;
}

static int take_tokenize(struct sk_server *s, struct asked *a, const struct cJSON *body, struct sk_err *err)
{
    const char *prompt = NULL, *content = NULL;
    bool chat = sk_json_get(body, "messages");
    int rc = sk_json_get_str(body, "prompt", &prompt, err);
    if (rc == 0)
        rc = sk_json_get_str(body, "content", &content, err);
    if (rc == 0 && !prompt && !content && !chat)
        rc = sk_err_set(err, SK_EMISSING, "prompt", "One of prompt, messages and content is required.");
    if (rc != 0)
        return rc;
    a->vllm = prompt || chat;
    a->add_special = prompt;
    a->parse_special = true;
    rc = sk_json_get_bool(body, a->vllm ? "add_special_tokens" : "add_special", &a->add_special, err);
    if (rc == 0 && a->vllm)
        rc = sk_json_get_bool(body, "return_token_strs", &a->strings, err);
    if (rc == 0 && !a->vllm)
        rc = sk_json_get_bool(body, "parse_special", &a->parse_special, err);
    if (rc == 0 && !a->vllm)
        rc = sk_json_get_bool(body, "with_pieces", &a->pieces, err);
    if (rc != 0)
        return rc;
    if (!prompt && chat)
        return render(a, body, 8 * (size_t)s->conf->max_body, err);
    const char *text = prompt ? prompt : content;
    return encode(a, text, strlen(text), err);
}

void sk_api_tokenize(const struct sk_call *c)
{
    struct cJSON *body = NULL;
    struct sk_model *m;
    struct asked *a = NULL;
    struct sk_err err = {0};
    int rc = sk_api_body(c->server, c->req, &body, &m, &err);
    if (rc == 0) {
        a = sk_calloc(1, sizeof *a);
        rc = a ? 0 : sk_err_set(&err, SK_ENOMEM, NULL, "out of memory");
    }
    if (rc == 0) {
        *a = (struct asked){.http = c->req, .model = m, .render = -1};
        m->n_user++;
        sk_http_set(c->req, a, on_gone, on_free);
        rc = take_tokenize(c->server, a, body, &err);
    }
    sk_json_free(body);
    if (rc != 0)
        sk_reply_send_error(c->req, &err);
}

static int take_ids(const struct sk_model *m, const struct cJSON *v, int32_t *ids, struct sk_err *err)
{
    size_t n = 0;
    for (const struct cJSON *e = sk_json_first(v); e; e = sk_json_next(e)) {
        int64_t id;
        if (sk_json_type(e) != SK_JSON_NUMBER)
            return sk_err_set(err, SK_ETYPE, "tokens", "tokens must be an array of token ids; there is %s in it.",
                              sk_json_typename(e));
        if (!sk_json_is_int(e, &id) || id < 0 || id >= sk_vocab_size(m->vocab))
            return sk_err_set(err, SK_ERANGE, "tokens",
                              "tokens has the token id %.17g at position %zu; this model's are 0 to %u.",
                              sk_json_num(e), n, sk_vocab_size(m->vocab) - 1);
        ids[n++] = (int32_t)id;
    }
    return 0;
}

/* vLLM's clients read `prompt`, llama.cpp's `content`; the request does not say which one asks. */
static int detokenize(const struct sk_model *m, const struct cJSON *body, struct sk_buf *b, struct sk_err *err)
{
    const struct cJSON *v = sk_json_get(body, "tokens");
    size_t n = sk_json_len(v);
    struct sk_buf text;
    if (!v || sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(err, v ? SK_ETYPE : SK_EMISSING, "tokens", "tokens must be an array of token ids.");
    int32_t *ids = sk_malloc(n * sizeof *ids);
    if (!ids)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_buf_init(&text, SK_REPLY_MAX_BYTES / 16);
    int rc = take_ids(m, v, ids, err);
    if (rc == 0)
        rc = sk_token_decode(m->vocab, ids, n, false, &text, err);
    if (rc == 0) {
        sk_buf_str(b, "{\"prompt\":");
        sk_json_quote(b, text.p ? text.p : "", text.n);
        sk_buf_str(b, ",\"content\":");
        sk_json_quote(b, text.p ? text.p : "", text.n);
        sk_buf_char(b, '}');
    }
    sk_buf_done(&text);
    sk_free(ids);
    return rc;
}

void sk_api_detokenize(const struct sk_call *c)
{
    struct cJSON *body = NULL;
    struct sk_model *m;
    struct sk_buf b;
    struct sk_err err = {0};
    sk_buf_init(&b, SK_REPLY_MAX_BYTES);
    int rc = sk_api_body(c->server, c->req, &body, &m, &err);
    if (rc == 0)
        rc = detokenize(m, body, &b, &err);
    sk_json_free(body);
    if (rc == 0) {
        sk_reply_send(c->req, 200, &b);
        return;
    }
    sk_buf_done(&b);
    sk_reply_send_error(c->req, &err);
}
