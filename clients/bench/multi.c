#include "clients/bench/multi.h"

#include "comm/base/clock.h"
#include "comm/base/mem.h"

struct sk_multi {
    const struct sk_net_conf *conf;
    CURLM *curl;
};

int sk_multi_open(struct sk_multi **ret, const struct sk_net_conf *c, struct sk_err *err)
{
    struct sk_multi *m = sk_calloc(1, sizeof *m);
    if (!m || !(m->curl = curl_multi_init())) {
        sk_free(m);
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    m->conf = c;
    *ret = m;
    return 0;
}

static size_t on_bytes(char *p, size_t size, size_t n, void *arg)
{
    struct sk_turn *x = arg;
    uint64_t now = sk_clock_ns();
    long status = 0;
    const char *type = NULL;
    if (!x->rec.status) {
        curl_easy_getinfo(x->carrier, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(x->carrier, CURLINFO_CONTENT_TYPE, &type);
        sk_turn_head(x, (int)status, type && curl_strnequal(type, "text/event-stream", 17));
    }
    return sk_turn_bytes(x, p, size * n, now) ? size * n : 0;
}

static void end(struct sk_multi *m, struct sk_turn *x)
{
    if (x->carrier) {
        curl_multi_remove_handle(m->curl, x->carrier);
        curl_easy_cleanup(x->carrier);
        x->carrier = NULL;
    }
    m->conf->done(m->conf->arg, x);
}

void sk_multi_send(struct sk_multi *m, struct sk_turn *x)
{
    struct sk_err err = {0};
    CURL *h = NULL;
    x->rec.sent_ns = sk_clock_ns() - x->start_ns;
    int rc = sk_target_handle(m->conf->target, m->conf->path, x->body.p, x->body.n, &h, &err);
    if (rc == 0) {
        x->carrier = h;
        curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_bytes);
        curl_easy_setopt(h, CURLOPT_WRITEDATA, x);
        curl_easy_setopt(h, CURLOPT_PRIVATE, x);
        if (curl_multi_add_handle(m->curl, h) == CURLM_OK)
            return;
        curl_easy_cleanup(h);
        x->carrier = NULL;
    }
    sk_turn_over(x, SK_ROUND_CONNECT, sk_clock_ns(), rc ? err.msg : "libcurl takes no more requests");
    end(m, x);
}

void sk_multi_drop(struct sk_multi *m, struct sk_turn *x)
{
    end(m, x);
}

static void finish(struct sk_multi *m, struct sk_turn *x, CURLcode rc)
{
    struct sk_err err = {0};
    uint64_t now = sk_clock_ns();
    long status = 0;
    if (x->ended) { /* its writer stopped the transfer */
    } else if (rc == CURLE_OK) {
        curl_easy_getinfo(x->carrier, CURLINFO_RESPONSE_CODE, &status);
        if (!x->rec.status) /* there was no body */
            sk_turn_head(x, (int)status, false);
        sk_turn_end(x, now);
    } else {
        int why = sk_target_failed(m->conf->target, x->carrier, rc, NULL, &err);
        sk_turn_over(x,
                         why == -SK_EUNAVAIL ? SK_ROUND_CONNECT
                         : why == -SK_EAUTH  ? SK_ROUND_TLS
                                             : SK_ROUND_BROKEN,
                         now, err.msg);
    }
    end(m, x);
}

int sk_multi_poll(struct sk_multi *m, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err)
{
    int n;
    CURLMsg *msg;
    CURLMcode rc = curl_multi_perform(m->curl, &n);
    if (rc == CURLM_OK && timeout_ns > 0)
        rc = curl_multi_poll(m->curl, NULL, 0, (int)(timeout_ns / 1000000), NULL);
    *ret_woke_ns = sk_clock_ns();
    if (rc == CURLM_OK)
        rc = curl_multi_perform(m->curl, &n);
    if (rc != CURLM_OK)
        return sk_err_set(err, SK_EIO, NULL, "libcurl: %s", curl_multi_strerror(rc));
    while ((msg = curl_multi_info_read(m->curl, &n))) {
        struct sk_turn *x = NULL;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &x);
        if (msg->msg == CURLMSG_DONE)
            finish(m, x, msg->data.result);
    }
    return 0;
}

void sk_multi_close(struct sk_multi *m)
{
    if (!m)
        return;
    curl_multi_cleanup(m->curl);
    sk_free(m);
}
