#include "server/api/show.h"

#include "server/api/answer.h"
#include "server/api/gen.h"
#include "server/http/sse.h"

static struct sk_buf *scratch(const struct sk_gen *g)
{
    struct sk_api *api = g->call.server->api;
    return &api->event;
}

/* With the bill where it was asked for, in memory of the caller. */
static struct sk_reply_usage last_usage_of(const struct sk_gen *g, struct sk_job_bill *bill)
{
    struct sk_reply_usage u = sk_gen_usage(g);
    if (g->params.bill) {
        sk_gen_bill(g, bill);
        u.bill = bill;
    }
    return u;
}

/* Number `i` of g->answers, which the client knows as `index`. */
static void fill_choice(const struct sk_gen *g, uint32_t i, uint32_t index, struct sk_reply_choice *ret)
{
    struct sk_answer *a = &g->answers[i];
    const struct sk_gen_prompt *p = &g->prompts[i / g->params.best_of];
    *ret = (struct sk_reply_choice){
        .index = index,
        .text = a->text.p ? a->text.p : "",
        .n_text = a->text.n,
        .finish = a->finish,
        .stop_id = a->stop_id,
        .stop_str = a->stop_str,
        .tokens = &a->tokens,
        .offset = &a->offset,
        .prompt_tokens = g->params.n_prompt_top >= 0 ? &a->prompt_tokens : NULL,
        .prompt_ids = g->params.token_ids && !a->began ? p->ids : NULL,
        .n_prompt = p->n_id,
    };
}

/* --- a stream --- */

static void send_event(struct sk_gen *g, const struct sk_buf *text)
{
    struct sk_buf *queue = sk_http_queue(g->call.req);
    if (text->failed)
        queue->failed = text->failed; /* a stream with a hole in it must not look whole: the connection is cut */
    else
        sk_sse_event(queue, NULL, text->p, text->n);
    sk_http_wake(g->call.req);
}

static void send_chunk(struct sk_gen *g, const struct sk_reply_choice *c, const struct sk_reply_usage *usage)
{
    struct sk_buf *b = scratch(g);
    sk_buf_clear(b);
    sk_buf_add(b, g->opening, g->n_opening);
    if (c)
        sk_reply_choice(b, &g->reply, c);
    sk_reply_close(b, &g->reply, c, usage);
    send_event(g, b);
}

/* --log-prompts: the pieces of a stream make one line. */
static void keep_log(struct sk_answer *a)
{
    size_t room = a->log.max - a->log.n;
    sk_buf_add(&a->log, a->text.p, a->text.n < room ? a->text.n : room);
}

void sk_show_piece(struct sk_gen *g, uint32_t i)
{
    struct sk_answer *a = &g->answers[i];
    struct sk_reply_usage usage, *shown = NULL;
    struct sk_reply_choice piece;
    bool due = a->text.n > 0 && (a->n_shown == 0 || a->n_token - a->n_shown >= g->params.stream_interval);
    if (!due && !a->finish)
        return;
    if (g->params.continuous_usage) {
        usage = sk_gen_usage(g);
        shown = &usage;
    }
    if (!a->began && g->kind == SK_API_CHAT) {
        const struct sk_reply_choice role = {.index = i, .role = true, .stop_id = -1};
        send_chunk(g, &role, shown);
    }
    fill_choice(g, i, i, &piece);
    send_chunk(g, &piece, shown);
    if (g->log_text)
        keep_log(a);
    sk_answer_shown(a);
}

int sk_show_end(struct sk_gen *g)
{
    struct sk_buf *queue = sk_http_queue(g->call.req);
    if (g->params.include_usage) {
        struct sk_job_bill bill;
        const struct sk_reply_usage usage = last_usage_of(g, &bill);
        send_chunk(g, NULL, &usage);
    }
    sk_sse_done(queue);
    if (queue->failed) {
        sk_http_wake(g->call.req);
        return queue->failed;
    }
    sk_http_end(g->call.req);
    return 0;
}

void sk_show_error(struct sk_gen *g, const struct sk_err *err)
{
    struct sk_buf *b = scratch(g);
    sk_buf_clear(b);
    sk_reply_error(b, err);
    send_event(g, b);
    sk_sse_done(sk_http_queue(g->call.req));
    sk_http_end(g->call.req);
}

/* --- one body --- */

/* The choices of a prompt that are shown: all of them as they were numbered, or the best. */
static void put_choices(struct sk_gen *g, uint32_t prompt, struct sk_buf *b)
{
    const uint32_t n = g->params.n, n_all = g->params.best_of, first = prompt * n_all;
    for (uint32_t k = 0; k < n; k++) {
        struct sk_reply_choice c;
        uint32_t best = n_all > n ? sk_answer_best(&g->answers[first], n_all) : k;
        fill_choice(g, first + best, prompt * n + k, &c);
        sk_reply_choice(b, &g->reply, &c);
    }
}

int sk_show_whole(struct sk_gen *g, struct sk_buf *b)
{
    struct sk_reply_choice top;
    struct sk_job_bill bill;
    const struct sk_reply_usage usage = last_usage_of(g, &bill);
    sk_reply_open(b, &g->reply);
    for (uint32_t i = 0; i < g->n_prompt; i++)
        put_choices(g, i, b);
    fill_choice(g, 0, 0, &top); /* a chat has one prompt: its first choice speaks for it */
    sk_reply_close(b, &g->reply, &top, &usage);
    return b->failed;
}
