#include "tests/unit/server/api/pretend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/fixture.h"

struct pretend pretend;

/* --- http --- */

const char *sk_http_method(const struct sk_http_req *r)
{
    return r->method;
}

const char *sk_http_path(const struct sk_http_req *r)
{
    return r->path;
}

const char *sk_http_header(const struct sk_http_req *r, const char *name)
{
    return strcasecmp(name, "authorization") == 0 ? r->authorization : NULL;
}

const char *sk_http_body(const struct sk_http_req *r, size_t *ret_n)
{
    *ret_n = r->body ? strlen(r->body) : 0;
    return r->body;
}

const char *sk_http_id(const struct sk_http_req *r)
{
    return "id-1";
}

void sk_http_set(struct sk_http_req *r, void *user, void (*on_gone)(void *user), void (*on_free)(void *user))
{
    r->user = user;
    r->on_gone = on_gone;
    r->on_free = on_free;
}

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    assert_int_equal(r->status, 0); /* exactly one answer */
    r->status = status;
    if (h)
        r->headers = *h;
    sk_buf_add(&r->reply, body, n);
}

void sk_http_stream(struct sk_http_req *r, int status, const struct sk_http_headers *h)
{
    assert_int_equal(r->status, 0);
    r->status = status;
    r->stream = true;
    r->headers = *h;
}

struct sk_buf *sk_http_queue(struct sk_http_req *r)
{
    return &r->queue;
}

void sk_http_wake(struct sk_http_req *r)
{
    assert_true(r->stream && !r->ended);
}

void sk_http_end(struct sk_http_req *r)
{
    assert_true(r->stream && !r->ended);
    r->ended = true;
}

/* --- the engine --- */

int sk_job_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret, struct sk_err *err)
{
    if (pretend.submit_fails && pretend.n_job >= pretend.fail_at)
        return sk_err_set(err, -pretend.submit_fails, NULL, "refused");
    assert_true(pretend.n_job < PRETEND_MAX_JOBS);
    struct sk_job *j = &pretend.jobs[pretend.n_job++];
    *j = (struct sk_job){.req = *req, .params = *req->params};
    assert_true(req->n_prompt <= sizeof j->prompt / sizeof j->prompt[0]);
    memcpy(j->prompt, req->prompt, req->n_prompt * sizeof j->prompt[0]);
    assert_int_equal(sk_params_check(req->params, req->list, sk_params_list_len(req->params), N_VOCAB), 0);
    *ret = j;
    return 0;
}

void sk_job_cancel(struct sk_job *j, uint32_t choice)
{
    assert_false(j->freed);
    j->cancelled |= choice == SK_WIRE_ALL ? UINT32_MAX : 1u << choice;
}

void sk_job_free(struct sk_job *j)
{
    assert_false(j->freed);
    j->freed = true;
}

void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret)
{
    *ret = (struct sk_engine_status){.state = pretend.engine};
    snprintf(ret->text, sizeof ret->text, "building 43 %%");
}

static void say(struct sk_job *j, struct sk_buf *b, size_t at)
{
    assert_int_equal(sk_wire_tokens_end(b, at, 1), 0);
    const struct sk_wire_entry *e = sk_wire_first((const struct sk_wire_tokens *)(const void *)b->p);
    const struct sk_job_event ev = {.choice = e->choice, .entry = e};
    if (!(j->cancelled >> e->choice & 1))
        j->req.cb(j->req.arg, j, &ev);
}

static void put_item(struct sk_buf *b, int32_t id, int32_t n_top, bool prompt)
{
    struct sk_wire_top top[20];
    for (int32_t k = 0; k < n_top; k++)
        top[k] = (struct sk_wire_top){.id = k ? 39 + k : id, .logprob = k ? -(float)k : -0.5f};
    const struct sk_wire_item it = {
        .id = id,
        .logprob = -0.5f,
        .rank = 1,
        .n_top = (uint16_t)(n_top > 0 ? n_top : 0),
        .flags = prompt ? SK_ITEM_PROMPT : 0,
    };
    sk_wire_tokens_item(b, &it, top);
}

void pretend_tokens(struct sk_job *j, uint32_t choice, const int32_t *ids, uint32_t n, enum sk_finish finish,
                    int32_t reason)
{
    const struct sk_wire_entry e = {.choice = choice, .n_item = n, .finish = finish, .reason = reason, .n_cached = 1};
    struct sk_buf *b = &pretend.frame;
    size_t at;
    sk_buf_clear(b);
    sk_wire_tokens_begin(b, &at, 1);
    sk_wire_tokens_entry(b, &e);
    for (uint32_t i = 0; i < n; i++)
        put_item(b, ids[i], j->params.n_logprobs, false);
    say(j, b, at);
}

void pretend_prompt(struct sk_job *j, uint32_t choice)
{
    const struct sk_wire_entry e = {.choice = choice, .n_item = j->req.n_prompt - 1};
    struct sk_buf *b = &pretend.frame;
    size_t at;
    sk_buf_clear(b);
    sk_wire_tokens_begin(b, &at, 1);
    sk_wire_tokens_entry(b, &e);
    for (uint32_t i = 1; i < j->req.n_prompt; i++)
        put_item(b, j->prompt[i], j->params.n_prompt_logprobs, true);
    say(j, b, at);
}

/* --- the template helper --- */

int sk_tmpl_render(struct sk_tmpl *t, const char *json, size_t n, sk_tmpl_cb *cb, void *arg, struct sk_err *err)
{
    snprintf(pretend.rendered, sizeof pretend.rendered, "%.*s", (int)n, json);
    pretend.render_cb = cb;
    pretend.render_arg = arg;
    return 7;
}

void sk_tmpl_cancel(struct sk_tmpl *t, int id)
{
    pretend.cancelled_render = id;
    pretend.render_cb = NULL;
}

void pretend_render(const char *text)
{
    sk_tmpl_cb *cb = pretend.render_cb;
    pretend.render_cb = NULL;
    cb(pretend.render_arg, 0, text, strlen(text), NULL);
}

/* --- the server --- */

struct sk_model *sk_server_model(struct sk_server *s, const char *name)
{
    return !name || !*name || strcmp(name, s->models[0].name) == 0 ? &s->models[0] : NULL;
}

void pretend_open(void)
{
    struct sk_err err;
    pretend = (struct pretend){.engine = SK_ENGINE_READY};
    struct sk_server *s = &pretend.server;
    struct sk_model *m = &s->models[0];
    sk_buf_init(&pretend.frame, 1 << 20);
    assert_int_equal(sk_buf_reserve(&pretend.frame, 1 << 16), 0);
    sk_conf_defaults(&pretend.conf);
    pretend.conf.generation_defaults = false;
    s->conf = &pretend.conf;
    s->n_model = 1;
    strcpy(m->name, "tiny");
    m->vocab = fixture_vocab();
    assert_int_equal(sk_token_new(m->vocab, &m->token, &err), 0);
    m->dir = (struct sk_dir){.bos = -1, .desc = {.n_vocab = N_VOCAB}, .digest = "abc"};
    m->engine = (struct sk_engine *)&pretend; /* opaque to all but the functions above */
    m->max_len = MAX_LEN;
    m->loaded = true;
    assert_int_equal(sk_api_open(s, &err), 0);
}

void pretend_close(void)
{
    struct sk_model *m = &pretend.server.models[0];
    if (pretend.server.api)
        sk_api_close(&pretend.server);
    for (uint32_t i = 0; i < pretend.n_job; i++)
        assert_true(pretend.jobs[i].freed);
    sk_token_free(m->token);
    sk_vocab_close(m->vocab);
    sk_buf_done(&pretend.frame);
}

void pretend_begin(struct sk_http_req *r, const char *method, const char *path)
{
    *r = (struct sk_http_req){.method = method, .path = path};
    sk_buf_init(&r->queue, 1 << 20);
    sk_buf_init(&r->reply, 1 << 20);
    assert_int_equal(sk_buf_reserve(&r->queue, 1 << 16), 0);
    assert_int_equal(sk_buf_reserve(&r->reply, 1 << 16), 0);
}

void pretend_post(struct sk_http_req *r, const char *path, const char *body)
{
    pretend_begin(r, "POST", path);
    r->body = body;
    sk_api_request(&pretend.server, r);
}

void pretend_end(struct sk_http_req *r)
{
    if (r->on_free)
        r->on_free(r->user);
    sk_buf_done(&r->queue);
    sk_buf_done(&r->reply);
}

void pretend_leave(struct sk_http_req *r)
{
    if (r->on_gone)
        r->on_gone(r->user);
    pretend_end(r);
}
