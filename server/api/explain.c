/* POST /explain: what a completion or chat request would be, without running it: the prompt as the model would see it,
 * its tokens and where they are in the text, what of it is cached, what it would need and when it would be served. */
#define _GNU_SOURCE 1 /* memmem */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/api/api.h"
#include "server/api/gen.h"

enum { MAX_ANSWER_BYTES = 128 << 20, MAX_TOKENS = 65536 /* that are listed */ };

/* --- where tokens are in the text --- */

/* Walks over the text with the tokens, whose bytes are the text's unless the tokenizer has changed it (Unicode
 * normalization, lower case). From there on no place is known. */
struct walk {
    const struct sk_vocab *vocab;
    const char *text;
    size_t n, at;
    bool lost;
    uint32_t n_control; /* control tokens so far that the text spells */
};

static bool is_at(const struct walk *w, size_t at, const char *p, size_t n)
{
    return n > 0 && n <= w->n - at && memcmp(w->text + at, p, n) == 0;
}

/* false = not known. What was added to the text (BOS, a first space) has no bytes of it. */
static bool place_of(struct walk *w, const char *p, size_t n, bool control, size_t *ret_from)
{
    size_t from = w->at, blanks = 0;
    *ret_from = from;
    if (w->lost)
        return false;
    if (is_at(w, from, p, n)) {
        w->at = from + n;
        return true;
    }
    if (n > 0 && p[0] == ' ' && (n == 1 || is_at(w, from, p + 1, n - 1))) {
        w->at = from + n - 1;
        return true;
    }
    while (from + blanks < w->n && strchr(" \t\n\r", w->text[from + blanks]))
        blanks++;
    if (control && is_at(w, from + blanks, p, n)) /* it takes the blanks before it in (lstrip) */
        w->at = from + blanks + n;
    else
        w->lost = !control && n > 0;
    return !w->lost;
}

static void put_token(struct sk_buf *b, struct walk *w, int32_t id, bool was_added)
{
    size_t n = 0, from = w->at;
    const char *p = "";
    unsigned flags = 0;
    if ((uint32_t)id < sk_vocab_size(w->vocab)) {
        p = sk_vocab_bytes(w->vocab, (uint32_t)id, &n);
        flags = sk_vocab_flags(w->vocab, (uint32_t)id);
    }
    bool control = flags & (SK_TOK_SPECIAL | SK_TOK_CONTROL);
    bool known = was_added || place_of(w, p, n, control, &from);
    w->n_control += control && known && w->at > from;
    sk_buf_fmt(b, "{\"id\":%d,\"text\":", id);
    sk_json_quote(b, p, n);
    if (known)
        sk_buf_fmt(b, ",\"bytes\":[%zu,%zu]", from, w->at);
    else
        sk_buf_str(b, ",\"bytes\":null");
    sk_buf_fmt(b, ",\"special\":%s}", control ? "true" : "false");
}

/* --- the prompt --- */

struct prompt { /* what the model would see; of one request */
    const struct sk_gen_prompt *given;
    struct sk_buf text; /* without the guards */
    uint32_t n_guard;   /* control spellings of users in a chat, which stay text */
    uint32_t n_control; /* control tokens that are spelled in the text */
    size_t from, n;     /* the tokens that truncation leaves */
};

static void truncate_prompt(const struct sk_gen *g, size_t *ret_from, size_t *ret_n)
{
    *ret_from = *ret_n = 0;
    if (g->prompts[0].n_id > 0)
        sk_api_params_truncate(&g->params, g->model->max_len, g->prompts[0].n_id, ret_from, ret_n);
}

static void read_prompt(const struct sk_gen *g, struct prompt *ret)
{
    const struct sk_gen_prompt *p = &g->prompts[0];
    *ret = (struct prompt){.given = p};
    sk_buf_init(&ret->text, MAX_ANSWER_BYTES);
    truncate_prompt(g, &ret->from, &ret->n);
    if (!p->text) {
        sk_token_decode(g->model->vocab, p->ids, p->n_id, false, &ret->text, NULL);
        return;
    }
    for (const char *s = p->text, *end = s + p->n_text; s < end;) {
        const char *guard = memmem(s, (size_t)(end - s), SK_TOKEN_GUARD, strlen(SK_TOKEN_GUARD));
        sk_buf_add(&ret->text, s, (size_t)((guard ? guard : end) - s));
        ret->n_guard += guard != NULL;
        s = guard ? guard + strlen(SK_TOKEN_GUARD) : end;
    }
}

static void put_prompt(struct sk_buf *b, const struct sk_gen *g, struct prompt *p)
{
    struct walk w = {.vocab = g->model->vocab, .text = p->text.p ? p->text.p : "", .n = p->text.n};
    size_t n = p->given->n_id;
    sk_buf_str(b, ",\"prompt\":");
    sk_json_quote(b, w.text, w.n);
    sk_buf_fmt(b, ",\"n_prompt\":%zu,\"kept\":[%zu,%zu],\"tokens\":[", n, p->from, p->from + p->n);
    for (size_t i = 0; i < n && i < MAX_TOKENS; i++) {
        sk_buf_str(b, i ? "," : "");
        put_token(b, &w, p->given->ids[i], i == 0 && p->given->echo_hides_first);
    }
    sk_buf_char(b, ']');
    p->n_control = w.n_control;
}

/* --- warnings --- */

static void warn(struct sk_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void warn(struct sk_buf *b, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (b->n > 0 && b->p[b->n - 1] != '[')
        sk_buf_char(b, ',');
    sk_json_quote(b, text, strlen(text));
}

static void put_warnings(struct sk_buf *b, const struct sk_gen *g, const struct prompt *p)
{
    const int32_t *ids = p->given->ids;
    sk_buf_str(b, ",\"warnings\":[");
    if (p->given->n_id > 1 && ids[0] == ids[1] && ids[0] == g->model->dir.bos)
        warn(b, "The prompt begins with two BOS tokens%s.",
             p->given->echo_hides_first ? ": its text has one, and the tokenizer adds one unless add_special_tokens is "
                                          "false"
                                        : "");
    if (g->kind == SK_API_COMPLETION && p->given->text && p->n_control > 0)
        warn(b, "Spellings in the prompt that are taken as control tokens: %u.", p->n_control);
    if (p->n_guard > 0)
        warn(b, "Spellings of control tokens in the messages that are taken as plain text: %u.", p->n_guard);
    if (p->n < p->given->n_id)
        warn(b, "truncate_prompt_tokens cuts off %zu of %zu tokens.", p->given->n_id - p->n, p->given->n_id);
    if (p->given->n_id > MAX_TOKENS)
        warn(b, "Only the first %d tokens are listed.", MAX_TOKENS);
    sk_buf_char(b, ']');
}

/* --- what it needs, and when it would be served --- */

/* At most, in all groups: choices share the full blocks of their prompt, and windows are not looked at. */
static uint64_t n_block(const struct sk_wire_hello *h, size_t n_prompt, uint32_t n_answer, uint32_t n_choice)
{
    uint64_t tok = h->block_tok, shared = n_prompt / tok, each = (n_prompt + n_answer + tok - 1) / tok - shared;
    return h->n_group * (shared + n_choice * each);
}

/* `v`: the engine's view; NULL = there is no engine now. */
static void put_needs(struct sk_buf *b, const struct sk_gen *g, const struct prompt *p, uint32_t n_answer,
                      const struct sk_wire_view *v)
{
    struct sk_engine_status st;
    struct sk_engine_estimate est;
    size_t n_new = p->n - (v && v->n_cached < p->n ? v->n_cached : 0);
    sk_engine_status(g->model->engine, &st);
    sk_engine_estimate(g->model->engine, g->call.tenant, (uint32_t)n_new, n_answer, &est);
    if (v)
        sk_buf_fmt(b, ",\"cached_tokens\":%u", v->n_cached);
    else
        sk_buf_str(b, ",\"cached_tokens\":null");
    if (v && st.hello.block_tok > 0)
        sk_buf_fmt(b, ",\"blocks\":{\"tokens_each\":%u,\"needed\":%" PRIu64 ",\"total\":%u,\"free\":%u,\"cached\":%u}",
                   st.hello.block_tok, n_block(&st.hello, p->n, n_answer, g->params.best_of), v->stats.blk_total,
                   v->stats.blk_free, v->stats.blk_cached);
    else
        sk_buf_str(b, ",\"blocks\":null");
    if (est.end_us > 0)
        sk_buf_fmt(b, ",\"estimate\":{\"queue_ms\":%" PRIu64 ",\"first_token_ms\":%" PRIu64 ",\"end_ms\":%" PRIu64 "}",
                   est.queue_us / 1000, est.first_us / 1000, est.end_us / 1000);
    else /* nothing was measured yet */
        sk_buf_str(b, ",\"estimate\":null");
}

static void put_number(struct sk_buf *b, const char *name, float x)
{
    sk_buf_fmt(b, ",\"%s\":", name);
    sk_json_put_float(b, x);
}

static void put_sampling(struct sk_buf *b, const struct sk_gen *g, const struct sk_params *p)
{
    const struct sk_stop *stop = &g->params.stop;
    sk_buf_fmt(b, ",\"sampling\":{\"max_tokens\":%u,\"min_tokens\":%u,\"n\":%u,\"best_of\":%u,\"top_k\":%d",
               p->max_tokens, p->min_tokens, g->params.n, g->params.best_of, p->top_k);
    put_number(b, "temperature", p->temperature);
    put_number(b, "top_p", p->top_p);
    put_number(b, "min_p", p->min_p);
    put_number(b, "typical_p", p->typical_p);
    put_number(b, "eta_cutoff", p->eta_cutoff);
    put_number(b, "epsilon_cutoff", p->epsilon_cutoff);
    put_number(b, "repetition_penalty", p->repetition_penalty);
    put_number(b, "presence_penalty", p->presence_penalty);
    put_number(b, "frequency_penalty", p->frequency_penalty);
    sk_buf_fmt(b, ",\"no_repeat_ngram_size\":%d,\"priority\":%d,\"ignore_eos\":%s,\"stop\":[", p->no_repeat_ngram,
               p->priority, p->flags & SK_PARAMS_IGNORE_EOS ? "true" : "false");
    for (size_t i = 0; i < stop->n; i++) {
        sk_buf_str(b, i ? "," : "");
        sk_json_quote(b, stop->str[i], strlen(stop->str[i]));
    }
    sk_buf_str(b, "]}");
}

/* --- the answer --- */

static void put_answer(struct sk_buf *b, const struct sk_gen *g, struct prompt *p, const struct sk_wire_view *v)
{
    struct sk_params params = g->params.wire;
    struct sk_err why;
    int rc = p->n == 0 ? sk_err_set(&why, SK_EINVAL, NULL, "The prompt has no tokens.")
                       : sk_api_params_fit(&g->params, g->kind, &g->rules, p->n, &params, &why);
    sk_buf_fmt(
        b, "{\"object\":\"explanation\",\"kind\":\"%s\",\"model\":", g->kind == SK_API_CHAT ? "chat" : "completion");
    sk_json_quote(b, g->model->name, strlen(g->model->name));
    put_prompt(b, g, p);
    put_warnings(b, g, p);
    sk_buf_fmt(b, ",\"max_model_len\":%u,\"fits\":%s,\"why_not\":", g->model->max_len, rc == 0 ? "true" : "false");
    if (rc == 0)
        sk_buf_str(b, "null");
    else
        sk_json_quote(b, why.msg, strlen(why.msg));
    put_needs(b, g, p, rc == 0 ? params.max_tokens : 0, v);
    put_sampling(b, g, &params);
    sk_buf_char(b, '}');
}

static void on_view(void *arg, const struct sk_wire_view *v)
{
    struct sk_gen *g = arg;
    struct sk_http_req *r = g->call.req;
    struct prompt p;
    struct sk_buf b;
    sk_buf_init(&b, MAX_ANSWER_BYTES);
    read_prompt(g, &p);
    put_answer(&b, g, &p, v);
    if (p.text.failed)
        b.failed = p.text.failed;
    sk_buf_done(&p.text);
    sk_gen_explained(g);
    sk_reply_send(r, 200, &b);
}

int sk_explain_start(struct sk_gen *g, struct sk_err *err)
{
    const struct sk_gen_prompt *p = &g->prompts[0];
    size_t from, n;
    if (g->n_prompt != 1)
        return sk_err_set(err, SK_ERANGE, "prompt", "There are %u prompts; only one can be explained at a time.",
                          g->n_prompt);
    truncate_prompt(g, &from, &n);
    if (n > g->model->max_len) /* it does not fit, and the engine has no more of it */
        n = g->model->max_len;
    if (sk_engine_peek(g->model->engine, p->ids + from, (uint32_t)n, g->params.wire.salt, on_view, g) != 0)
        on_view(g, NULL); /* what is known here is still worth an answer */
    return 0;
}

void sk_explain_stop(struct sk_gen *g)
{
    if (g->model)
        sk_engine_unpeek(g->model->engine, g);
}

static int take(struct sk_gen *g, const struct cJSON *body, struct sk_err *err)
{
    return g->kind == SK_API_CHAT ? sk_gen_take_chat(g, body, err) : sk_gen_take_completion(g, body, err);
}

void sk_api_explain(const struct sk_call *c)
{
    struct sk_call call = *c;
    call.explain = true;
    sk_gen_run(&call, SK_API_COMPLETION, take);
}
