#include "server/api/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/http/http.h"
#include "server/job/job.h"

enum { DEFAULT_RETRY_MS = 1000 }; /* where nobody knows better */

static void put_str(struct sk_buf *b, const char *s)
{
    sk_json_quote(b, s, strlen(s));
}

void sk_reply_open(struct sk_buf *b, const struct sk_reply *r)
{
    static const char *const objects[2][2] = {{"text_completion", "text_completion"},
                                              {"chat.completion", "chat.completion.chunk"}};
    sk_buf_str(b, "{\"id\":");
    put_str(b, r->id);
    sk_buf_fmt(b, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", objects[r->chat][r->stream], r->created);
    put_str(b, r->model);
    sk_buf_str(b, ",\"system_fingerprint\":");
    put_str(b, r->fingerprint);
    sk_buf_str(b, ",\"choices\":[");
}

static void put_content(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *c)
{
    if (!r->chat) {
        sk_buf_str(b, ",\"text\":");
        sk_json_quote(b, c->text, c->n_text);
    } else if (!r->stream) {
        sk_buf_str(b, ",\"message\":{\"role\":\"assistant\",\"content\":");
        sk_json_quote(b, c->text, c->n_text);
        sk_buf_str(b, ",\"refusal\":null}");
    } else if (c->role) {
        sk_buf_str(b, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else if (c->n_text == 0) {
        sk_buf_str(b, ",\"delta\":{}");
    } else {
        sk_buf_str(b, ",\"delta\":{\"content\":");
        sk_json_quote(b, c->text, c->n_text);
        sk_buf_char(b, '}');
    }
}

static void put_prompt(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *c)
{
    if (c->prompt_tokens) {
        sk_buf_str(b, ",\"prompt_logprobs\":");
        sk_logprobs_put_prompt(b, c->prompt_tokens, &r->prompt_style);
    }
    if (c->prompt_ids) {
        sk_buf_str(b, ",\"prompt_token_ids\":[");
        for (size_t i = 0; i < c->n_prompt; i++) {
            sk_buf_str(b, i ? "," : "");
            sk_buf_int(b, c->prompt_ids[i]);
        }
        sk_buf_char(b, ']');
    }
}

static void put_finish(struct sk_buf *b, const struct sk_reply_choice *c)
{
    if (!c->finish) {
        sk_buf_str(b, ",\"finish_reason\":null");
        return;
    }
    sk_buf_fmt(b, ",\"finish_reason\":\"%s\",\"stop_reason\":", c->finish);
    if (c->stop_str)
        put_str(b, c->stop_str);
    else if (c->stop_id >= 0)
        sk_buf_int(b, c->stop_id);
    else
        sk_buf_str(b, "null");
}

void sk_reply_choice(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *c)
{
    if (b->n > 0 && b->p[b->n - 1] == '}')
        sk_buf_char(b, ',');
    sk_buf_str(b, "{\"index\":");
    sk_buf_int(b, c->index);
    put_content(b, r, c);
    sk_buf_str(b, ",\"logprobs\":");
    if (!r->logprobs || !c->tokens || c->role)
        sk_buf_str(b, "null");
    else if (r->chat)
        sk_logprobs_put_chat(b, c->tokens, &r->style);
    else
        sk_logprobs_put_legacy(b, c->tokens, &r->style, c->offset);
    put_finish(b, c);
    if (r->token_ids && c->tokens && !c->role) {
        sk_buf_str(b, ",\"token_ids\":");
        sk_logprobs_put_ids(b, c->tokens);
    }
    if (!r->chat)
        put_prompt(b, r, c);
    sk_buf_char(b, '}');
}

static void put_bill(struct sk_buf *b, const struct sk_job_bill *bill)
{
    sk_buf_fmt(b,
               ",\"bill\":{\"queue_ms\":%.3f,\"prefill_ms\":%.3f,\"decode_ms\":%.3f,\"cpu_ms\":%.3f,"
               "\"kv_block_seconds\":%.6f,\"preemptions\":%" PRIu32 ",\"readmissions\":%" PRIu32 "}",
               (double)bill->queue_us / 1e3, (double)bill->prefill_us / 1e3, (double)bill->decode_us / 1e3,
               (double)bill->cpu_us / 1e3, (double)bill->blk_us / 1e6, bill->n_preempt, bill->n_readmit);
}

static void put_usage(struct sk_buf *b, const struct sk_reply_usage *u)
{
    sk_buf_fmt(b,
               ",\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64
               ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64,
               u->n_prompt, u->n_answer, u->n_prompt + u->n_answer, u->n_cached);
    if (u->n_cut)
        sk_buf_fmt(b, ",\"truncated_tokens\":%" PRIu64, u->n_cut);
    sk_buf_str(b, "},\"completion_tokens_details\":{\"reasoning_tokens\":0}");
    if (u->bill)
        put_bill(b, u->bill);
    sk_buf_char(b, '}');
}

void sk_reply_close(struct sk_buf *b, const struct sk_reply *r, const struct sk_reply_choice *top,
                    const struct sk_reply_usage *usage)
{
    sk_buf_char(b, ']');
    if (r->chat && top)
        put_prompt(b, r, top);
    if (usage)
        put_usage(b, usage);
    else if (r->usage)
        sk_buf_str(b, ",\"usage\":null");
    sk_buf_char(b, '}');
}

void sk_reply_error(struct sk_buf *b, const struct sk_err *err)
{
    sk_buf_str(b, "{\"error\":{\"message\":");
    put_str(b, err->msg[0] ? err->msg : sk_err_text(err->code));
    sk_buf_str(b, ",\"type\":");
    put_str(b, sk_err_type(err->code));
    sk_buf_str(b, ",\"param\":");
    if (err->param[0])
        put_str(b, err->param);
    else
        sk_buf_str(b, "null");
    sk_buf_str(b, ",\"code\":");
    put_str(b, sk_err_code(err->code));
    sk_buf_str(b, "}}");
}

void sk_reply_send_error(struct sk_http_req *r, const struct sk_err *err)
{
    const int status = sk_err_http(err->code), retry = sk_err_retry(err->code);
    const bool later = retry && (err->retry_ms || status == 429 || status == 503);
    const uint32_t ms = err->retry_ms ? err->retry_ms : DEFAULT_RETRY_MS;
    char seconds[16], millis[16];
    snprintf(seconds, sizeof seconds, "%" PRIu32, ms / 1000 + (ms % 1000 != 0));
    snprintf(millis, sizeof millis, "%" PRIu32, ms);
    const struct sk_http_headers h = {.n = 4,
                                      .more = {{"x-should-retry", retry ? "true" : "false"},
                                               {"Retry-After", later ? seconds : NULL},
                                               {"retry-after-ms", later ? millis : NULL},
                                               {"WWW-Authenticate", status == 401 ? "Bearer" : NULL}}};
    struct sk_buf b;
    sk_buf_init(&b, 16 << 10);
    sk_reply_error(&b, err);
    sk_http_reply(r, status, &h, b.failed ? "" : b.p, b.failed ? 0 : b.n);
    sk_buf_done(&b);
}

void sk_reply_send(struct sk_http_req *r, int status, struct sk_buf *b)
{
    if (b->failed) {
        struct sk_err err;
        sk_err_set(&err, b->failed == -SK_ETOOBIG ? SK_EINTERNAL : SK_ENOMEM, NULL,
                   b->failed == -SK_ETOOBIG ? "The answer is too large." : "Out of memory.");
        sk_reply_send_error(r, &err);
    } else {
        sk_http_reply(r, status, NULL, b->p, b->n);
    }
    sk_buf_done(b);
}
