#include "server/api/gen.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "server/api/api.h"
#include "server/http/sse.h"

enum {
    ARENA_SPARE_BYTES = 4 << 20, /* beyond what came in the body */
    MAX_TEXT_BYTES = 256 << 20,  /* of one answer, echo included */
};

struct sk_gen_choice { /* memory of a stream is used over and over: nothing is allocated once it flows */
    struct sk_detok *detok;
    struct sk_buf text;               /* not sent yet */
    struct sk_logprobs tokens;        /* not sent yet; only where log-probs or token ids are asked for */
    struct sk_logprobs prompt_tokens; /* prompt_logprobs */
    uint32_t n_prompt_token;          /* prompt log-probs so far, the first token's null included */
    uint32_t n_token, n_sent;         /* tokens of the answer so far; of these in chunks */
    uint32_t offset;                  /* text_offset of the next token */
    bool began;                       /* a chunk was sent */
    const char *finish;               /* finish_reason; NULL = goes on */
    int32_t stop_id;
    const char *stop_str;
};

/* --- life --- */

static struct sk_api *api_of(const struct sk_gen *g)
{
    return g->server->api;
}

static void cancel_jobs(struct sk_gen *g)
{
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        if (g->prompts[i].job)
            sk_job_cancel(g->prompts[i].job, SK_WIRE_ALL);
    }
}

/* Jobs are given back from outside of their callbacks only. */
static void free_jobs(struct sk_gen *g)
{
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        if (g->prompts[i].job)
            sk_job_free(g->prompts[i].job);
        g->prompts[i].job = NULL;
    }
}

static void log_end(const struct sk_gen *g, const char *how)
{
    size_t n_prompt_tok = 0;
    for (uint32_t i = 0; i < g->n_prompt; i++)
        n_prompt_tok += g->prompts[i].n_id;
    sk_log(SK_LOG_INFO, "request id=%s end=%s prompts=%u choices=%u prompt_tok=%zu answer_tok=%llu ms=%llu",
           sk_http_id(g->http), how, g->n_prompt, g->n_choice, n_prompt_tok, (unsigned long long)g->n_answer,
           (unsigned long long)((sk_clock_us() - g->start_us) / 1000));
}

/* The one way to OVER. */
static void end(struct sk_gen *g, const char *how)
{
    g->state = SK_GEN_OVER;
    log_end(g, how);
}

static void stop_work(struct sk_gen *g)
{
    cancel_jobs(g);
    if (g->render >= 0)
        sk_tmpl_cancel(g->tmpl, g->render);
    g->render = -1;
}

static void on_gone(void *user)
{
    struct sk_gen *g = user;
    if (g->state == SK_GEN_OVER)
        return;
    stop_work(g);
    end(g, "gone");
}

static void unlink_gen(struct sk_gen *g)
{
    if (g->prev)
        g->prev->next = g->next;
    else
        api_of(g)->gens = g->next;
    if (g->next)
        g->next->prev = g->prev;
    g->prev = g->next = NULL;
}

static void on_free(void *user)
{
    struct sk_gen *g = user;
    free_jobs(g);
    if (g->server)
        unlink_gen(g);
    for (uint32_t i = 0; i < g->n_choice; i++) {
        struct sk_gen_choice *c = &g->choices[i];
        sk_detok_free(c->detok);
        sk_buf_done(&c->text);
        sk_logprobs_done(&c->tokens);
        sk_logprobs_done(&c->prompt_tokens);
    }
    for (uint32_t i = 0; i < g->n_prompt; i++)
        sk_free(g->prompts[i].ids);
    sk_free(g->choices);
    sk_arena_done(&g->arena);
    sk_free(g);
}

void sk_gen_detach(struct sk_gen *g)
{
    struct sk_err err;
    sk_err_set(&err, SK_EUNAVAIL, NULL, "The server is stopping.");
    sk_gen_fail(g, &err);
    free_jobs(g);
    unlink_gen(g);
    g->server = NULL;
}

static char *arena_join(struct sk_arena *a, const char *s, const char *t)
{
    size_t n = strlen(s), m = strlen(t);
    char *p = sk_arena_alloc(a, n + m + 1);
    if (p) {
        memcpy(p, s, n);
        memcpy(p + n, t, m);
    }
    return p;
}

static int fill_reply(struct sk_gen *g, struct sk_err *err)
{
    const struct sk_api_params *p = &g->params;
    const char *id = p->request_id ? p->request_id : sk_http_id(g->http);
    g->reply = (struct sk_reply){
        .chat = g->kind == SK_API_CHAT,
        .stream = p->stream,
        .id = arena_join(&g->arena, g->kind == SK_API_CHAT ? "chatcmpl-" : "cmpl-", id),
        .model = g->model->name,
        .fingerprint = arena_join(&g->arena, "skein-" SK_VERSION "-", g->model->dir.digest),
        .created = sk_clock_unix(),
        .logprobs = p->n_top >= 0,
        .token_ids = p->token_ids,
        .usage = p->include_usage,
        .style = {.vocab = g->model->vocab, .n_top = p->n_top, .as_ids = p->tokens_as_ids},
        .prompt_style = {.vocab = g->model->vocab, .n_top = p->n_prompt_top},
    };
    return g->reply.id && g->reply.fingerprint ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
}

int sk_gen_new(struct sk_server *s, struct sk_model *m, struct sk_http_req *r, enum sk_api_kind kind,
               const struct cJSON *body, struct sk_gen **ret, struct sk_err *err)
{
    struct sk_api *api = s->api;
    struct sk_gen *g = sk_calloc(1, sizeof *g);
    if (!g)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    g->server = s;
    g->model = m;
    g->http = r;
    g->kind = kind;
    g->render = -1;
    g->start_us = sk_clock_us();
    g->rules = (struct sk_api_rules){
        .conf = s->conf,
        .gen = s->conf->generation_defaults ? &m->dir.gen : NULL,
        .token = m->token,
        .n_vocab = m->dir.desc.n_vocab,
        .max_len = m->max_len,
    };
    sk_arena_init(&g->arena, 2 * (size_t)s->conf->max_body + ARENA_SPARE_BYTES);
    g->next = api->gens;
    if (g->next)
        g->next->prev = g;
    api->gens = g;

    int rc = sk_api_params_parse(kind, body, &g->rules, &g->arena, &g->params, err);
    if (rc == 0)
        rc = fill_reply(g, err);
    if (rc != 0) {
        on_free(g);
        return rc;
    }
    sk_http_set(r, g, on_gone, on_free);
    *ret = g;
    return 0;
}

/* --- prompts --- */

int sk_gen_prompts(struct sk_gen *g, uint32_t n, struct sk_err *err)
{
    g->prompts = sk_arena_alloc(&g->arena, n * sizeof *g->prompts);
    if (!g->prompts)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    g->n_prompt = n;
    for (uint32_t i = 0; i < n; i++)
        g->prompts[i].gen = g;
    return 0;
}

/* The field of the request that has the prompt. */
static const char *what_of(const struct sk_gen *g)
{
    return g->kind == SK_API_CHAT ? "messages" : "prompt";
}

int sk_gen_encode(struct sk_gen *g, uint32_t i, const char *text, size_t n, struct sk_err *err)
{
    struct sk_gen_prompt *p = &g->prompts[i];
    size_t max_bytes = (size_t)g->model->max_len * (size_t)sk_vocab_max_token_bytes(g->model->vocab);
    if (n > max_bytes)
        return sk_err_set(err, SK_ECTX, what_of(g),
                          "This model's maximum context length is %u tokens. However, the %s %zu bytes, more than %u "
                          "tokens can have.",
                          g->model->max_len, g->kind == SK_API_CHAT ? "messages have" : "prompt has", n,
                          g->model->max_len);
    int rc = sk_token_encode(g->model->token, text, n, SK_TOKEN_SPECIALS, g->params.add_special, 2 * n + 64, &p->ids,
                             &p->n_id, err);
    p->echo_hides_first = rc == 0 && g->params.add_special && p->n_id > 0 && p->ids[0] == g->model->dir.bos;
    return rc;
}

static void truncate_prompt(struct sk_gen *g, struct sk_gen_prompt *p)
{
    size_t from, n;
    if (p->n_id == 0)
        return;
    sk_api_params_truncate(&g->params, g->model->max_len, p->n_id, &from, &n);
    if (n == p->n_id)
        return;
    memmove(p->ids, p->ids + from, n * sizeof *p->ids);
    p->n_id = n;
    p->echo = NULL; /* no longer what the tokens say */
    p->echo_hides_first = false;
}

static int put_echo(struct sk_gen_choice *c, const struct sk_gen_prompt *p, const struct sk_vocab *v,
                    struct sk_err *err)
{
    int rc =
        p->echo ? sk_buf_add(&c->text, p->echo, p->n_echo) : sk_token_decode(v, p->ids, p->n_id, false, &c->text, err);
    return rc == 0 ? 0 : sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
}

static int init_choice(struct sk_gen *g, struct sk_gen_choice *c, const struct sk_gen_prompt *p, struct sk_err *err)
{
    const struct sk_api_params *a = &g->params;
    int rc = sk_detok_new(g->model->vocab, &a->stop, a->skip_special, &c->detok);
    for (size_t i = 0; rc == 0 && i < p->n_id; i++)
        sk_detok_follow(c->detok, p->ids[i]);
    c->stop_id = -1;
    sk_buf_init(&c->text, MAX_TEXT_BYTES);
    sk_logprobs_init(&c->tokens);
    sk_logprobs_init(&c->prompt_tokens);
    if (rc == 0 && a->echo && a->n_top >= 0)
        rc = sk_logprobs_add_bare(&c->tokens, p->ids[0], p->echo_hides_first);
    if (rc == 0 && a->n_prompt_top >= 0)
        rc = sk_logprobs_add_bare(&c->prompt_tokens, p->ids[0], true);
    if (rc != 0)
        return sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
    c->n_prompt_token = 1;
    return a->echo ? put_echo(c, p, g->model->vocab, err) : 0;
}

/* --- answers --- */

static void fill_choice(const struct sk_gen *g, uint32_t index, struct sk_reply_choice *ret)
{
    struct sk_gen_choice *c = &g->choices[index];
    const struct sk_gen_prompt *p = &g->prompts[index / g->params.n];
    bool first = !c->began;
    *ret = (struct sk_reply_choice){
        .index = index,
        .text = c->text.p ? c->text.p : "",
        .n_text = c->text.n,
        .finish = c->finish,
        .stop_id = c->stop_id,
        .stop_str = c->stop_str,
        .tokens = &c->tokens,
        .offset = &c->offset,
        .prompt_tokens = g->params.n_prompt_top >= 0 ? &c->prompt_tokens : NULL,
        .prompt_ids = g->params.token_ids && first ? p->ids : NULL,
        .n_prompt = p->n_id,
    };
}

static struct sk_reply_usage usage_of(const struct sk_gen *g)
{
    struct sk_reply_usage u = {.n_answer = g->n_answer};
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        u.n_prompt += g->prompts[i].n_id;
        u.n_cached += g->prompts[i].n_cached;
    }
    return u;
}

static void send_event(struct sk_gen *g, const struct sk_buf *text)
{
    struct sk_buf *queue = sk_http_queue(g->http);
    if (text->failed)
        queue->failed = text->failed; /* a stream with a hole in it must not look whole: the connection is cut */
    else
        sk_sse_event(queue, NULL, text->p, text->n);
    sk_http_wake(g->http);
}

static void send_chunk(struct sk_gen *g, const struct sk_reply_choice *c, bool with_usage)
{
    struct sk_buf *b = &api_of(g)->event;
    const struct sk_reply_usage usage = usage_of(g);
    sk_buf_clear(b);
    sk_reply_open(b, &g->reply);
    if (c)
        sk_reply_choice(b, &g->reply, c);
    sk_reply_close(b, &g->reply, c, with_usage ? &usage : NULL);
    send_event(g, b);
}

static void stream_choice(struct sk_gen *g, uint32_t index)
{
    struct sk_gen_choice *c = &g->choices[index];
    struct sk_reply_choice piece;
    bool due = c->text.n > 0 && (c->n_sent == 0 || c->n_token - c->n_sent >= g->params.stream_interval);
    if (!due && !c->finish)
        return;
    if (!c->began && g->kind == SK_API_CHAT) {
        const struct sk_reply_choice role = {.index = index, .role = true, .stop_id = -1};
        send_chunk(g, &role, g->params.continuous_usage);
    }
    fill_choice(g, index, &piece);
    send_chunk(g, &piece, g->params.continuous_usage);
    c->began = true;
    c->n_sent = c->n_token;
    sk_buf_clear(&c->text);
    sk_logprobs_clear(&c->tokens);
}

static void finish_stream(struct sk_gen *g)
{
    if (g->params.include_usage)
        send_chunk(g, NULL, true);
    sk_sse_done(sk_http_queue(g->http));
    sk_http_end(g->http);
    end(g, "done");
}

static void finish_whole(struct sk_gen *g)
{
    struct sk_buf b;
    struct sk_reply_choice c = {0};
    const struct sk_reply_usage usage = usage_of(g);
    sk_buf_init(&b, SK_REPLY_MAX_BYTES);
    sk_reply_open(&b, &g->reply);
    for (uint32_t i = 0; i < g->n_choice; i++) {
        fill_choice(g, i, &c);
        sk_reply_choice(&b, &g->reply, &c);
    }
    fill_choice(g, 0, &c); /* a chat has one prompt: its first choice speaks for it */
    sk_reply_close(&b, &g->reply, &c, &usage);
    end(g, "done");
    sk_reply_send(g->http, 200, &b);
}

void sk_gen_fail(struct sk_gen *g, const struct sk_err *err)
{
    if (g->state == SK_GEN_OVER)
        return;
    bool streaming = g->state == SK_GEN_RUNNING && g->params.stream;
    stop_work(g);
    end(g, sk_err_name(err->code));
    if (!streaming) {
        sk_reply_send_error(g->http, err);
        return;
    }
    struct sk_buf *b = &api_of(g)->event;
    sk_buf_clear(b);
    sk_reply_error(b, err);
    send_event(g, b);
    sk_sse_done(sk_http_queue(g->http));
    sk_http_end(g->http);
}

/* --- tokens --- */

static int take_prompt_token(struct sk_gen *g, struct sk_gen_choice *c, const struct sk_gen_prompt *p,
                             const struct sk_wire_item *it)
{
    int rc = 0;
    if (c->n_prompt_token >= p->n_id)
        return 0;
    c->n_prompt_token++;
    if (g->params.echo && g->params.n_top >= 0)
        rc = sk_logprobs_add(&c->tokens, it);
    if (rc == 0 && g->params.n_prompt_top >= 0)
        rc = sk_logprobs_add(&c->prompt_tokens, it);
    return rc;
}

static void set_finish(struct sk_gen *g, struct sk_gen_choice *c, const char *finish)
{
    sk_assert(!c->finish);
    c->finish = finish;
    g->n_open--;
}

/* A stop string is found here and not in the engine: what it makes until the cancel arrives is thrown away and not
 * counted. */
static int take_token(struct sk_gen *g, struct sk_gen_choice *c, const struct sk_wire_item *it)
{
    int rc = 0;
    c->n_token++;
    g->n_answer++;
    if (g->params.n_top >= 0 || g->params.token_ids)
        rc = sk_logprobs_add(&c->tokens, it);
    if (rc == 0)
        rc = sk_detok_push(c->detok, it->id, c->n_token >= g->params.wire.min_tokens, &c->text);
    if (rc != 1)
        return rc;
    c->stop_str = g->params.stop.str[sk_detok_stop(c->detok)];
    set_finish(g, c, "stop");
    return 0;
}

/* The token that ended the answer (EOS or a stop token) is no text, but it was computed and took a place of max_tokens:
 * usage counts it, as vLLM's does, just as it counts the tokens of a stop string that is cut off. */
static int take_finish(struct sk_gen *g, struct sk_gen_choice *c, const struct sk_wire_entry *e)
{
    bool stopped = e->finish != SK_FINISH_LENGTH;
    int rc = 0;
    g->n_answer += stopped;
    if (stopped && g->params.stop.include && e->reason >= 0)
        rc = sk_detok_push(c->detok, e->reason, false, &c->text);
    if (rc >= 0)
        rc = sk_detok_flush(c->detok, &c->text);
    c->stop_id = e->finish == SK_FINISH_STOP_ID ? e->reason : -1;
    set_finish(g, c, stopped ? "stop" : "length");
    return rc;
}

static int take_entry(struct sk_gen *g, struct sk_gen_choice *c, struct sk_gen_prompt *p, const struct sk_job_event *ev)
{
    const struct sk_wire_item *it = sk_wire_item_first(ev->entry);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && !c->finish && i < ev->entry->n_item; i++, it = sk_wire_item_next(it))
        rc = it->flags & SK_ITEM_PROMPT ? take_prompt_token(g, c, p, it) : take_token(g, c, it);
    if (rc != 0)
        return rc;
    if (c->finish) {
        sk_job_cancel(p->job, ev->choice);
        return 0;
    }
    return ev->entry->finish ? take_finish(g, c, ev->entry) : 0;
}

static void on_event(void *arg, struct sk_job *job, const struct sk_job_event *ev)
{
    struct sk_gen_prompt *p = arg;
    struct sk_gen *g = p->gen;
    uint32_t index = (uint32_t)(p - g->prompts) * g->params.n + ev->choice;
    struct sk_gen_choice *c = &g->choices[index];
    struct sk_err err;
    if (g->state != SK_GEN_RUNNING || c->finish)
        return;
    if (ev->entry->finish == SK_FINISH_ERROR || ev->entry->finish == SK_FINISH_CANCEL) {
        int code = ev->entry->finish == SK_FINISH_ERROR && ev->entry->reason > 0 && ev->entry->reason < SK_E_COUNT
                       ? ev->entry->reason
                       : SK_EINTERNAL;
        sk_err_set(&err, code, NULL, "The engine gave the request up: %s.", sk_err_text(code));
        sk_gen_fail(g, &err);
        return;
    }
    if (ev->choice == 0 && ev->entry->n_cached > p->n_cached)
        p->n_cached = ev->entry->n_cached;
    int rc = take_entry(g, c, p, ev);
    if (rc < 0) {
        sk_err_set(&err, rc == -SK_ENOMEM ? SK_ENOMEM : SK_EINTERNAL, NULL, "The answer is too large to be kept.");
        sk_gen_fail(g, &err);
        return;
    }
    if (g->params.stream)
        stream_choice(g, index);
    if (g->n_open > 0)
        return;
    if (g->params.stream)
        finish_stream(g);
    else
        finish_whole(g);
}

/* --- start --- */

static int submit(struct sk_gen *g, struct sk_gen_prompt *p, const struct sk_params *params, struct sk_err *err)
{
    const struct sk_job_req req = {
        .prompt = p->ids,
        .n_prompt = (uint32_t)p->n_id,
        .n_choice = g->params.n,
        .params = params,
        .list = g->params.list,
        .cb = on_event,
        .arg = p,
    };
    return sk_job_submit(g->model->engine, &req, &p->job, err);
}

int sk_gen_start(struct sk_gen *g, struct sk_err *err)
{
    const struct sk_api_params *a = &g->params;
    struct sk_params *params = sk_arena_alloc(&g->arena, g->n_prompt * sizeof *params);
    g->choices = sk_calloc((size_t)g->n_prompt * a->n, sizeof *g->choices);
    if (!g->choices || !params)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < g->n_prompt; i++) {
        struct sk_gen_prompt *p = &g->prompts[i];
        truncate_prompt(g, p);
        if (p->n_id == 0)
            rc = sk_err_set(err, SK_EINVAL, what_of(g), "The prompt has no tokens.");
        else
            rc = sk_api_params_fit(a, g->kind, &g->rules, p->n_id, &params[i], err);
        for (uint32_t k = 0; rc == 0 && k < a->n; k++)
            rc = init_choice(g, &g->choices[g->n_choice++], p, err);
    }
    g->n_open = g->n_choice;
    for (uint32_t i = 0; rc == 0 && i < g->n_prompt; i++)
        rc = submit(g, &g->prompts[i], &params[i], err);
    if (rc != 0)
        return rc;
    g->state = SK_GEN_RUNNING;
    for (uint32_t i = 0; i < g->n_prompt && !a->token_ids; i++) { /* the job has its own copy */
        sk_free(g->prompts[i].ids);
        g->prompts[i].ids = NULL;
    }
    if (a->stream) {
        const struct sk_http_headers h = {.content_type = "text/event-stream"};
        sk_http_stream(g->http, 200, &h);
    }
    return 0;
}
