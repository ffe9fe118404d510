#include "clients/skein/ask.h"

#include <string.h>

#include "clients/skein/interrupt.h"
#include "comm/base/clock.h"
#include "comm/base/json.h"
#include "comm/base/utf8.h"

enum { POLL_MS = 1000, MAX_LIST = 4 << 20 };

/* ---- a transfer that ^C ends ---- */

static CURLcode result_of(CURLM *multi, CURL *h)
{
    CURLMsg *m;
    int n;
    while ((m = curl_multi_info_read(multi, &n)))
        if (m->msg == CURLMSG_DONE && m->easy_handle == h)
            return m->data.result;
    return CURLE_RECV_ERROR;
}

/* Runs the handle to its end, or until ^C: CURLE_ABORTED_BY_CALLBACK. A server that says no more after [DONE], but does
 * not close either, is not waited for. */
static CURLcode transfer(CURL *h, const struct sk_reply *r)
{
    CURLM *multi = curl_multi_init();
    CURLcode rc = CURLE_OUT_OF_MEMORY;
    if (!multi)
        return rc;
    if (curl_multi_add_handle(multi, h) != CURLM_OK)
        goto out;
    struct curl_waitfd stop = {.fd = sk_interrupt_fd(), .events = CURL_WAIT_POLLIN};
    for (int n_running = 1, n_ready = 1;;) {
        if (curl_multi_perform(multi, &n_running) != CURLM_OK)
            goto out;
        if (!n_running)
            break;
        if (sk_interrupt_take()) {
            rc = CURLE_ABORTED_BY_CALLBACK;
            goto out;
        }
        if (r && r->state == SK_REPLY_DONE && n_ready == 0)
            goto out;
        if (curl_multi_poll(multi, &stop, stop.fd >= 0, POLL_MS, &n_ready) != CURLM_OK)
            goto out;
    }
    rc = result_of(multi, h);
out:
    curl_multi_remove_handle(multi, h);
    curl_multi_cleanup(multi);
    return rc;
}

/* ---- the chat ---- */

struct chat {
    struct sk_ask *ask;
    struct sk_reply *reply;
    CURL *h;
    struct sk_err err; /* of what ended the transfer from our side */
    bool is_ours;      /* it was not the answer's fault */
};

static int take_head(struct chat *c)
{
    long status = 0;
    char *type = NULL;
    curl_easy_getinfo(c->h, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(c->h, CURLINFO_CONTENT_TYPE, &type);
    return status ? sk_reply_head(c->reply, status, type, &c->err) : 0;
}

/* Hands on what the text has grown by. */
static int take_text(struct chat *c, size_t before)
{
    const struct sk_buf *text = &c->reply->text;
    if (text->n == before)
        return 0;
    c->ask->last_us = sk_clock_us();
    if (!c->ask->first_us)
        c->ask->first_us = c->ask->last_us;
    int rc = c->ask->on_text(c->ask->arg, text->p + before, text->n - before, &c->err);
    c->is_ours = rc != 0;
    return rc;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct chat *c = arg;
    const size_t before = c->reply->text.n;
    int rc = c->reply->state == SK_REPLY_HEAD ? take_head(c) : 0;
    if (!rc)
        rc = sk_reply_bytes(c->reply, p, n, &c->err);
    if (!c->is_ours && take_text(c, before))
        rc = -c->err.code;
    return rc ? 0 : n;
}

/* What came of the transfer. */
static enum sk_ask_end end_of(struct chat *c, CURLcode rc, const char *detail, struct sk_err *err)
{
    const struct sk_target *t = c->ask->target;
    if (rc == CURLE_ABORTED_BY_CALLBACK) {
        sk_err_set(err, SK_ECANCEL, NULL, "interrupted");
        return SK_ASK_STOPPED;
    }
    if (c->is_ours || c->reply->state == SK_REPLY_BROKEN) {
        *err = c->err;
        return c->is_ours ? SK_ASK_FAILED : SK_ASK_BROKEN;
    }
    if (c->reply->state == SK_REPLY_HEAD)
        take_head(c); /* a head without a body */
    if (c->reply->state == SK_REPLY_REFUSED) {
        sk_target_refused(t, c->reply->status, c->reply->body.p ? c->reply->body.p : "", c->reply->body.n, err);
        return SK_ASK_REFUSED;
    }
    if (c->reply->state == SK_REPLY_DONE) /* a connection that breaks after [DONE] takes nothing away */
        return SK_ASK_DONE;
    if (rc == CURLE_OK)
        return sk_reply_end(c->reply, err) ? SK_ASK_BROKEN : SK_ASK_DONE;
    int kind = sk_target_failed(t, c->h, rc, detail, err);
    if (kind == -SK_ENOMEM)
        return SK_ASK_FAILED;
    return kind == -SK_EPROTO || kind == -SK_EDEADLINE ? SK_ASK_BROKEN : SK_ASK_UNREACHED;
}

enum sk_ask_end sk_ask_chat(struct sk_ask *a, const char *body, size_t n, struct sk_reply *r, struct sk_err *err)
{
    struct chat c = {.ask = a, .reply = r};
    char detail[CURL_ERROR_SIZE] = "";
    if (sk_target_handle(a->target, "/chat/completions", body, n, &c.h, err))
        return SK_ASK_FAILED;
    enum sk_ask_end end = SK_ASK_FAILED;
    CURLcode rc = curl_easy_setopt(c.h, CURLOPT_ERRORBUFFER, detail);
    rc = rc ? rc : curl_easy_setopt(c.h, CURLOPT_WRITEFUNCTION, on_body);
    rc = rc ? rc : curl_easy_setopt(c.h, CURLOPT_WRITEDATA, &c);
    if (rc) {
        sk_err_set(err, SK_ENOMEM, NULL, "libcurl: %s", curl_easy_strerror(rc));
    } else {
        a->sent_us = sk_clock_us();
        a->first_us = a->last_us = 0;
        rc = transfer(c.h, r);
        end = end_of(&c, rc, detail, err);
        /* the whole answer of a server that does not stream is there only now */
        if (end == SK_ASK_DONE && !a->first_us && take_text(&c, 0)) {
            *err = c.err;
            end = SK_ASK_FAILED;
        }
    }
    curl_easy_cleanup(c.h);
    return end;
}

/* ---- the model ---- */

static size_t on_list(char *p, size_t size, size_t n, void *arg)
{
    return sk_buf_add(arg, p, n) ? 0 : n;
}

static enum sk_ask_end first_model(const struct sk_buf *list, char *ret, size_t size, struct sk_err *err)
{
    struct cJSON *v = NULL;
    struct sk_err why = {0};
    enum sk_ask_end end = SK_ASK_BROKEN;
    if (sk_json_parse(list->p ? list->p : "", list->n, list->n, &v, &why)) {
        sk_err_set(err, why.code, NULL, "the server's list of models: %s", why.msg);
        return end;
    }
    const char *id = sk_json_str(sk_json_get(sk_json_first(sk_json_get(v, "data")), "id"));
    if (!id || !*id || strlen(id) >= size) {
        sk_err_set(err, SK_EPROTO, NULL, "the server lists no model; name one with --model");
    } else {
        strcpy(ret, id);
        end = SK_ASK_DONE;
    }
    sk_json_free(v);
    return end;
}

enum sk_ask_end sk_ask_model(const struct sk_target *t, char *ret, size_t size, struct sk_err *err)
{
    struct sk_buf list;
    char detail[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURL *h;
    if (sk_target_handle(t, "/models", NULL, 0, &h, err))
        return SK_ASK_FAILED;
    sk_buf_init(&list, MAX_LIST);
    CURLcode rc = curl_easy_setopt(h, CURLOPT_ERRORBUFFER, detail);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_list);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_WRITEDATA, &list);
    rc = rc ? rc : transfer(h, NULL);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    enum sk_ask_end end;
    if (rc == CURLE_ABORTED_BY_CALLBACK) {
        end = SK_ASK_STOPPED;
        sk_err_set(err, SK_ECANCEL, NULL, "interrupted");
    } else if (rc != CURLE_OK) {
        int kind = sk_target_failed(t, h, rc, detail, err);
        end = kind == -SK_EPROTO || kind == -SK_EDEADLINE ? SK_ASK_BROKEN : SK_ASK_UNREACHED;
    } else if (status != 200) {
        end = SK_ASK_REFUSED;
        sk_target_refused(t, status, list.p ? list.p : "", list.n, err);
    } else {
        end = first_model(&list, ret, size, err);
    }
    sk_buf_done(&list);
    curl_easy_cleanup(h);
    return end;
}
