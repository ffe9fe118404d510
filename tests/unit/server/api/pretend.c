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
    const struct {
        const char *name, *value;
    } known[] = {{"traceparent", r->traceparent},
                 {"authorization", r->authorization},
                 {"x-api-key", r->x_api_key},
                 {"access-control-request-method", r->preflight}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcasecmp(name, known[i].name) == 0)
            return known[i].value;
    }
    return NULL;
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

void sk_http_peer(const struct sk_http_req *r, struct sk_http_peer *ret)
{
    *ret = (struct sk_http_peer){.is_unix = r->is_unix, .uid = r->uid, .addr = "192.0.2.1"};
}

uint32_t sk_http_connections(const struct sk_http *h)
{
    return 0;
}

void sk_http_set(struct sk_http_req *r, void *user, void (*on_gone)(void *user), void (*on_free)(void *user))
{
    r->user = user;
    r->on_gone = on_gone;
    r->on_free = on_free;
}

/* Those of a reply are borrowed for its call. */
static void keep_headers(struct sk_http_req *r, const struct sk_http_headers *h)
{
    snprintf(r->content_type, sizeof r->content_type, "%s", h && h->content_type ? h->content_type : "");
    for (uint32_t i = 0; h && i < h->n; i++) {
        if (!h->more[i].value)
            continue;
        snprintf(r->headers[r->n_header].name, sizeof r->headers[0].name, "%s", h->more[i].name);
        snprintf(r->headers[r->n_header++].value, sizeof r->headers[0].value, "%s", h->more[i].value);
    }
}

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    assert_int_equal(r->status, 0); /* exactly one answer */
    r->status = status;
    keep_headers(r, h);
    sk_buf_add(&r->reply, body, n);
}

void sk_http_stream(struct sk_http_req *r, int status, const struct sk_http_headers *h)
{
    assert_int_equal(r->status, 0);
    r->status = status;
    r->stream = true;
    keep_headers(r, h);
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

int sk_job_fits(const struct sk_engine *e, uint64_t n_seq, uint64_t n_tok, struct sk_err *err)
{
    assert_true(n_seq > 0 && n_tok > 0);
    return pretend.max_fit && n_seq > pretend.max_fit ? sk_err_set(err, SK_ERANGE, NULL, "too many sequences") : 0;
}

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

void sk_job_bill(const struct sk_job *j, struct sk_job_bill *ret)
{
    *ret = (struct sk_job_bill){.queue_us = 2000,
                                .prefill_us = 3000,
                                .decode_us = 4500,
                                .cpu_us = 1500,
                                .blk_us = 250000,
                                .n_preempt = 1,
                                .n_readmit = 2};
}

void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret)
{
    *ret = (struct sk_engine_status){
        .state = pretend.engine,
        .making_progress = !pretend.stuck,
        .pid = 4711,
        .hello = {.isa = "cpu/pretended", .block_tok = 8, .n_group = 1},
        .stats = {.blk_total = 100, .blk_free = 60, .blk_cached = 10},
    };
    snprintf(ret->text, sizeof ret->text, "building 43 %%");
}

void sk_engine_estimate(const struct sk_engine *e, const struct sk_tenant *t, uint32_t n_prompt, uint32_t n_answer,
                        struct sk_engine_estimate *ret)
{
    *ret = (struct sk_engine_estimate){
        .queue_us = 1000, .first_us = 1000 + 1000ull * n_prompt, .end_us = 1000 + 1000ull * (n_prompt + n_answer)};
}

void sk_engine_each(const struct sk_engine *e, void (*each)(void *arg, const struct sk_job_view *v), void *arg)
{
    for (uint32_t i = 0; i < pretend.n_job; i++) {
        const struct sk_job *j = &pretend.jobs[i];
        const struct sk_job_view v = {.id = j->req.id,
                                      .tenant = j->req.tenant->name,
                                      .wire = i + 1,
                                      .n_prompt = j->req.n_prompt,
                                      .max_tokens = j->params.max_tokens,
                                      .state = SK_JOB_SENT,
                                      .age_us = 1500000};
        if (!j->freed)
            each(arg, &v);
    }
}

int sk_engine_peek(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt,
                   void (*done)(void *arg, const struct sk_wire_view *v), void *arg)
{
    assert_null(pretend.peek_cb);
    if (pretend.peek_fails)
        return pretend.peek_fails;
    pretend.peek_cb = done;
    pretend.peek_arg = arg;
    pretend.peek_salt = salt;
    pretend.n_peek_tok = n_tok;
    return 0;
}

void sk_engine_unpeek(struct sk_engine *e, void *arg)
{
    if (pretend.peek_arg == arg)
        pretend.peek_cb = NULL;
}

const struct sk_wire_rank *sk_engine_ranks(const struct sk_engine *e, uint32_t i, uint32_t *ret_n)
{
    static const struct sk_wire_rank ranks[] = {
        {.pid = 4711, .host = "here", .n_layer = 2, .n_head = 5, .n_vocab = 60, .step = 7, .busy_us = 1500000},
        {.rank = 1, .tp_rank = 1, .pid = 4712, .host = "the\"re", .first_head = 5, .n_head = 4, .rss_bytes = 4096}};
    *ret_n = sizeof ranks / sizeof ranks[0];
    return ranks;
}

uint32_t sk_engine_n_replica(const struct sk_engine *e)
{
    return 2;
}

void sk_engine_replica(const struct sk_engine *e, uint32_t i, struct sk_replica_view *ret)
{
    *ret = (struct sk_replica_view){.is_drained = i == 1, .todo_tok = 70 + i, .n_routed = 5};
    sk_engine_status(e, &ret->status);
}

bool sk_engine_is_rolling(const struct sk_engine *e, const char **ret_why)
{
    *ret_why = "replica 0 could not be started";
    return false;
}

const char *sk_engine_dir(const struct sk_engine *e)
{
    return "/models/tiny";
}

int sk_engine_drain(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    pretend.drained = i;
    return i < 2 ? 0 : sk_err_set(err, SK_ERANGE, "replica", "there is none");
}

int sk_engine_restart(struct sk_engine *e, uint32_t i, struct sk_err *err)
{
    pretend.restarted = i;
    return i < 2 || i == SK_ENGINE_ALL ? 0 : sk_err_set(err, SK_ERANGE, "replica", "there is none");
}

int sk_engine_dump_flight(struct sk_engine *e, const char *why, char *ret_path, struct sk_err *err)
{
    if (pretend.flight_fails)
        return sk_err_set(err, -pretend.flight_fails, NULL, "nothing was recorded");
    strcpy(ret_path, "/flight/1.rec");
    return 0;
}

void pretend_view(uint32_t n_cached)
{
    void (*cb)(void *, const struct sk_wire_view *) = pretend.peek_cb;
    struct sk_wire_view_seq seqs[PRETEND_MAX_JOBS] = {0};
    const struct sk_wire_view v = {
        .n_seq = pretend.n_job, .n_cached = n_cached, .stats = {.blk_total = 100, .blk_free = 60, .blk_cached = 10}};
    struct sk_buf *b = &pretend.frame;
    assert_non_null(cb);
    for (uint32_t i = 0; i < pretend.n_job; i++) /* newest first: not in the order of their numbers */
        seqs[i] = (struct sk_wire_view_seq){
            .job = pretend.n_job - i, .state = SK_VIEW_RUNNING, .n_tok = 20 + pretend.n_job - i, .n_blk = 3};
    sk_buf_clear(b);
    assert_int_equal(sk_wire_put_view(b, &v, seqs), 0);
    pretend.peek_cb = NULL;
    cb(pretend.peek_arg, (const struct sk_wire_view *)(const void *)b->p);
}

static void say(struct sk_job *j, struct sk_buf *b, size_t at)
{
    assert_int_equal(sk_wire_tokens_end(b, at, 1, 0), 0);
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
        .logprob = pretend.logprob,
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

uint64_t sk_tmpl_restarts(const struct sk_tmpl *t)
{
    return 0;
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
    return !name || !*name || strcmp(name, s->models[0]->name) == 0 ? s->models[0] : NULL;
}

size_t sk_server_active(const struct sk_server *s)
{
    return 1;
}

void pretend_open(void)
{
    struct sk_err err;
    pretend = (struct pretend){.engine = SK_ENGINE_READY, .logprob = -0.5f};
    struct sk_server *s = &pretend.server;
    struct sk_model *m = &pretend.model;
    s->models[0] = m;
    sk_buf_init(&pretend.frame, 1 << 20);
    assert_int_equal(sk_buf_reserve(&pretend.frame, 1 << 16), 0);
    sk_conf_defaults(&pretend.conf);
    pretend.conf.generation_defaults = false;
    s->conf = &pretend.conf;
    s->n_model = 1;
    pretend.listener = (struct sk_listener){.server = s, .admin = true};
    assert_int_equal(sk_tenants_new(&s->tenants), 0);
    assert_int_equal(sk_metrics_new(&s->metrics), 0);
    strcpy(m->name, "tiny");
    m->vocab = fixture_vocab();
    assert_int_equal(sk_token_new(m->vocab, &m->token, &err), 0);
    m->dir = (struct sk_dir){.bos = -1, .desc = {.n_vocab = N_VOCAB}, .digest = "abc"};
    m->engine = (struct sk_engine *)&pretend; /* opaque to all but the functions above */
    s->engines[s->n_engine++] = m->engine;
    m->max_len = MAX_LEN;
    m->loaded = true;
    assert_int_equal(sk_api_open(s, &err), 0);
}

void pretend_close(void)
{
    struct sk_model *m = &pretend.model;
    if (pretend.server.api)
        sk_api_close(&pretend.server);
    for (uint32_t i = 0; i < pretend.n_job; i++)
        assert_true(pretend.jobs[i].freed);
    sk_token_free(m->token);
    sk_vocab_close(m->vocab);
    sk_buf_done(&pretend.frame);
    sk_tenants_free(pretend.server.tenants);
    sk_metrics_free(pretend.server.metrics);
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
    sk_api_request(&pretend.listener, r);
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

/* --- what tests look at --- */

int32_t pretend_id(const char *word)
{
    int id = sk_vocab_find(pretend.server.models[0]->vocab, word, strlen(word));
    assert_true(id >= 0);
    return id;
}

void pretend_has(const struct sk_buf *b, const char *text)
{
    if (!b->p || !strstr(b->p, text))
        fail_msg("`%s` is not in: %s", text, b->p ? b->p : "(nothing)");
}

const char *pretend_header(const struct sk_http_req *r, const char *name)
{
    for (uint32_t i = 0; i < r->n_header; i++) {
        if (strcasecmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    }
    return NULL;
}

int pretend_set_up(void **state)
{
    pretend_open();
    return 0;
}

int pretend_tear_down(void **state)
{
    pretend_close();
    return 0;
}

void pretend_short_of_memory(const char *method, const char *path, const char *body, uint64_t max)
{
    int status = 0;
    for (uint64_t n = 1; status != 200; n++) {
        struct sk_http_req r;
        assert_true(n < max);
        pretend_begin(&r, method, path);
        if (body)
            r.body = body;
        sk_mem_fail_at(n, 0);
        sk_api_request(&pretend.listener, &r);
        if (pretend.peek_cb)
            pretend_view(0);
        sk_mem_fail_at(0, 0);
        status = r.status;
        assert_true(status == 200 || status == 500);
        pretend_end(&r);
    }
}
