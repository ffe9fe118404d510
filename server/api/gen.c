#include "server/api/gen.h"

#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/json.h"
#include "server/api/account.h"
#include "server/api/answer.h"
#include "server/api/show.h"

enum { ARENA_SPARE_BYTES = 4 << 20 /* beyond what came in the body */ };

static struct sk_api *api_of(const struct sk_gen *g)
{
    return g->call.server->api;
}

static int no_memory(struct sk_err *err)
{
    return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
}

/* --- the end --- */

/* The one way to OVER. */
static void end(struct sk_gen *g, enum sk_account_end how, int status, int code)
{
    sk_assert(g->state != SK_GEN_OVER);
    g->state = SK_GEN_OVER;
    if (g->entered)
        sk_tenant_leave(g->call.tenant);
    if (!g->call.explain)
        sk_account_end(g, how, status, code);
}

/* Jobs are given back from outside of their callbacks only: until then they are cancelled. */
static void stop_work(struct sk_gen *g)
{
    if (g->call.explain)
        sk_explain_stop(g);
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        if (g->prompts[i].job)
            sk_job_cancel(g->prompts[i].job, SK_WIRE_ALL);
    }
    if (g->render >= 0)
        sk_tmpl_cancel(g->tmpl, g->render);
    g->render = -1;
}

static void free_jobs(struct sk_gen *g)
{
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        if (g->prompts[i].job)
            sk_job_free(g->prompts[i].job);
        g->prompts[i].job = NULL;
    }
}

static void fail(struct sk_gen *g, enum sk_account_end how, const struct sk_err *err)
{
    bool streaming = g->state == SK_GEN_RUNNING && g->params.stream;
    stop_work(g);
    end(g, how, streaming ? 200 : sk_err_http(err->code), err->code);
    if (!streaming) {
        sk_reply_send_error(g->call.req, err);
        return;
    }
    sk_show_error(g, err);
}

static enum sk_account_end end_of(const struct sk_gen *g, int code)
{
    int status = sk_err_http(code);
    if (code == SK_EDEADLINE)
        return SK_END_DEADLINE;
    if (code == SK_EPOISON)
        return SK_END_POISON;
    return status < 500 || (status == 503 && g->state == SK_GEN_PREPARING) ? SK_END_REFUSED : SK_END_ERROR;
}

void sk_gen_fail(struct sk_gen *g, const struct sk_err *err)
{
    if (g->state != SK_GEN_OVER)
        fail(g, end_of(g, err->code), err);
}

void sk_gen_explained(struct sk_gen *g)
{
    end(g, SK_END_DONE, 200, 0);
}

static void on_gone(void *user)
{
    struct sk_gen *g = user;
    if (g->state == SK_GEN_OVER)
        return;
    stop_work(g);
    end(g, SK_END_GONE, sk_err_http(SK_ECANCEL), 0);
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
    if (g->call.server)
        unlink_gen(g);
    for (uint32_t i = 0; i < g->n_answers; i++)
        sk_answer_done(&g->answers[i]);
    for (uint32_t i = 0; i < g->n_prompt; i++)
        sk_free(g->prompts[i].ids);
    sk_free(g->answers);
    if (g->model)
        g->model->n_user--;
    sk_arena_done(&g->arena);
    sk_free(g);
}

void sk_gen_detach(struct sk_gen *g)
{
    struct sk_err err;
    sk_err_set(&err, SK_EUNAVAIL, NULL, "The server is stopping.");
    if (g->state != SK_GEN_OVER)
        fail(g, SK_END_STOPPED, &err);
    free_jobs(g);
    unlink_gen(g);
    g->call.server = NULL;
}

/* --- the beginning --- */

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

/* What the bits of an answer depend on, but for the seed: on another grid of ranks sums are added up in another order.
 */
static const char *make_fingerprint(struct sk_gen *g)
{
    struct sk_engine_status st;
    char s[32];
    sk_engine_status(g->model->engine, &st);
    bool is_one = st.hello.n_tp * st.hello.n_pp <= 1;
    snprintf(s, sizeof s, "-tp%u-pp%u", st.hello.n_tp, st.hello.n_pp);
    const char *digest = arena_join(&g->arena, g->model->dir.digest, is_one ? "" : s);
    return digest ? arena_join(&g->arena, "skein-" SK_VERSION "-", digest) : NULL;
}

static int fill_reply(struct sk_gen *g, struct sk_err *err)
{
    const struct sk_api_params *p = &g->params;
    const char *id = p->request_id ? p->request_id : sk_http_id(g->call.req);
    g->reply = (struct sk_reply){
        .chat = g->kind == SK_API_CHAT,
        .stream = p->stream,
        .id = arena_join(&g->arena, g->kind == SK_API_CHAT ? "chatcmpl-" : "cmpl-", id),
        .model = g->model->name,
        .fingerprint = make_fingerprint(g),
        .created = sk_clock_unix(),
        .logprobs = p->n_top >= 0,
        .token_ids = p->token_ids,
        .usage = p->include_usage,
        .style = {.vocab = g->model->vocab, .n_top = p->n_top, .as_ids = p->tokens_as_ids},
        .prompt_style = {.vocab = g->model->vocab, .n_top = p->n_prompt_top},
    };
    return g->reply.id && g->reply.fingerprint ? 0 : no_memory(err);
}

static int fill_opening(struct sk_gen *g, struct sk_err *err)
{
    struct sk_buf *b = &api_of(g)->event;
    sk_buf_clear(b);
    sk_reply_open(b, &g->reply);
    g->n_opening = b->n;
    g->opening = b->failed ? NULL : sk_arena_strndup(&g->arena, b->p, b->n);
    return g->opening ? 0 : no_memory(err);
}

static int read_body(struct sk_gen *g, struct cJSON **ret_body, struct sk_err *err)
{
    const struct sk_conf *conf = g->call.server->conf;
    int rc = sk_api_body(g->call.server, g->call.req, ret_body, &g->model, err);
    if (rc != 0)
        return rc;
    g->model->n_user++;
    if (g->call.explain) /* one route for both */
        g->kind = sk_json_get(*ret_body, "messages") ? SK_API_CHAT : SK_API_COMPLETION;
    g->rules = (struct sk_api_rules){
        .conf = conf,
        .gen = conf->generation_defaults ? &g->model->dir.gen : NULL,
        .token = g->model->token,
        .n_vocab = g->model->dir.desc.n_vocab,
        .max_len = g->model->max_len,
        .salt = g->call.tenant->salt,
    };
    rc = sk_api_params_parse(g->kind, *ret_body, &g->rules, &g->arena, &g->params, err);
    if (rc == 0)
        rc = fill_reply(g, err);
    return rc == 0 && g->params.stream ? fill_opening(g, err) : rc;
}

static int enter(struct sk_gen *g, struct sk_err *err)
{
    int rc = g->call.explain ? 0 : sk_tenant_enter(g->call.tenant, err);
    g->entered = rc == 0 && !g->call.explain;
    return rc;
}

static void tie(struct sk_gen *g)
{
    struct sk_api *api = api_of(g);
    g->next = api->gens;
    if (g->next)
        g->next->prev = g;
    api->gens = g;
    sk_http_set(g->call.req, g, on_gone, on_free);
}

void sk_gen_run(const struct sk_call *c, enum sk_api_kind kind, sk_gen_take *take)
{
    const struct sk_gen fresh = {.call = *c, .kind = kind, .render = -1, .start_us = sk_clock_us()};
    struct cJSON *body = NULL;
    struct sk_err err = {0};
    struct sk_gen *g = sk_malloc(sizeof *g);
    if (!g) {
        struct sk_gen none = fresh;
        no_memory(&err);
        sk_gen_fail(&none, &err);
        return;
    }
    *g = fresh;
    g->log_text = c->server->conf->log_prompts && !c->explain;
    sk_arena_init(&g->arena, 2 * (size_t)c->server->conf->max_body + ARENA_SPARE_BYTES);
    tie(g);
    int rc = enter(g, &err);
    if (rc == 0)
        rc = read_body(g, &body, &err);
    if (rc == 0)
        rc = take(g, body, &err);
    sk_json_free(body);
    if (rc != 0)
        sk_gen_fail(g, &err);
}

/* --- prompts --- */

int sk_gen_prompts(struct sk_gen *g, uint32_t n, struct sk_err *err)
{
    g->prompts = sk_arena_alloc(&g->arena, n * sizeof *g->prompts);
    if (!g->prompts)
        return no_memory(err);
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
    if (rc == 0 && (g->call.explain || g->params.echo)) {
        p->text = sk_arena_strndup(&g->arena, text, n);
        p->n_text = n;
        rc = p->text ? 0 : no_memory(err);
    }
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
    p->n_cut = p->n_id - n;
    p->n_id = n;
    p->text = NULL; /* no longer what the tokens say */
    p->echo_hides_first = false;
}

/* --- answers --- */

/* A buffer of the answer has failed so. */
static void fail_buf(struct sk_gen *g, int rc)
{
    struct sk_err err;
    if (rc == -SK_ENOMEM)
        no_memory(&err);
    else
        sk_err_set(&err, SK_EINTERNAL, NULL, "The answer is too large to be kept.");
    sk_gen_fail(g, &err);
}

void sk_gen_bill(const struct sk_gen *g, struct sk_job_bill *ret)
{
    struct sk_job_bill all = {0}, one;
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        if (!g->prompts[i].job)
            continue;
        sk_job_bill(g->prompts[i].job, &one);
        all.queue_us += one.queue_us;
        all.prefill_us += one.prefill_us;
        all.decode_us += one.decode_us;
        all.cpu_us += one.cpu_us;
        all.blk_us += one.blk_us;
        all.n_preempt += one.n_preempt;
        all.n_readmit += one.n_readmit;
    }
    *ret = all;
}

struct sk_reply_usage sk_gen_usage(const struct sk_gen *g)
{
    struct sk_reply_usage u = {.n_prompt = g->n_prompt_tok, .n_answer = g->n_answer};
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        u.n_cached += g->prompts[i].n_cached;
        u.n_cut += g->prompts[i].n_cut;
    }
    return u;
}

static void log_answers(const struct sk_gen *g)
{
    for (uint32_t i = 0; i < g->n_answers; i++) {
        const struct sk_buf *b = g->params.stream ? &g->answers[i].log : &g->answers[i].text;
        sk_account_text(g, "answer", i, b->p ? b->p : "", b->n);
    }
}

static void finish(struct sk_gen *g)
{
    struct sk_buf whole;
    sk_buf_init(&whole, SK_REPLY_MAX_BYTES);
    if (g->log_text)
        log_answers(g);
    int rc = g->params.stream ? sk_show_end(g) : sk_show_whole(g, &whole);
    if (rc == 0) {
        end(g, SK_END_DONE, 200, 0);
        if (!g->params.stream)
            sk_reply_send(g->call.req, 200, &whole);
    } else if (!g->params.stream) {
        fail_buf(g, rc);
    } /* else it did not read, is cut off, and then it is gone */
    sk_buf_done(&whole);
}

/* --- tokens --- */

static void measure(struct sk_gen *g, struct sk_answer *a, uint32_t n_token)
{
    struct sk_metrics *m = g->call.server->metrics;
    uint64_t now = sk_clock_us();
    if (g->first_us == 0 && (n_token > 0 || a->finish)) {
        g->first_us = now;
        sk_metric_observe(m, SK_METRIC_TTFT, (double)(now - g->start_us) / 1e6);
    }
    for (; n_token > 0; n_token--) {
        if (a->last_us)
            sk_metric_observe(m, SK_METRIC_ITL, (double)(now - a->last_us) / 1e6);
        a->last_us = now;
    }
}

/* The engine, or the queue before it, has given up. */
static void give_up(struct sk_gen *g, const struct sk_wire_entry *e)
{
    bool known = e->finish == SK_FINISH_ERROR && e->reason > 0 && e->reason < SK_E_COUNT;
    int code = known ? e->reason : SK_EINTERNAL;
    uint64_t ms = (sk_clock_us() - g->start_us) / 1000;
    struct sk_err err;
    if (code != SK_EDEADLINE)
        sk_err_set(&err, code, NULL, "The engine gave the request up: %s.", sk_err_text(code));
    else if (g->params.ttft_ms && g->first_us == 0 && ms >= g->params.ttft_ms)
        sk_err_set(&err, code, "ttft_ms", "There was no token after %u ms.", g->params.ttft_ms);
    else if (g->params.deadline_ms && ms >= g->params.deadline_ms)
        sk_err_set(&err, code, "deadline_ms", "The answer was not complete after %u ms.", g->params.deadline_ms);
    else
        sk_err_set(&err, code, NULL, "The request waited for too long.");
    sk_gen_fail(g, &err);
}

static void on_event(void *arg, struct sk_job *job, const struct sk_job_event *ev)
{
    struct sk_gen_prompt *p = arg;
    struct sk_gen *g = p->gen;
    const struct sk_wire_entry *e = ev->entry;
    uint32_t i = (uint32_t)(p - g->prompts) * g->params.best_of + ev->choice, n_new = 0;
    struct sk_answer *a = &g->answers[i];
    if (g->state != SK_GEN_RUNNING || a->finish)
        return;
    if (e->finish == SK_FINISH_ERROR || e->finish == SK_FINISH_CANCEL) {
        give_up(g, e);
        return;
    }
    if (ev->choice == 0 && e->n_cached > p->n_cached)
        p->n_cached = e->n_cached;
    int rc = sk_answer_take(a, &g->params, e, &n_new);
    g->n_answer += n_new;
    sk_tenant_spend(g->call.tenant, 0, n_new);
    if (rc < 0) {
        fail_buf(g, rc);
        return;
    }
    measure(g, a, n_new);
    if (a->stop_str) /* the engine does not know */
        sk_job_cancel(job, ev->choice);
    if (g->params.stream)
        sk_show_piece(g, i);
    g->n_open -= a->finish != NULL;
    if (g->n_open == 0)
        finish(g);
}

/* --- start --- */

static int submit(struct sk_gen *g, struct sk_gen_prompt *p, const struct sk_params *params, struct sk_err *err)
{
    const struct sk_job_req req = {
        .prompt = p->ids,
        .n_prompt = (uint32_t)p->n_id,
        .n_choice = g->params.best_of,
        .params = params,
        .list = g->params.list,
        .tenant = g->call.tenant,
        .id = sk_http_id(g->call.req),
        .first_us = g->params.ttft_ms ? g->start_us + 1000 * (uint64_t)g->params.ttft_ms : 0,
        .end_us = g->params.deadline_ms ? g->start_us + 1000 * (uint64_t)g->params.deadline_ms : 0,
        .cb = on_event,
        .arg = p,
    };
    int rc = sk_job_submit(g->model->engine, &req, &p->job, err);
    if (rc == 0)
        g->n_prompt_tok += p->n_id;
    return rc;
}

static void log_prompt(const struct sk_gen *g, const struct sk_gen_prompt *p)
{
    size_t n = p->n_id < SK_GEN_MAX_LOG_BYTES ? p->n_id : SK_GEN_MAX_LOG_BYTES;
    struct sk_buf b;
    struct sk_err err;
    sk_buf_init(&b, SK_GEN_MAX_LOG_BYTES * (n + 1));
    if (sk_token_decode(g->model->vocab, p->ids, n, false, &b, &err) == 0)
        sk_account_text(g, "prompt", (uint32_t)(p - g->prompts), b.p ? b.p : "", b.n);
    sk_buf_done(&b);
}

/* All jobs are on their way: what only their submission needed goes. */
static void run(struct sk_gen *g)
{
    g->state = SK_GEN_RUNNING;
    sk_tenant_spend(g->call.tenant, g->n_prompt_tok, 0);
    for (uint32_t i = 0; i < g->n_prompt; i++) {
        struct sk_gen_prompt *p = &g->prompts[i];
        if (g->log_text)
            log_prompt(g, p);
        if (!g->params.token_ids) {
            sk_free(p->ids);
            p->ids = NULL;
        }
    }
    if (g->params.stream) {
        const struct sk_http_headers h = {.content_type = "text/event-stream"};
        sk_http_stream(g->call.req, 200, &h);
    }
}

int sk_gen_start(struct sk_gen *g, struct sk_err *err)
{
    const struct sk_api_params *a = &g->params;
    if (g->call.explain)
        return sk_explain_start(g, err);
    struct sk_params *params = sk_arena_alloc(&g->arena, g->n_prompt * sizeof *params);
    g->answers = sk_calloc((size_t)g->n_prompt * a->best_of, sizeof *g->answers);
    if (!g->answers || !params)
        return no_memory(err);
    uint64_t n_tok = 0;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < g->n_prompt; i++) {
        struct sk_gen_prompt *p = &g->prompts[i];
        truncate_prompt(g, p);
        n_tok += p->n_id;
        if (p->n_id == 0)
            rc = sk_err_set(err, SK_EINVAL, what_of(g), "The prompt has no tokens.");
        else
            rc = sk_api_params_fit(a, g->kind, &g->rules, p->n_id, &params[i], err);
        for (uint32_t k = 0; rc == 0 && k < a->best_of; k++)
            rc = sk_answer_init(&g->answers[g->n_answers++], a, g->model->vocab, p, err);
    }
    g->n_open = g->n_answers;
    if (rc == 0)
        rc = sk_job_fits(g->model->engine, g->n_answers, n_tok, err); /* none is sent where the last is refused */
    for (uint32_t i = 0; rc == 0 && i < g->n_prompt; i++)
        rc = submit(g, &g->prompts[i], &params[i], err);
    if (rc == 0)
        run(g);
    return rc;
}
