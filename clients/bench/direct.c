#define _GNU_SOURCE /* epoll_pwait2 */
#include "clients/bench/direct.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clients/bench/h1.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"

enum { MAX_HEAD = 8192, MAX_EVENTS = 512, READ_BYTES = 65536, MAX_HOST = 256 };

/*   CONNECTING -> BUSY <-> IDLE; closed from each */
struct conn {
    int fd;
    enum { CONNECTING, BUSY, IDLE } state;
    bool was_used;         /* a reply has come over it before: the server may close it just when it is used again */
    struct sk_turn *x; /* NULL when IDLE */
    struct sk_buf out;
    size_t n_sent;
    struct sk_h1 reply;
    struct conn *next, *prev; /* all of them, or among the idle ones */
};

struct sk_direct {
    const struct sk_net_conf *conf;
    int epoll;
    struct sockaddr_storage addr;
    socklen_t n_addr;
    char head[MAX_HEAD]; /* the request's, up to the length of its body */
    size_t n_head;
    struct conn *idle, *busy; /* the idle one that was used last is taken first */
    char in[READ_BYTES];
};

/* ---- lists ---- */

static void link_conn(struct conn **list, struct conn *c)
{
    c->prev = NULL;
    c->next = *list;
    if (c->next)
        c->next->prev = c;
    *list = c;
}

static void unlink_conn(struct conn **list, struct conn *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        *list = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

static void to(struct sk_direct *d, struct conn *c, int state)
{
    if ((c->state == IDLE) != (state == IDLE)) {
        unlink_conn(c->state == IDLE ? &d->idle : &d->busy, c);
        link_conn(state == IDLE ? &d->idle : &d->busy, c);
    }
    c->state = state;
}

static void close_conn(struct sk_direct *d, struct conn *c)
{
    unlink_conn(c->state == IDLE ? &d->idle : &d->busy, c);
    close(c->fd);
    sk_buf_done(&c->out);
    sk_free(c);
}

/* ---- one exchange ---- */

/* Hands the connection's exchange, which has ended, back. */
static void release(struct sk_direct *d, struct conn *c, bool keep)
{
    struct sk_turn *x = c->x;
    x->carrier = NULL;
    c->x = NULL;
    c->was_used = true;
    if (keep)
        to(d, c, IDLE);
    else
        close_conn(d, c);
    d->conf->done(d->conf->arg, x);
}

static void start(struct sk_direct *d, struct sk_turn *x, bool fresh);

/* The connection broke. A kept one may have been closed by the server before it saw the request (RFC 9112, 9.3.1): if
 * nothing of a reply came, the request goes over a new one. */
static void broke(struct sk_direct *d, struct conn *c, const char *why)
{
    struct sk_turn *x = c->x;
    if (!x) {
        close_conn(d, c);
        return;
    }
    if (c->was_used && c->reply.state == SK_H1_STATUS && c->reply.n_head == 0) {
        close_conn(d, c);
        start(d, x, true);
        return;
    }
    sk_turn_over(x, c->state == CONNECTING ? SK_ROUND_CONNECT : SK_ROUND_BROKEN, sk_clock_ns(), why);
    release(d, c, false);
}

static void broke_errno(struct sk_direct *d, struct conn *c, const char *what, int error)
{
    char why[SK_ROUND_MAX_WHY];
    snprintf(why, sizeof why, "%s: %s", what, strerror(error));
    broke(d, c, why);
}

/* False: the connection is gone. */
static bool write_out(struct sk_direct *d, struct conn *c)
{
    while (c->n_sent < c->out.n) {
        ssize_t n = send(c->fd, c->out.p + c->n_sent, c->out.n - c->n_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            broke_errno(d, c, "sending the request", errno);
            return false;
        }
        c->n_sent += (size_t)n;
    }
    return true;
}

/* A socket that is connecting, or connected. NULL, with errno. */
static struct conn *open_conn(struct sk_direct *d)
{
    struct conn *c = sk_calloc(1, sizeof *c);
    int one = 1;
    if (!c) {
        errno = ENOMEM;
        return NULL;
    }
    sk_buf_init(&c->out, SK_LOAD_MAX_BODY + MAX_HEAD);
    c->state = CONNECTING;
    c->fd = socket(d->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (c->fd < 0)
        goto fail;
    if (d->addr.ss_family != AF_UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if ((connect(c->fd, (struct sockaddr *)&d->addr, d->n_addr) && errno != EINPROGRESS) ||
        epoll_ctl(d->epoll, EPOLL_CTL_ADD, c->fd, &e))
        goto fail;
    link_conn(&d->busy, c);
    return c;
fail:;
    int error = errno;
    if (c->fd >= 0)
        close(c->fd);
    sk_free(c);
    errno = error;
    return NULL;
}

/* Sends over an idle connection, or, where there is none or it is to be fresh, over a new one. */
static void start(struct sk_direct *d, struct sk_turn *x, bool fresh)
{
    struct conn *c = fresh ? NULL : d->idle;
    char why[SK_ROUND_MAX_WHY];
    if (!c && !(c = open_conn(d))) {
        snprintf(why, sizeof why, "opening a connection: %s", strerror(errno));
        sk_turn_over(x, SK_ROUND_CONNECT, sk_clock_ns(), why);
        d->conf->done(d->conf->arg, x);
        return;
    }
    sk_h1_init(&c->reply);
    sk_buf_clear(&c->out);
    c->n_sent = 0;
    c->x = x;
    x->carrier = c;
    sk_buf_add(&c->out, d->head, d->n_head);
    sk_buf_fmt(&c->out, "%zu\r\n\r\n", x->body.n);
    if (sk_buf_add(&c->out, x->body.p, x->body.n)) {
        sk_turn_over(x, SK_ROUND_CONNECT, sk_clock_ns(), "out of memory");
        release(d, c, false);
    } else if (c->state == IDLE) {
        to(d, c, BUSY);
        write_out(d, c);
    }
}

void sk_direct_send(struct sk_direct *d, struct sk_turn *x)
{
    x->rec.sent_ns = sk_clock_ns() - x->start_ns;
    start(d, x, false);
}

void sk_direct_drop(struct sk_direct *d, struct sk_turn *x)
{
    release(d, x->carrier, false);
}

/* ---- replies ---- */

/* False: the connection is gone or idle. */
static bool take_bytes(struct sk_direct *d, struct conn *c, const char *p, size_t n, uint64_t at_ns)
{
    struct sk_err err = {0};
    const char *body;
    size_t n_body;
    int rc = 0;
    while (c->x && (rc = sk_h1_next(&c->reply, &p, &n, &body, &n_body, &err)) == 1) {
        if (!c->x->rec.status)
            sk_turn_head(c->x, c->reply.status, c->reply.event_stream);
        if (!sk_turn_bytes(c->x, body, n_body, at_ns)) {
            release(d, c, false);
            return false;
        }
    }
    if (!c->x) { /* bytes that no request asked for */
        close_conn(d, c);
        return false;
    }
    if (rc) {
        sk_turn_over(c->x, SK_ROUND_HTTP, at_ns, err.msg);
        release(d, c, false);
        return false;
    }
    if (c->reply.state != SK_H1_DONE)
        return true;
    if (!c->x->rec.status)
        sk_turn_head(c->x, c->reply.status, c->reply.event_stream);
    sk_turn_end(c->x, at_ns);
    release(d, c, c->reply.keep && n == 0 && c->n_sent == c->out.n);
    return false;
}

static void take_eof(struct sk_direct *d, struct conn *c)
{
    if (!c->x || sk_h1_end(&c->reply)) {
        broke(d, c, "the server closed the connection before the reply was complete");
        return;
    }
    sk_turn_end(c->x, sk_clock_ns());
    release(d, c, false);
}

/* Reads until a read leaves the buffer unfilled: with EPOLLET that empties the socket, except that the end of the
 * stream has to be read on its own (`to_end`). */
static void read_in(struct sk_direct *d, struct conn *c, bool to_end)
{
    for (;;) {
        ssize_t n = recv(c->fd, d->in, sizeof d->in, 0);
        uint64_t at_ns = sk_clock_ns();
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            broke_errno(d, c, "reading the reply", errno);
            return;
        }
        if (n == 0) {
            take_eof(d, c);
            return;
        }
        if (!take_bytes(d, c, d->in, (size_t)n, at_ns) || (!to_end && (size_t)n < sizeof d->in))
            return;
    }
}

static void on_event(struct sk_direct *d, struct conn *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t n = sizeof error;
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) || error) {
            broke_errno(d, c, "connecting", error ? error : errno);
            return;
        }
        to(d, c, BUSY);
    }
    if ((events & EPOLLOUT) && c->n_sent < c->out.n && !write_out(d, c))
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        read_in(d, c, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
}

int sk_direct_poll(struct sk_direct *d, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err)
{
    struct epoll_event events[MAX_EVENTS];
    struct timespec t = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int n = epoll_pwait2(d->epoll, events, MAX_EVENTS, &t, NULL);
    *ret_woke_ns = sk_clock_ns();
    if (n < 0)
        return errno == EINTR ? 0 : sk_err_errno(err, SK_EIO, NULL, "waiting for the sockets");
    for (int i = 0; i < n; i++)
        on_event(d, events[i].data.ptr, events[i].events);
    return 0;
}

/* ---- the server ---- */

/* The first of the host's addresses that takes a connection. */
static int find_addr(struct sk_direct *d, const char *host, const char *port, struct sk_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = NULL;
    int rc = getaddrinfo(host, port, &hints, &all), error = 0;
    if (rc)
        return sk_err_set(err, SK_EUNAVAIL, NULL, "cannot find the host %s: %s", host, gai_strerror(rc));
    for (struct addrinfo *a = all; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool ok = fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0;
        error = errno;
        if (fd >= 0)
            close(fd);
        if (!ok)
            continue;
        memcpy(&d->addr, a->ai_addr, a->ai_addrlen);
        d->n_addr = a->ai_addrlen;
        freeaddrinfo(all);
        return 0;
    }
    freeaddrinfo(all);
    return sk_err_set(err, SK_EUNAVAIL, NULL, "cannot connect to %s port %s: %s", host, port, strerror(error));
}

static void set_socket(struct sk_direct *d, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&d->addr;
    un->sun_family = AF_UNIX;
    snprintf(un->sun_path, sizeof un->sun_path, "%s", path);
    d->n_addr = sizeof *un;
}

/* The host without the brackets of an IPv6 address. */
static void bare_host(const char *host, char ret[MAX_HOST])
{
    size_t n = strlen(host);
    if (*host == '[')
        snprintf(ret, MAX_HOST, "%.*s", (int)(n - 2), host + 1);
    else
        snprintf(ret, MAX_HOST, "%s", host);
}

static int make_head(struct sk_direct *d, const char *host, const char *port, const char *path)
{
    struct sk_buf b;
    sk_buf_init(&b, sizeof d->head);
    sk_buf_fmt(&b, "POST %s%s HTTP/1.1\r\nHost: %s:%s\r\n", strcmp(path, "/") == 0 ? "" : path, d->conf->path, host,
               port);
    for (const struct curl_slist *h = d->conf->target->headers; h; h = h->next)
        sk_buf_fmt(&b, "%s\r\n", h->data);
    sk_buf_str(&b, "Content-Length: ");
    int rc = b.failed;
    if (rc == 0) {
        memcpy(d->head, b.p, b.n);
        d->n_head = b.n;
    }
    sk_buf_done(&b);
    return rc;
}

static int find_server(struct sk_direct *d, struct sk_err *err)
{
    const struct sk_target *t = d->conf->target;
    char *host = NULL, *port = NULL, *path = NULL, bare[MAX_HOST];
    CURLU *u = curl_url();
    int rc = -SK_EINVAL;
    if (!u || curl_url_set(u, CURLUPART_URL, t->url, 0) || curl_url_get(u, CURLUPART_HOST, &host, 0) ||
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) || curl_url_get(u, CURLUPART_PATH, &path, 0)) {
        sk_err_set(err, SK_EINVAL, NULL, "%s is not a URL", t->url);
        goto out;
    }
    bare_host(host, bare);
    rc = 0;
    if (t->socket[0])
        set_socket(d, t->socket);
    else
        rc = find_addr(d, bare, port, err);
    if (rc == 0 && (rc = make_head(d, host, port, path)))
        sk_err_set(err, -rc, NULL, "the request's head is too long");
out:
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_url_cleanup(u);
    return rc;
}

int sk_direct_open(struct sk_direct **ret, const struct sk_net_conf *c, struct sk_err *err)
{
    struct sk_direct *d = sk_calloc(1, sizeof *d);
    if (!d)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    d->conf = c;
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    int rc = d->epoll < 0 ? sk_err_errno(err, SK_EIO, NULL, "epoll") : find_server(d, err);
    if (rc) {
        sk_direct_close(d);
        return rc;
    }
    *ret = d;
    return 0;
}

void sk_direct_close(struct sk_direct *d)
{
    if (!d)
        return;
    while (d->idle)
        close_conn(d, d->idle);
    while (d->busy)
        close_conn(d, d->busy);
    if (d->epoll >= 0)
        close(d->epoll);
    sk_free(d);
}
