#include "clients/skein/chat.h"

#include <stdlib.h>
#include <string.h>

#include "clients/skein/input.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"

enum { CONNECT_MS = 10000, MAX_SHOWN = 64 << 20 };
static const char default_url[] = "http://127.0.0.1:8080/v1";

static int read_system(struct sk_chat *c, struct sk_err *err)
{
    const struct sk_conf *o = &c->conf;
    struct sk_buf text;
    if (o->chat_system[0] && o->chat_system_file[0])
        return sk_err_set(err, SK_EINVAL, "system-file", "system and system-file exclude each other");
    if (!o->chat_system_file[0])
        return sk_talk_system(&c->talk, o->chat_system, strlen(o->chat_system), err);
    sk_buf_init(&text, SK_INPUT_MAX_BYTES);
    int rc = sk_buf_file(&text, o->chat_system_file, err);
    if (!rc)
        rc = sk_talk_system(&c->talk, text.p ? text.p : "", text.n, err);
    sk_buf_done(&text);
    return rc;
}

int sk_chat_init(struct sk_chat *c, const struct sk_conf *conf, enum sk_render_mode mode, struct sk_err *err)
{
    const char *env = getenv("OPENAI_BASE_URL");
    const char *url = conf->client_url[0] ? conf->client_url : env && *env ? env : default_url;
    const struct sk_target_conf target = {.url = url,
                                          .api_key = conf->client_api_key,
                                          .ca_file = conf->client_ca_file,
                                          .insecure = conf->client_insecure,
                                          .connect_ms = CONNECT_MS,
                                          .silence_ms = conf->chat_timeout};
    *c = (struct sk_chat){.conf = *conf, .out = stdout, .notes = stderr};
    sk_render_init(&c->render, mode);
    sk_talk_init(&c->talk);
    if (strlen(conf->chat_model) >= sizeof c->model)
        return sk_err_set(err, SK_EINVAL, "model", "model: more than %d bytes", SK_CHAT_MAX_MODEL - 1);
    strcpy(c->model, conf->chat_model);
    int rc = sk_target_init(&c->target, &target, err);
    if (rc)
        return rc;
    rc = read_system(c, err);
    if (rc)
        sk_chat_done(c);
    return rc;
}

void sk_chat_done(struct sk_chat *c)
{
    sk_talk_done(&c->talk);
    sk_target_done(&c->target);
}

enum sk_ask_end sk_chat_find_model(struct sk_chat *c, struct sk_err *err)
{
    return c->model[0] ? SK_ASK_DONE : sk_ask_model(&c->target, c->model, sizeof c->model, err);
}

/* ---- an answer ---- */

static int write_shown(struct sk_chat *c, struct sk_buf *shown, int rc, struct sk_err *err)
{
    if (rc)
        sk_err_set(err, -rc, NULL, "the answer cannot be shown: %s", sk_err_text(rc));
    else if ((shown->n && fwrite(shown->p, 1, shown->n, c->out) != shown->n) || fflush(c->out) != 0)
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write the answer");
    sk_buf_done(shown);
    return rc;
}

static int on_text(void *arg, const char *s, size_t n, struct sk_err *err)
{
    struct sk_chat *c = arg;
    struct sk_buf shown;
    sk_buf_init(&shown, MAX_SHOWN);
    int rc = sk_render_text(&c->render, s, n, &shown);
    return write_shown(c, &shown, rc, err);
}

/* The rest of it, and the end of its last line. */
static int end_text(struct sk_chat *c, const struct sk_buf *text, struct sk_err *err)
{
    struct sk_buf shown;
    sk_buf_init(&shown, MAX_SHOWN);
    int rc = sk_render_end(&c->render, &shown);
    if (!rc && text->n && text->p[text->n - 1] != '\n')
        rc = sk_buf_char(&shown, '\n');
    return write_shown(c, &shown, rc, err);
}

static void take_stats(struct sk_chat *c, const struct sk_ask *a, const struct sk_reply *r)
{
    c->stats.is_counted = r->n_tok >= 0;
    c->stats.n_tok = r->n_tok >= 0 ? r->n_tok : (int64_t)r->n_piece;
    c->stats.first_us = a->first_us ? a->first_us - a->sent_us : 0;
    c->stats.all_us = a->first_us ? a->last_us - a->sent_us : 0;
}

void sk_chat_show_stats(const struct sk_chat *c)
{
    const char *what = c->stats.is_counted ? "tokens" : "pieces of text";
    const double after_s = (double)(c->stats.all_us - c->stats.first_us) / 1e6;
    if (c->stats.n_tok == 0) {
        fputs("[no answer yet]\n", c->notes);
        return;
    }
    fprintf(c->notes, "[%lld %s, the first after %.3f s", (long long)c->stats.n_tok, what,
            (double)c->stats.first_us / 1e6);
    if (c->stats.n_tok > 1 && after_s > 0)
        fprintf(c->notes, ", then %.1f a second", (double)(c->stats.n_tok - 1) / after_s);
    fputs("]\n", c->notes);
}

/* What the conversation keeps, and what is said under the answer. */
static enum sk_ask_end end_answer(struct sk_chat *c, const struct sk_reply *r, enum sk_ask_end end, struct sk_err *err)
{
    struct sk_err why = {0};
    if (end_text(c, &r->text, &why) && end != SK_ASK_FAILED) {
        *err = why;
        end = SK_ASK_FAILED;
    }
    if (r->text.n && sk_talk_answer(&c->talk, r->text.p, r->text.n, end != SK_ASK_DONE, &why) && end != SK_ASK_FAILED) {
        *err = why;
        end = SK_ASK_FAILED;
    }
    if (end == SK_ASK_DONE && strcmp(r->finish, "length") == 0)
        fputs("[the answer is cut: max-tokens, or the end of the model's context]\n", c->notes);
    else if (end == SK_ASK_DONE && r->text.n == 0)
        fprintf(c->notes, "[an empty answer%s%s]\n", r->finish[0] ? ": " : "", r->finish);
    return end;
}

enum sk_ask_end sk_chat_ask(struct sk_chat *c, struct sk_err *err)
{
    struct sk_ask a = {.target = &c->target, .on_text = on_text, .arg = c};
    struct sk_reply r;
    struct sk_buf body;
    enum sk_ask_end end = sk_chat_find_model(c, err);
    if (end != SK_ASK_DONE)
        return end;
    sk_reply_init(&r);
    sk_buf_init(&body, 8 * (size_t)SK_TALK_MAX_BYTES);
    int rc = sk_talk_request(&c->talk, c->model, &c->conf, &body);
    if (rc) {
        sk_err_set(err, -rc, NULL, "the request: %s", sk_err_text(rc));
        end = SK_ASK_FAILED;
        goto out;
    }
    end = sk_ask_chat(&a, body.p, body.n, &r, err);
    take_stats(c, &a, &r);
    end = end_answer(c, &r, end, err);
    if (c->conf.chat_stats && r.text.n)
        sk_chat_show_stats(c);
out:
    sk_buf_done(&body);
    sk_reply_done(&r);
    return end;
}
