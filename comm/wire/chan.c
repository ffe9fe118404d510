#include "comm/wire/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 64 << 10 };

void sk_chan_init(struct sk_chan *c, int fd, size_t max_out)
{
    *c = (struct sk_chan){.fd = fd};
    sk_buf_init(&c->in, SK_FRAME_MAX + READ_BYTES);
    sk_buf_init(&c->out, max_out);
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0)
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void sk_chan_done(struct sk_chan *c)
{
    sk_buf_done(&c->in);
    sk_buf_done(&c->out);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

/* What came before the end of the stream is handed out first: the end is reported by a fill that finds nothing else. */
int sk_chan_fill(struct sk_chan *c)
{
    sk_buf_drop(&c->in, c->read_at);
    c->read_at = 0;
    for (bool any = false;; any = true) {
        if (c->in.max - c->in.n < READ_BYTES)
            return 0; /* a whole frame is there, or a length that next will refuse */
        if (sk_buf_reserve(&c->in, READ_BYTES))
            return -SK_EIO;
        ssize_t n;
        do
            n = recv(c->fd, c->in.p + c->in.n, READ_BYTES, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -SK_EIO;
        if (n == 0)
            return any ? 0 : -SK_EIO;
        c->in.n += (size_t)n;
    }
}

int sk_chan_next(struct sk_chan *c, const struct sk_frame **ret_f)
{
    size_t left = c->in.n - c->read_at;
    if (left < sizeof(struct sk_frame))
        return 0;
    /* Frames are multiples of 8 bytes and `in` begins aligned, so they are aligned in place. */
    const struct sk_frame *f = (const struct sk_frame *)(const void *)(c->in.p + c->read_at);
    if (f->bytes < sizeof *f || f->bytes % 8 != 0 || f->bytes > SK_FRAME_MAX)
        return -SK_EPROTO;
    if (f->bytes > left)
        return 0;
    int rc = sk_wire_check(f);
    if (rc)
        return rc;
    c->read_at += f->bytes;
    *ret_f = f;
    return 1;
}

int sk_chan_flush(struct sk_chan *c)
{
    size_t sent = 0;
    int rc = 0;
    while (sent < c->out.n) {
        ssize_t n = send(c->fd, c->out.p + sent, c->out.n - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = errno == EAGAIN || errno == EWOULDBLOCK ? 1 : -SK_EIO;
            break;
        }
        sent += (size_t)n;
    }
    sk_buf_drop(&c->out, sent);
    return rc;
}

bool sk_chan_pending(const struct sk_chan *c)
{
    return c->out.n > 0;
}
