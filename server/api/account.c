#include "server/api/account.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/utf8.h"
#include "server/api/answer.h"
#include "server/api/gen.h"

static const char *const end_names[] = {
    [SK_END_DONE] = "done",     [SK_END_GONE] = "gone",   [SK_END_REFUSED] = "refused", [SK_END_DEADLINE] = "deadline",
    [SK_END_POISON] = "poison", [SK_END_ERROR] = "error", [SK_END_STOPPED] = "stopped",
};

/* --- trace --- */

static int is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n;
}

static int is_zero(const char *s, size_t n)
{
    return strspn(s, "0") >= n;
}

/* 00-TRACE[32]-PARENT[16]-FLAGS[2] */
int sk_account_trace(const char *header, char ret[SK_TRACE_DIGITS + 1])
{
    enum { PARENT_AT = 3 + SK_TRACE_DIGITS + 1, FLAGS_AT = PARENT_AT + 17, LEN = FLAGS_AT + 2 };
    if (!header || strlen(header) != LEN || strncmp(header, "00-", 3) != 0 || header[PARENT_AT - 1] != '-' ||
        header[FLAGS_AT - 1] != '-')
        return -SK_EINVAL;
    const char *trace = header + 3, *parent = header + PARENT_AT, *flags = header + FLAGS_AT;
    if (!is_hex(trace, SK_TRACE_DIGITS) || is_zero(trace, SK_TRACE_DIGITS) || !is_hex(parent, 16) ||
        is_zero(parent, 16) || !is_hex(flags, 2))
        return -SK_EINVAL;
    memcpy(ret, trace, SK_TRACE_DIGITS);
    ret[SK_TRACE_DIGITS] = '\0';
    return 0;
}

/* --- the end --- */

static void count(const struct sk_gen *g, enum sk_account_end end)
{
    struct sk_metrics *m = g->call.server->metrics;
    const char *key = g->call.tenant->name;
    sk_metric_add(m, SK_METRIC_REQUESTS, 1, end_names[end], NULL);
    sk_metric_add(m, SK_METRIC_KEY_REQUESTS, 1, key, end_names[end]);
    if (g->n_prompt_tok > 0)
        sk_metric_add(m, SK_METRIC_KEY_TOKENS, (double)g->n_prompt_tok, key, "prompt");
    if (g->n_answer > 0)
        sk_metric_add(m, SK_METRIC_KEY_TOKENS, (double)g->n_answer, key, "answer");
    if (end != SK_END_DONE)
        return;
    sk_metric_observe(m, SK_METRIC_E2E, (double)(sk_clock_us() - g->start_us) / 1e6);
    for (uint32_t i = 0; i < g->n_answers; i++) {
        const struct sk_answer *a = &g->answers[i];
        if (a->chosen || g->params.best_of == g->params.n)
            sk_metric_add(m, SK_METRIC_SUCCESS, 1, a->finish, NULL);
    }
}

static double ms_since(uint64_t from, uint64_t to)
{
    return (double)((to - from) / 1000);
}

static void log_end(const struct sk_gen *g, enum sk_account_end end, int status, int code)
{
    char trace[SK_TRACE_DIGITS + 1];
    int untraced = sk_account_trace(sk_http_header(g->call.req, "traceparent"), trace);
    struct sk_http_peer peer;
    struct sk_job_bill bill;
    const char *key = g->call.tenant->name;
    sk_http_peer(g->call.req, &peer);
    sk_gen_bill(g, &bill);
    const struct sk_log_field fields[] = {
        {.key = "id", .str = sk_http_id(g->call.req)},
        {.key = "trace", .str = untraced ? NULL : trace, .skip = untraced},
        {.key = "key", .str = key[0] ? key : NULL, .skip = !key[0]},
        {.key = "route", .str = g->kind == SK_API_CHAT ? "chat" : "completions"},
        {.key = "end", .str = end_names[end]},
        {.key = "status", .num = status},
        {.key = "error", .str = code ? sk_err_code(code) : NULL, .skip = !code},
        {.key = "prompt_tok", .num = (double)g->n_prompt_tok},
        {.key = "cached_tok", .num = (double)sk_gen_usage(g).n_cached},
        {.key = "answer_tok", .num = (double)g->n_answer},
        {.key = "choices", .num = g->n_answers},
        {.key = "queue_ms", .num = (double)(bill.queue_us / 1000)},
        {.key = "ttft_ms", .num = ms_since(g->start_us, g->first_us), .skip = g->first_us == 0},
        {.key = "ms", .num = ms_since(g->start_us, sk_clock_us())},
        {.key = "peer", .str = peer.addr},
    };
    sk_log_event(SK_LOG_INFO, "request", fields, sizeof fields / sizeof fields[0]);
}

void sk_account_end(const struct sk_gen *g, enum sk_account_end end, int status, int code)
{
    count(g, end);
    if (g->call.server->conf->access_log)
        log_end(g, end, status, code);
}

void sk_account_text(const struct sk_gen *g, const char *event, uint32_t index, const char *text, size_t n)
{
    char cut[SK_GEN_MAX_LOG_BYTES + 1];
    if (n > SK_GEN_MAX_LOG_BYTES)
        n = SK_GEN_MAX_LOG_BYTES - sk_utf8_partial(text, SK_GEN_MAX_LOG_BYTES);
    snprintf(cut, sizeof cut, "%.*s", (int)n, text);
    const struct sk_log_field fields[] = {
        {.key = "id", .str = sk_http_id(g->call.req)},
        {.key = "index", .num = index},
        {.key = "text", .str = cut},
    };
    sk_log_event(SK_LOG_INFO, event, fields, sizeof fields / sizeof fields[0]);
}
