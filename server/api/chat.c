/* POST /v1/chat/completions: messages -> template (rendered off the loop) -> tokens. */
#include <string.h>
#include "comm/base/json.h"
#include "server/api/gen.h"
#include "server/api/messages.h"

static bool is_given(const struct cJSON *body, const char *key)
{
    const struct cJSON *v = sk_json_get(body, key);
    return v && sk_json_type(v) != SK_JSON_NULL;
}

/* What would make the answer another one than text. */
static int refuse_other_answers(const struct cJSON *body, struct sk_err *err)
{
    static const char *const keys[] = {"functions", "function_call", "audio", "web_search_options"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (is_given(body, keys[i]))
            return sk_err_set(err, SK_EUNSUP, keys[i], "%s is not supported by this server.", keys[i]);
    }
    for (const struct cJSON *v = sk_json_first(sk_json_get(body, "modalities")); v; v = sk_json_next(v)) {
        const char *modality = sk_json_str(v);
        if (!modality || strcmp(modality, "text") != 0)
            return sk_err_set(err, SK_EUNSUP, "modalities", "modalities may only be `text` on this server.");
    }
    bool echo = false;
    int rc = sk_json_get_bool(body, "echo", &echo, err);
    if (rc == 0 && echo)
        rc = sk_err_set(err, SK_EUNSUP, "echo", "echo is not supported in chat completions by this server.");
    return rc;
}

/* Tools may be shown to the model, as long as no call is expected of it. */
static int check_tool_choice(const struct cJSON *body, struct sk_err *err)
{
    const char *choice = sk_json_str(sk_json_get(body, "tool_choice"));
    bool none = choice && strcmp(choice, "none") == 0;
    if (is_given(body, "tool_choice") && !none && !is_given(body, "tools"))
        return sk_err_set(err, SK_EINVAL, "tool_choice", "tool_choice needs `tools`.");
    if (is_given(body, "tools") && !none)
        return sk_err_set(err, SK_EUNSUP, "tools",
                          "Calling tools is not supported by this server yet: tools need `tool_choice: \"none\"`.");
    return 0;
}

static void on_rendered(void *arg, int rc, const char *text, size_t n, const struct sk_err *why)
{
    struct sk_gen *g = arg;
    struct sk_err err = {0};
    if (rc != 0)
        err = *why;
    g->render = -1;
    if (rc == 0)
        rc = sk_gen_prompts(g, 1, &err);
    if (rc == 0)
        rc = sk_gen_encode(g, 0, text, n, &err);
    if (rc == 0)
        rc = sk_gen_start(g, &err);
    if (rc != 0)
        sk_gen_fail(g, &err);
}

static int render(struct sk_gen *g, const struct cJSON *body, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, 8 * (size_t)g->rules.conf->max_body);
    int rc = sk_messages_put(body, &b, err);
    if (rc == 0) {
        g->tmpl = sk_messages_tmpl(g->model, body);
        rc = sk_tmpl_render(g->tmpl, b.p, b.n, on_rendered, g, err);
    }
    if (rc >= 0)
        g->render = rc;
    sk_buf_done(&b);
    return rc < 0 ? rc : 0;
}

int sk_gen_take_chat(struct sk_gen *g, const struct cJSON *body, struct sk_err *err)
{
    int rc = refuse_other_answers(body, err);
    if (rc == 0)
        rc = check_tool_choice(body, err);
    return rc == 0 ? render(g, body, err) : rc;
}

void sk_api_chat(const struct sk_call *c)
{
    sk_gen_run(c, SK_API_CHAT, sk_gen_take_chat);
}
