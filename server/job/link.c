#include "server/job/link.h"

#include <stdbool.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/mem.h"
#include "comm/wire/chan.h"

enum { MAX_OUT_BYTES = 2 * SK_FRAME_MAX };

struct sk_link {
    struct sk_link_conf conf;
    struct sk_chan chan;
    uv_poll_t poll;
    bool down;   /* on_down was called */
    bool closed; /* sk_link_close was called */
};

static void on_poll(uv_poll_t *p, int status, int events);

static void fail(struct sk_link *l, const char *why)
{
    if (l->down || l->closed)
        return;
    l->down = true;
    uv_poll_stop(&l->poll);
    l->conf.on_down(l->conf.arg, why);
}

void sk_link_flush(struct sk_link *l)
{
    if (l->down || l->closed)
        return;
    int rc = l->chan.out.failed ? l->chan.out.failed : sk_chan_flush(&l->chan);
    if (rc < 0)
        fail(l, rc == -SK_EIO ? "connection lost" : sk_err_text(rc));
    else
        uv_poll_start(&l->poll, UV_READABLE | (rc ? UV_WRITABLE : 0), on_poll);
}

void sk_link_drain(struct sk_link *l)
{
    const struct sk_frame *f;
    int rc = 0;
    if (l->down || l->closed)
        return;
    int end = sk_chan_fill(&l->chan);
    while (!l->closed && (rc = sk_chan_next(&l->chan, &f)) > 0)
        l->conf.on_frame(l->conf.arg, f);
    if (rc < 0)
        fail(l, "protocol error");
    else if (end < 0)
        fail(l, "connection lost");
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct sk_link *l = p->data;
    if (status < 0 || (events & UV_READABLE))
        sk_link_drain(l);
    sk_link_flush(l);
}

int sk_link_open(struct uv_loop_s *loop, int fd, const struct sk_link_conf *conf, struct sk_link **ret)
{
    struct sk_link *l = sk_calloc(1, sizeof *l);
    if (!l || uv_poll_init(loop, &l->poll, fd) != 0) {
        int rc = l ? -SK_EIO : -SK_ENOMEM;
        sk_free(l);
        close(fd);
        return rc;
    }
    l->conf = *conf;
    l->poll.data = l;
    sk_chan_init(&l->chan, fd, MAX_OUT_BYTES);
    uv_poll_start(&l->poll, UV_READABLE, on_poll);
    *ret = l;
    return 0;
}

struct sk_buf *sk_link_out(struct sk_link *l)
{
    return &l->chan.out;
}

size_t sk_link_pending(const struct sk_link *l)
{
    return l->chan.out.n;
}

static void on_closed(uv_handle_t *h)
{
    struct sk_link *l = h->data;
    sk_chan_done(&l->chan);
    sk_free(l);
}

void sk_link_close(struct sk_link *l)
{
    if (l->closed)
        return;
    l->closed = true;
    uv_close((uv_handle_t *)&l->poll, on_closed); /* stops the poll before the descriptor closes */
}
