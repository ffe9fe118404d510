#include "server/api/messages.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/server.h"

enum { MAX_PATH_BYTES = 64 }; /* as err->param */

/* Where in the body we are, for errors: "messages[2].content[0]". */
struct path {
    char s[MAX_PATH_BYTES];
};

static struct path at_index(const struct path *p, const char *key, size_t i)
{
    struct path q;
    snprintf(q.s, sizeof q.s, "%.30s%s%.16s[%zu]", p ? p->s : "", p ? "." : "", key, i);
    return q;
}

/* "%s must be ..." of the field `key` at p; key NULL = p itself. */
static int wrong(struct sk_err *err, int code, const struct path *p, const char *key, const char *what)
{
    char param[MAX_PATH_BYTES];
    snprintf(param, sizeof param, "%.40s%s%.20s", p->s, key ? "." : "", key ? key : "");
    return sk_err_set(err, code, param, "%s %s.", param, what);
}

static const struct cJSON *field(const struct cJSON *obj, const char *key)
{
    const struct cJSON *v = sk_json_get(obj, key);
    return v && sk_json_type(v) != SK_JSON_NULL ? v : NULL;
}

/* --- messages --- */

static int check_part(const struct cJSON *part, const struct path *p, struct sk_err *err)
{
    const char *type = sk_json_str(sk_json_get(part, "type"));
    if (sk_json_type(part) != SK_JSON_OBJECT || !type)
        return wrong(err, SK_ETYPE, p, NULL, "must be an object with a string `type`");
    if (strcmp(type, "text") != 0 && strcmp(type, "refusal") != 0)
        return wrong(err, SK_EUNSUP, p, "type",
                     "must be `text`: images, audio, video and files are not supported by this server");
    if (!sk_json_str(sk_json_get(part, type)))
        return wrong(err, SK_ETYPE, p, type, "must be a string");
    return 0;
}

static int check_content(const struct cJSON *m, const char *role, const struct path *p, struct sk_err *err)
{
    const struct cJSON *v = field(m, "content");
    size_t i = 0;
    if (!v) /* what an assistant said may have been nothing but calls of tools */
        return strcmp(role, "assistant") == 0 ? 0 : wrong(err, SK_EMISSING, p, "content", "is required");
    if (sk_json_str(v))
        return 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return wrong(err, SK_ETYPE, p, "content", "must be a string, null or an array of parts");
    for (const struct cJSON *part = sk_json_first(v); part; part = sk_json_next(part), i++) {
        struct path q = at_index(p, "content", i);
        int rc = check_part(part, &q, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int check_call(const struct cJSON *call, const struct path *p, struct sk_err *err)
{
    const struct cJSON *function = sk_json_get(call, "function");
    if (sk_json_type(call) != SK_JSON_OBJECT)
        return wrong(err, SK_ETYPE, p, NULL, "must be an object");
    if (field(call, "id") && !sk_json_str(field(call, "id")))
        return wrong(err, SK_ETYPE, p, "id", "must be a string");
    if (!function || sk_json_type(function) != SK_JSON_OBJECT)
        return wrong(err, SK_ETYPE, p, "function", "must be an object");
    if (!sk_json_str(sk_json_get(function, "name")))
        return wrong(err, SK_ETYPE, p, "function.name", "must be a string");
    const struct cJSON *arguments = field(function, "arguments");
    if (arguments && !sk_json_str(arguments) && sk_json_type(arguments) != SK_JSON_OBJECT)
        return wrong(err, SK_ETYPE, p, "function.arguments", "must be a string of JSON, or an object");
    return 0;
}

static int check_calls(const struct cJSON *m, const struct path *p, struct sk_err *err)
{
    const struct cJSON *v = field(m, "tool_calls");
    size_t i = 0;
    if (v && sk_json_type(v) != SK_JSON_ARRAY)
        return wrong(err, SK_ETYPE, p, "tool_calls", "must be an array");
    for (const struct cJSON *call = sk_json_first(v); call; call = sk_json_next(call), i++) {
        struct path q = at_index(p, "tool_calls", i);
        int rc = check_call(call, &q, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int check_message(const struct cJSON *m, const struct path *p, struct sk_err *err)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    static const char *const strings[] = {"name", "tool_call_id", "reasoning", "reasoning_content", "refusal"};
    if (sk_json_type(m) != SK_JSON_OBJECT)
        return wrong(err, SK_ETYPE, p, NULL, "must be an object");
    const char *role = sk_json_str(sk_json_get(m, "role"));
    if (!role)
        return wrong(err, field(m, "role") ? SK_ETYPE : SK_EMISSING, p, "role", "must be a string");
    bool known = false;
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        known = known || strcmp(role, roles[i]) == 0;
    if (!known)
        return wrong(err, SK_EINVAL, p, "role", "must be one of system, developer, user, assistant, tool, function");
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        if (field(m, strings[i]) && !sk_json_str(field(m, strings[i])))
            return wrong(err, SK_ETYPE, p, strings[i], "must be a string");
    }
    int rc = check_content(m, role, p, err);
    return rc == 0 ? check_calls(m, p, err) : rc;
}

static int check_messages(const struct cJSON *messages, struct sk_err *err)
{
    size_t i = 0;
    if (!messages)
        return sk_err_set(err, SK_EMISSING, "messages", "messages is required.");
    if (sk_json_type(messages) != SK_JSON_ARRAY)
        return sk_err_set(err, SK_ETYPE, "messages", "messages must be an array, not %s.", sk_json_typename(messages));
    if (!sk_json_first(messages))
        return sk_err_set(err, SK_EINVAL, "messages", "messages must not be empty.");
    for (const struct cJSON *m = sk_json_first(messages); m; m = sk_json_next(m), i++) {
        struct path p = at_index(NULL, "messages", i);
        int rc = check_message(m, &p, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* --- tools and template fields --- */

static int check_tools(const struct cJSON *tools, struct sk_err *err)
{
    size_t i = 0;
    if (!tools)
        return 0;
    if (sk_json_type(tools) != SK_JSON_ARRAY)
        return sk_err_set(err, SK_ETYPE, "tools", "tools must be an array, not %s.", sk_json_typename(tools));
    if (!sk_json_first(tools))
        return sk_err_set(err, SK_EINVAL, "tools", "tools must not be empty: leave it out instead.");
    for (const struct cJSON *t = sk_json_first(tools); t; t = sk_json_next(t), i++) {
        struct path p = at_index(NULL, "tools", i);
        const char *type = sk_json_str(sk_json_get(t, "type"));
        if (!type || strcmp(type, "function") != 0)
            return wrong(err, SK_EINVAL, &p, "type", "must be `function`");
        if (!sk_json_str(sk_json_at(t, "function.name")))
            return wrong(err, SK_ETYPE, &p, "function.name", "must be a string");
    }
    return 0;
}

static int check_kwargs(const struct cJSON *body, struct sk_err *err)
{
    static const char key[] = "chat_template_kwargs";
    const struct cJSON *kwargs = field(body, key), *documents = field(body, "documents");
    if (kwargs && sk_json_type(kwargs) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_ETYPE, key, "%s must be an object, not %s.", key, sk_json_typename(kwargs));
    if (documents && sk_json_first(documents))
        return sk_err_set(err, SK_EUNSUP, "documents",
                          "documents are not supported by this server: put them into a message.");
    return 0;
}

static void put_value(struct sk_buf *b, const char *key, const struct cJSON *v)
{
    sk_buf_fmt(b, ",\"%s\":", key);
    if (v)
        sk_json_print(b, v);
    else
        sk_buf_str(b, "null");
}

static void put_bool(struct sk_buf *b, const char *key, bool v)
{
    sk_buf_fmt(b, ",\"%s\":%s", key, v ? "true" : "false");
}

/* reasoning_effort reaches the template as a variable; chat_template_kwargs may say otherwise, and of equal keys the
 * last counts. */
static void put_kwargs(struct sk_buf *b, const char *effort, const struct cJSON *kwargs)
{
    bool any = effort;
    sk_buf_str(b, ",\"kwargs\":{");
    if (effort) {
        sk_buf_str(b, "\"reasoning_effort\":");
        sk_json_quote(b, effort, strlen(effort));
    }
    for (const struct cJSON *v = sk_json_first(kwargs); v; v = sk_json_next(v), any = true) {
        sk_buf_str(b, any ? "," : "");
        sk_json_quote(b, sk_json_key(v), strlen(sk_json_key(v)));
        sk_buf_char(b, ':');
        sk_json_print(b, v);
    }
    sk_buf_char(b, '}');
}

int sk_messages_put(const struct cJSON *body, struct sk_buf *b, struct sk_err *err)
{
    const struct cJSON *messages = field(body, "messages"), *tools = field(body, "tools");
    bool add_prompt = true, continues = false;
    const char *effort = NULL, *source = NULL;
    int rc = check_messages(messages, err);
    if (rc == 0)
        rc = check_tools(tools, err);
    if (rc == 0)
        rc = check_kwargs(body, err);
    if (rc == 0)
        rc = sk_json_get_bool(body, "add_generation_prompt", &add_prompt, err);
    if (rc == 0)
        rc = sk_json_get_bool(body, "continue_final_message", &continues, err);
    if (rc == 0)
        rc = sk_json_get_str(body, "reasoning_effort", &effort, err);
    if (rc == 0)
        rc = sk_json_get_str(body, "chat_template", &source, err);
    if (rc != 0)
        return rc;
    if (add_prompt && continues)
        return sk_err_set(err, SK_EINVAL, "continue_final_message",
                          "continue_final_message and add_generation_prompt cannot both be true (add_generation_prompt "
                          "is true by default).");
    sk_buf_str(b, "{\"messages\":");
    sk_json_print(b, messages);
    put_value(b, "tools", tools);
    put_kwargs(b, effort, field(body, "chat_template_kwargs"));
    put_bool(b, "add_generation_prompt", add_prompt);
    put_bool(b, "continue_final_message", continues);
    put_value(b, "chat_template", field(body, "chat_template"));
    sk_buf_char(b, '}');
    return b->failed ? sk_err_set(err, -b->failed, NULL, "%s", sk_err_text(b->failed)) : 0;
}

struct sk_tmpl *sk_messages_tmpl(const struct sk_model *m, const struct cJSON *body)
{
    return m->tools_tmpl && sk_json_first(field(body, "tools")) ? m->tools_tmpl : m->tmpl;
}
