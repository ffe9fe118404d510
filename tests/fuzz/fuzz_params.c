/* Any JSON as the body of both endpoints: what the API accepts, the wire accepts, and the messages that it passes on
 * are JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/json.h"
#include "engine/build/tok.h"
#include "server/api/messages.h"
#include "server/api/params.h"

enum { MAX_BYTES = 1 << 20, N_VOCAB = 320, MAX_LEN = 4096, N_PROMPT = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct sk_token *open_token(void)
{
    const char *root = getenv("SK_SRCDIR");
    struct sk_tok_info info;
    struct sk_vocab *v;
    struct sk_token *t;
    struct sk_err err;
    char dir[2048], path[] = "/tmp/sk-fuzz-XXXXXX";
    int fd = mkstemp(path);
    sk_assert(fd >= 0);
    close(fd);
    snprintf(dir, sizeof dir, "%s/tests/golden/tiny/llama", root ? root : ".");
    sk_assert(sk_tok_from_hf(dir, N_VOCAB, path, &info, &err) == 0);
    sk_assert(sk_vocab_open(path, &v, &err) == 0);
    sk_assert(sk_token_new(v, &t, &err) == 0);
    unlink(path);
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    return t;
}

static void try_params(enum sk_api_kind kind, const struct cJSON *body, const struct sk_api_rules *rules)
{
    struct sk_api_params p;
    struct sk_params w;
    struct sk_arena arena;
    struct sk_err err = {0};
    sk_arena_init(&arena, 4 * MAX_BYTES);
    int rc = sk_api_params_parse(kind, body, rules, &arena, &p, &err);
    if (rc == 0)
        rc = sk_api_params_fit(&p, kind, rules, N_PROMPT, &w, &err);
    if (rc == 0) {
        sk_assert(sk_params_check(&w, p.list, sk_params_list_len(&w), N_VOCAB) == 0);
        sk_assert(w.max_tokens + N_PROMPT <= MAX_LEN && w.min_tokens <= w.max_tokens);
        sk_assert(p.n >= 1 && p.n <= p.best_of && p.best_of <= (uint32_t)rules->conf->max_choices);
        sk_assert(p.best_of == p.n || (kind == SK_API_COMPLETION && !p.stream && w.n_logprobs >= 0));
        for (uint32_t i = 0; i < p.stop.n; i++)
            sk_assert(p.stop.len[i] >= 1 && strlen(p.stop.str[i]) == p.stop.len[i]);
    } else {
        sk_assert(err.code == -rc && err.msg[0]);
    }
    sk_arena_done(&arena);
}

static void try_messages(const struct cJSON *body)
{
    struct sk_buf b;
    struct cJSON *again = NULL;
    struct sk_err err = {0};
    sk_buf_init(&b, 8 * MAX_BYTES);
    int rc = sk_messages_put(body, &b, &err);
    if (rc == 0) {
        int parsed = sk_json_parse(b.p, b.n, 8 * MAX_BYTES, &again, &err);
        sk_assert(parsed == 0 || parsed == -SK_EJSON); /* one level deeper than the body: the only reason */
        sk_json_free(again);
    } else {
        sk_assert(err.code == -rc && err.msg[0]);
    }
    sk_buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct sk_token *token;
    static struct sk_conf conf;
    struct cJSON *body = NULL;
    struct sk_err err;
    if (!token) {
        token = open_token();
        sk_conf_defaults(&conf);
    }
    if (sk_json_parse((const char *)data, n, MAX_BYTES, &body, &err) != 0)
        return 0;
    const struct sk_api_rules rules = {.conf = &conf, .token = token, .n_vocab = N_VOCAB, .max_len = MAX_LEN};
    try_params(SK_API_COMPLETION, body, &rules);
    try_params(SK_API_CHAT, body, &rules);
    try_messages(body);
    sk_json_free(body);
    return 0;
}
