#include "server/server.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/buf.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "server/options.h"

enum { RENDER_MS = 1000, MAX_PROMPT_BYTES = 64 << 20 };

int sk_server_open(struct sk_server *s, struct uv_loop_s *loop, const struct sk_conf *conf, struct sk_err *err)
{
    s->loop = loop;
    s->conf = conf;
    s->started = sk_clock_unix();
    sk_options_limits(conf, &s->limits);
    int rc = sk_metrics_new(&s->metrics);
    if (rc == 0)
        rc = sk_tenants_new(&s->tenants);
    if (rc != 0)
        return sk_err_set(err, -rc, NULL, "%s", sk_err_text(rc));
    rc = sk_cors_parse(conf->cors_origins, &s->cors, err);
    return rc == 0 && conf->tls_cert[0] ? sk_tls_open(conf->tls_cert, conf->tls_key, &s->tls, err) : rc;
}

void sk_server_done(struct sk_server *s)
{
    sk_tls_close(s->tls);
    sk_cors_done(&s->cors);
    sk_tenants_free(s->tenants);
    sk_metrics_free(s->metrics);
}

void sk_server_run_http(struct sk_server *s)
{
    for (uint32_t i = 0; i < s->n_listener; i++) {
        if (s->listeners[i].http)
            sk_http_run(s->listeners[i].http);
    }
}

size_t sk_server_active(const struct sk_server *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_listener; i++)
        n += s->listeners[i].http ? sk_http_active(s->listeners[i].http) : 0;
    return n;
}

struct sk_model *sk_server_model(struct sk_server *s, const char *name)
{
    if (!name || !*name)
        return s->models[0];
    for (uint32_t i = 0; i < s->n_model; i++) {
        struct sk_model *m = s->models[i];
        if (strcmp(m->name, name) == 0)
            return m;
        for (uint32_t k = 0; k < m->n_alias; k++) {
            if (strcmp(m->aliases[k], name) == 0)
                return m;
        }
    }
    return NULL;
}

static void add_alias(struct sk_model *m, const char *name)
{
    if (*name && strcmp(name, m->name) != 0 && m->n_alias < SK_MODEL_MAX_ALIASES)
        snprintf(m->aliases[m->n_alias++], sizeof m->aliases[0], "%s", name);
}

/* --model-name, else the name that the engine directory got from its source; that one always works. */
static void set_name(struct sk_model *m, const struct sk_conf *conf)
{
    snprintf(m->name, sizeof m->name, "%s", conf->model_name[0] ? conf->model_name : m->dir.name);
    add_alias(m, m->dir.name);
}

/* Spellings that the text of users must never turn into tokens. The strings live in `text`. */
static int list_guarded(const struct sk_vocab *v, struct sk_buf *text, const char ***ret, size_t *ret_n)
{
    uint32_t n_control = sk_vocab_n_controls(v);
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < n_control; i++) {
        size_t len;
        const char *p = sk_vocab_word(v, sk_vocab_control(v, i), &len);
        if (len == 0 || memchr(p, '\0', len))
            continue;
        sk_buf_add(text, p, len);
        sk_buf_add(text, "", 1);
        n++;
    }
    const char **list = sk_malloc((n + 1) * sizeof *list);
    if (text->failed || !list) {
        sk_free(list);
        return -SK_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        list[i] = text->p + at;
        at += strlen(list[i]) + 1;
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

static int open_templates(struct sk_server *s, struct sk_model *m, const char *own, struct sk_err *err)
{
    struct sk_tmpl_conf tc = {.bos_token = m->dir.bos_token, .eos_token = m->dir.eos_token, .wall_ms = RENDER_MS};
    const char **guarded = NULL;
    struct sk_buf text;
    int64_t most = 4 * s->conf->max_body;
    tc.max_out_bytes = most < MAX_PROMPT_BYTES ? (int)most : MAX_PROMPT_BYTES;
    sk_buf_init(&text, SK_SERVER_MAX_TEMPLATE_BYTES);
    int rc = list_guarded(m->vocab, &text, &guarded, &tc.n_guarded);
    if (rc != 0) {
        sk_err_set(err, -rc, NULL, "out of memory");
        goto out;
    }
    tc.guarded = guarded;
    tc.source = own ? own : m->dir.chat_template;
    rc = sk_tmpl_new(s->loop, &tc, &m->tmpl, err);
    tc.source = m->dir.tools_template;
    if (rc == 0 && !own && tc.source)
        rc = sk_tmpl_new(s->loop, &tc, &m->tools_tmpl, err);
out:
    sk_free(guarded);
    sk_buf_done(&text);
    return rc;
}

int sk_server_load(struct sk_server *s, struct sk_model *m, const char *path, struct sk_err *err)
{
    struct sk_buf own;
    char vocab[SK_CONF_STR_MAX + 16];
    sk_buf_init(&own, SK_SERVER_MAX_TEMPLATE_BYTES);
    int rc = sk_dir_open(path, &m->dir, err);
    if (rc != 0)
        return rc;
    m->opened = true;
    snprintf(vocab, sizeof vocab, "%s/vocab.skv", path);
    rc = sk_vocab_open(vocab, &m->vocab, err);
    if (rc == 0) {
        rc = sk_token_new(m->vocab, &m->token, err);
    }
    if (rc == 0 && s->conf->chat_template[0])
        rc = sk_buf_file(&own, s->conf->chat_template, err);
    if (rc == 0)
        rc = open_templates(s, m, own.p, err);
    sk_buf_done(&own);
    if (rc != 0)
        return rc;
    set_name(m, s->conf);
    m->max_len = s->conf->max_model_len ? (uint32_t)s->conf->max_model_len : m->dir.desc.max_len;
    m->loaded = true;
    return 0;
}

struct sk_model *sk_server_model_new(void)
{
    return sk_calloc(1, sizeof(struct sk_model));
}

void sk_server_model_free(struct sk_model *m)
{
    if (m)
        sk_server_unload(m);
    sk_free(m);
}

void sk_server_serve(struct sk_server *s, struct sk_model *m)
{
    s->models[0] = m;
    s->n_model = 1;
    for (uint32_t i = 1; i < s->n_engine; i++) {
        if (s->engines[i] != m->engine)
            continue;
        s->engines[i] = s->engines[0];
        s->engines[0] = m->engine;
    }
    sk_metrics_name(s->metrics, m->name, "0");
}

void sk_server_unload(struct sk_model *m)
{
    m->loaded = false;
    if (m->tmpl)
        sk_tmpl_close(m->tmpl, NULL, NULL);
    if (m->tools_tmpl)
        sk_tmpl_close(m->tools_tmpl, NULL, NULL);
    sk_token_free(m->token);
    sk_vocab_close(m->vocab);
    if (m->opened)
        sk_dir_close(&m->dir);
    m->tmpl = m->tools_tmpl = NULL;
    m->token = NULL;
    m->vocab = NULL;
    m->opened = false;
}
