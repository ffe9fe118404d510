#include "server/http/mhd.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"

enum { MAX_MHD_CONNECTIONS = 1 << 20 }; /* ours is what counts */

/* --- the loop --- */

static void run_once(struct sk_http *h);

static void on_again(uv_idle_t *i)
{
    run_once(i->data);
}

/* Not a timer of 0 ms: one that is set by its own callback keeps libuv 1.44 from everything else. */
void sk_mhd_kick(struct sk_http *h)
{
    if (!h->kicked && !h->closing) {
        h->kicked = true;
        uv_idle_start(&h->again, on_again);
    }
}

/* The library has no time-outs here, so what MHD_get_timeout says is "at once" or nothing. */
static void run_once(struct sk_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (h->closing || h->running)
        return;
    h->kicked = false;
    uv_idle_stop(&h->again);
    h->running = true;
    MHD_run(h->daemon);
    h->running = false;
    sk_conn_rest(h);
    if (!h->kicked && MHD_get_timeout(h->daemon, &ms) == MHD_YES)
        sk_mhd_kick(h);
}

void sk_http_run(struct sk_http *h)
{
    if (h->kicked)
        run_once(h);
}

static void on_epoll(uv_poll_t *p, int status, int events)
{
    run_once(p->data);
}

void sk_mhd_handle_closed(uv_handle_t *handle)
{
    struct sk_http *h = handle->data;
    if (--h->n_handles > 0 || !h->closing)
        return;
    void (*done)(void *arg) = h->done;
    void *arg = h->done_arg;
    sk_free(h);
    if (done)
        done(arg);
}

/* --- open, close --- */

static void log_library(void *cls, const char *fmt, va_list ap)
{
    char line[256];
    if (!sk_log_enabled(SK_LOG_DEBUG))
        return;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    sk_log(SK_LOG_DEBUG, "http library: %s", line);
}

/* The certificate given here starts the daemon; each connection then takes the current one. */
static struct MHD_Daemon *start_daemon(struct sk_http *h)
{
    const struct sk_tls *tls = h->conf.tls;
    struct MHD_OptionItem tls_options[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, tls ? (void *)sk_tls_cert_pem(tls) : NULL},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, tls ? (void *)sk_tls_key_pem(tls) : NULL},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)sk_tls_priorities},
        {MHD_OPTION_END, 0, NULL},
    };
    if (!tls)
        tls_options[0].option = MHD_OPTION_END;
    const unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
    return MHD_start_daemon(flags | (tls ? MHD_USE_TLS : 0), 0, NULL, NULL, sk_exchange_handle, h, /* */
                            MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL, /* first, so that it hears of the others */
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, 2 * h->conf.limits->max_header,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_MHD_CONNECTIONS, MHD_OPTION_URI_LOG_CALLBACK,
                            sk_exchange_begin, h, MHD_OPTION_NOTIFY_COMPLETED, sk_exchange_complete, h,
                            MHD_OPTION_NOTIFY_CONNECTION, sk_conn_notify, h, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
                            MHD_OPTION_ARRAY, tls_options, MHD_OPTION_END);
}

static void open_handles(struct sk_http *h)
{
    int fd = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    int rc = uv_poll_init(h->loop, &h->poll, fd);
    sk_assert(rc == 0);
    uv_idle_init(h->loop, &h->again);
    uv_timer_init(h->loop, &h->sweeper);
    h->poll.data = h->again.data = h->sweeper.data = h;
    h->n_handles += 3;
    uv_poll_start(&h->poll, UV_READABLE, on_epoll);
}

int sk_http_open(struct uv_loop_s *loop, const struct sk_http_conf *conf, struct sk_http **ret, struct sk_err *err)
{
    int rc = 0;
    uint64_t seed = sk_rng_seed();
    struct sk_http *h = sk_calloc(1, sizeof *h);
    if (!h) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        goto out;
    }
    h->loop = loop;
    h->conf = *conf;
    if (conf->is_unix)
        h->conf.tls = NULL;
    h->id_key[0] = (uint32_t)seed;
    h->id_key[1] = (uint32_t)(seed >> 32);
    h->daemon = start_daemon(h);
    if (!h->daemon) {
        rc = sk_err_set(err, SK_EIO, NULL, "the HTTP library does not start");
        goto out;
    }
    if (sk_conn_open_door(h) != 0) {
        rc = sk_err_set(err, SK_EIO, NULL, "the event loop does not take the listening socket");
        goto out;
    }
    open_handles(h);
    *ret = h;
out:
    if (rc != 0) {
        if (h && h->daemon)
            MHD_stop_daemon(h->daemon);
        sk_free(h);
        close(conf->fd);
    }
    return rc;
}

void sk_http_quiesce(struct sk_http *h)
{
    if (h->conf.fd < 0)
        return;
    sk_conn_close_door(h);
    close(h->conf.fd);
    h->conf.fd = -1;
}

void sk_http_close(struct sk_http *h, void (*done)(void *arg), void *arg)
{
    sk_http_quiesce(h);
    h->closing = true;
    h->done = done;
    h->done_arg = arg;
    for (struct sk_conn *c = h->conns; c; c = c->next) {
        if (c->req)
            sk_exchange_leave(c->req);
        sk_conn_resume(c);
    }
    MHD_run(h->daemon); /* what was resumed must have left the list of the suspended */
    uv_poll_stop(&h->poll);
    MHD_stop_daemon(h->daemon);
    uv_close((uv_handle_t *)&h->poll, sk_mhd_handle_closed);
    uv_close((uv_handle_t *)&h->again, sk_mhd_handle_closed);
    uv_close((uv_handle_t *)&h->sweeper, sk_mhd_handle_closed);
}

uint32_t sk_http_connections(const struct sk_http *h)
{
    return h->n_conn;
}

size_t sk_http_active(const struct sk_http *h)
{
    return h->n_active;
}
