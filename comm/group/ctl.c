#include "comm/group/ctl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "comm/group/ctl_open.h"
#include "comm/group/ring.h"
#include "comm/group/tcp.h"

/* Messages are frames in streams of bytes, the same in rings and on connections, so that one of any size goes through a
 * ring of any size. What each rank reads is always one ring, `in`: what comes by connections is put there by a thread,
 * `hear`. So a rank waits at one place only, a lost link is seen at once, and nobody's sending is held up by what the
 * other side has to say.
 *
 * On the leader's host, the plans ring: from the leader to the ranks there; the replies ring: from the first rank of
 * the last stage, if it is there, to the leader. To another host: a connection for each rank. At the rank's end `hear`
 * fills the rank's own plans ring from it; at the leader's end `hear` fills the replies ring, and puts reports into
 * slots.
 */
enum {
    RING_BYTES = 4 << 20, /* of plans; of replies at least */
    CHUNK = 64 << 10,
    MAX_INBOX = 4 * SK_CTL_MAX_MESSAGE,
    IDLE_US = 10000,
    KIND_REPLY = SK_CTL_QUIT + 1,
    KIND_REPORT,
    N_WORD = sizeof(struct sk_ctl_report) / 8
};
_Static_assert(sizeof(struct sk_ctl_report) % 8 == 0, "a report is copied by words");

struct frame {
    uint32_t n, kind; /* n: bytes that follow */
};

/* A report: `number` is odd while it is written, and who reads looks again if it has changed meanwhile. */
struct slot {
    _Alignas(64) _Atomic uint32_t number;
    _Atomic uint64_t word[N_WORD];
};

/* One end of a connection, and the frame that is just coming. */
struct peer {
    int rank, fd;
    struct frame frame;
    size_t n_head, n_body;
    struct sk_ctl_report report;
};

struct sk_ctl {
    int rank, size, reply_rank;
    bool far;           /* not on the leader's host */
    bool has_out;       /* somebody reads `out` */
    struct sk_ring in;  /* plans, or the leader's replies */
    struct sk_ring out; /* the leader's plans, or replies; not of a far rank */
    struct slot *slot;  /* [size]; not of a far rank */
    void *mem;          /* owned, or NULL: shared */
    struct sk_buf inbox, outbox;
    size_t handed;              /* bytes of inbox that the last message takes, which the caller may still be reading */
    struct sk_ctl_report *seen; /* the leader: [size] */
    struct peer *peer;
    int n_peer;
    bool hearing;
    pthread_t hear;
    struct sk_ring heard; /* hear's end of `in` */
    _Atomic bool lost;    /* a connection has ended */
};

/* ---- reports ---- */

static void slot_write(struct slot *s, const struct sk_ctl_report *r)
{
    uint64_t word[N_WORD];
    memcpy(word, r, sizeof word);
    uint32_t number = atomic_load(&s->number);
    atomic_store(&s->number, number + 1);
    for (int i = 0; i < N_WORD; i++)
        atomic_store(&s->word[i], word[i]);
    atomic_store(&s->number, number + 2);
}

/* Leaves *ret as it is where the writer is in the middle of it: it was stopped there, or is just faster. */
static void slot_read(struct slot *s, struct sk_ctl_report *ret)
{
    uint64_t word[N_WORD];
    for (int i = 0; i < 64; i++) {
        uint32_t number = atomic_load(&s->number);
        for (int k = 0; k < N_WORD; k++)
            word[k] = atomic_load(&s->word[k]);
        if (number % 2 == 0 && number == atomic_load(&s->number)) {
            memcpy(ret, word, sizeof word);
            return;
        }
    }
}

/* ---- what comes by connections ---- */

static int ring_put(struct sk_ring *r, const void *p, size_t n)
{
    for (size_t done = 0; done < n;) {
        done += sk_ring_write(r, (const char *)p + done, n - done);
        if (done == n)
            break;
        sk_ring_post(r);
        int rc = sk_ring_wait_room(r, 0);
        if (rc)
            return rc;
    }
    return 0;
}

static bool is_allowed(const struct sk_ctl *c, const struct peer *p)
{
    const struct frame *f = &p->frame;
    if (f->kind == KIND_REPORT)
        return !c->far && f->n == sizeof p->report;
    if (f->n > SK_CTL_MAX_MESSAGE)
        return false;
    return c->far ? f->kind == SK_CTL_PLAN || f->kind == SK_CTL_QUIT
                  : f->kind == KIND_REPLY && p->rank == c->reply_rank;
}

static size_t take_up_to(void *dst, size_t have, size_t want, const uint8_t *p, size_t n)
{
    size_t take = want - have < n ? want - have : n;
    memcpy((uint8_t *)dst + have, p, take);
    return take;
}

static int hear_bytes(struct sk_ctl *c, struct peer *p, const uint8_t *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        if (p->n_head < sizeof p->frame) {
            size_t got = take_up_to(&p->frame, p->n_head, sizeof p->frame, data + at, n - at);
            at += got;
            p->n_head += got;
            if (p->n_head < sizeof p->frame)
                return 0;
            p->n_body = 0;
            if (!is_allowed(c, p) || (p->frame.kind != KIND_REPORT && ring_put(&c->heard, &p->frame, sizeof p->frame)))
                return -SK_EIO;
        }
        size_t got = p->frame.n - p->n_body < n - at ? p->frame.n - p->n_body : n - at;
        if (p->frame.kind == KIND_REPORT)
            take_up_to(&p->report, p->n_body, sizeof p->report, data + at, got);
        else if (ring_put(&c->heard, data + at, got))
            return -SK_EIO;
        at += got;
        p->n_body += got;
        if (p->n_body < p->frame.n)
            continue;
        if (p->frame.kind == KIND_REPORT)
            slot_write(&c->slot[p->rank], &p->report);
        else
            sk_ring_post(&c->heard);
        p->n_head = 0;
    }
    return 0;
}

static int hear_peer(struct sk_ctl *c, struct peer *p, uint8_t *chunk)
{
    ssize_t n = recv(p->fd, chunk, CHUNK, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -SK_EIO;
    return n == 0 ? -SK_EIO : hear_bytes(c, p, chunk, (size_t)n);
}

static void *hear(void *arg)
{
    struct sk_ctl *c = arg;
    uint8_t chunk[CHUNK];
    struct pollfd pfd[SK_RING_MAX_READERS + 1];
    for (int i = 0; i < c->n_peer; i++)
        pfd[i] = (struct pollfd){.fd = c->peer[i].fd, .events = POLLIN};
    int rc = 0;
    while (rc == 0) {
        if (poll(pfd, (nfds_t)c->n_peer, -1) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < c->n_peer && rc == 0; i++) {
            if (pfd[i].revents)
                rc = hear_peer(c, &c->peer[i], chunk);
        }
    }
    atomic_store(&c->lost, true);
    sk_ring_close(&c->heard); /* whole frames that came before the end are there, and read first */
    return NULL;
}

/* ---- reading ---- */

/* Moves what is in the ring to the inbox: > 0 if there was something. */
static int fill(struct sk_ctl *c)
{
    int rc = sk_buf_reserve(&c->inbox, CHUNK);
    if (rc)
        return rc;
    size_t n = sk_ring_read(&c->in, c->inbox.p + c->inbox.n, CHUNK);
    c->inbox.n += n;
    return (int)n;
}

static int next_frame(struct sk_ctl *c, bool wait, struct frame *ret, const void **ret_p)
{
    sk_buf_drop(&c->inbox, c->handed);
    c->handed = 0;
    for (;;) {
        if (c->inbox.n >= sizeof *ret) {
            memcpy(ret, c->inbox.p, sizeof *ret);
            if (ret->n > SK_CTL_MAX_MESSAGE)
                return -SK_EIO;
            if (c->inbox.n - sizeof *ret >= ret->n) {
                c->handed = sizeof *ret + ret->n;
                *ret_p = c->inbox.p + sizeof *ret;
                return 1;
            }
        }
        bool closed = sk_ring_closed(&c->in); /* before the last look */
        int rc = fill(c);
        if (rc == 0 && closed)
            rc = -SK_EIO;
        else if (rc == 0 && !wait)
            return 0;
        else if (rc == 0)
            rc = sk_ring_wait(&c->in);
        if (rc < 0)
            return rc;
    }
}

int sk_ctl_next(struct sk_ctl *c, enum sk_ctl_kind *ret_kind, const void **ret, size_t *ret_n)
{
    struct frame f;
    int rc = next_frame(c, true, &f, ret);
    if (rc < 0)
        return rc;
    *ret_kind = (enum sk_ctl_kind)f.kind;
    *ret_n = f.n;
    return 0;
}

int sk_ctl_take(struct sk_ctl *c, bool wait, const void **ret, size_t *ret_n)
{
    struct frame f;
    int rc = next_frame(c, wait, &f, ret);
    if (rc > 0)
        *ret_n = f.n;
    return rc;
}

/* ---- writing ---- */

static int pack(struct sk_ctl *c, uint32_t kind, const void *p, size_t n)
{
    if (n > SK_CTL_MAX_MESSAGE)
        return -SK_ETOOBIG;
    struct frame f = {.n = (uint32_t)n, .kind = kind};
    sk_buf_clear(&c->outbox);
    sk_buf_add(&c->outbox, &f, sizeof f);
    return n ? sk_buf_add(&c->outbox, p, n) : c->outbox.failed;
}

/* While the others take nothing the leader takes what they say: they may be waiting for that. Their messages stay
 * behind the one that the caller has. */
static void leader_idle(void *arg)
{
    struct sk_ctl *c = arg;
    while (fill(c) > 0)
        ;
}

static int put_out(struct sk_ctl *c)
{
    const struct sk_buf *b = &c->outbox;
    for (size_t done = 0; done < b->n;) {
        done += sk_ring_write(&c->out, b->p + done, b->n - done);
        sk_ring_post(&c->out);
        if (done == b->n)
            break;
        int rc = sk_ring_wait_room(&c->out, IDLE_US);
        if (rc == -SK_EAGAIN && c->rank == 0)
            leader_idle(c);
        else if (rc && rc != -SK_EAGAIN)
            return rc;
        if (atomic_load(&c->lost))
            return -SK_EIO;
    }
    return 0;
}

int sk_ctl_send(struct sk_ctl *c, enum sk_ctl_kind kind, const void *p, size_t n)
{
    if (atomic_load(&c->lost))
        return -SK_EIO;
    sk_buf_drop(&c->inbox, c->handed);
    c->handed = 0;
    int rc = pack(c, kind, p, n);
    if (rc == 0 && c->has_out)
        rc = put_out(c);
    for (int i = 0; i < c->n_peer && rc == 0; i++)
        rc = sk_tcp_send(c->peer[i].fd, c->outbox.p, c->outbox.n, leader_idle, c);
    return rc;
}

static int send_to_leader(struct sk_ctl *c)
{
    return sk_tcp_send(c->peer[0].fd, c->outbox.p, c->outbox.n, NULL, NULL);
}

int sk_ctl_reply(struct sk_ctl *c, const void *p, size_t n)
{
    int rc = pack(c, KIND_REPLY, p, n);
    if (rc)
        return rc;
    return c->far ? send_to_leader(c) : put_out(c);
}

void sk_ctl_report(struct sk_ctl *c, const struct sk_ctl_report *r)
{
    if (!c->far)
        slot_write(&c->slot[c->rank], r);
    else if (pack(c, KIND_REPORT, r, sizeof *r) == 0)
        send_to_leader(c); /* a lost link is told by the next call that can tell it */
}

void sk_ctl_reports(struct sk_ctl *c, struct sk_ctl_report *ret)
{
    for (int i = 0; i < c->size; i++)
        slot_read(&c->slot[i], &c->seen[i]);
    memcpy(ret, c->seen, (size_t)c->size * sizeof *ret);
}

/* ---- open and close ---- */

static int count_near(const struct sk_ctl_conf *conf, int before)
{
    int n = 0;
    for (int i = 1; i < before; i++)
        n += conf->host[i] == conf->host[0];
    return n;
}

static int n_readers(const struct sk_ctl_conf *conf)
{
    int n = count_near(conf, conf->size);
    return n ? n : 1;
}

/* All replies that may be under way fit: the leader may wait for a rank that waits until its reply is taken. */
static size_t reply_bytes(const struct sk_ctl_conf *conf)
{
    size_t n = (conf->reply_bytes + 63) & ~(size_t)63;
    return n > RING_BYTES ? n : RING_BYTES;
}

size_t sk_ctl_bytes(const struct sk_ctl_conf *conf)
{
    return sk_ring_bytes(RING_BYTES, n_readers(conf)) + sk_ring_bytes(reply_bytes(conf), 1) +
           (size_t)conf->size * sizeof(struct slot);
}

static uint8_t *own_mem(struct sk_ctl *c, size_t n)
{
    c->mem = sk_calloc(1, n + 63);
    return c->mem ? (uint8_t *)(((uintptr_t)c->mem + 63) & ~(uintptr_t)63) : NULL;
}

/* Who writes and who reads which ring. */
static int bind_rings(struct sk_ctl *c, const struct sk_ctl_conf *conf)
{
    if (c->far) {
        uint8_t *plans = own_mem(c, sk_ring_bytes(RING_BYTES, 1));
        if (!plans)
            return -SK_ENOMEM;
        sk_ring_init(&c->in, plans, RING_BYTES, 1, 0);
        sk_ring_init(&c->heard, plans, RING_BYTES, 1, SK_RING_WRITER);
        return 0;
    }
    uint8_t *plans = conf->mem ? conf->mem : own_mem(c, sk_ctl_bytes(conf));
    if (!plans)
        return -SK_ENOMEM;
    uint8_t *replies = plans + sk_ring_bytes(RING_BYTES, n_readers(conf));
    c->slot = (struct slot *)(replies + sk_ring_bytes(reply_bytes(conf), 1));
    if (c->rank == 0) {
        c->has_out = count_near(conf, conf->size) > 0;
        sk_ring_init(&c->out, plans, RING_BYTES, n_readers(conf), SK_RING_WRITER);
        sk_ring_init(&c->in, replies, reply_bytes(conf), 1, 0);
        sk_ring_init(&c->heard, replies, reply_bytes(conf), 1, SK_RING_WRITER);
    } else {
        sk_ring_init(&c->out, replies, reply_bytes(conf), 1, SK_RING_WRITER);
        sk_ring_init(&c->in, plans, RING_BYTES, n_readers(conf), count_near(conf, conf->rank));
    }
    return 0;
}

/* Signals are for the control thread. */
static int start_hearing(struct sk_ctl *c)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    c->hearing = pthread_create(&c->hear, NULL, hear, c) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return c->hearing ? 0 : -SK_ENOMEM;
}

int sk_ctl_open(const struct sk_ctl_conf *conf, struct sk_ctl **ret, struct sk_err *err)
{
    sk_assert(conf->size > 1 && conf->size <= SK_RING_MAX_READERS + 1);
    int rc = -SK_ENOMEM;
    struct sk_ctl *c = sk_calloc(1, sizeof *c);
    struct peer *peer = sk_calloc((size_t)conf->size, sizeof *peer);
    struct sk_ctl_report *seen = sk_calloc((size_t)conf->size, sizeof *seen);
    if (!c || !peer || !seen) {
        for (int i = 0; i < conf->size; i++) {
            if (conf->fd[i] >= 0)
                close(conf->fd[i]);
        }
        sk_free(c);
        sk_free(peer);
        sk_free(seen);
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the control plane");
    }
    *c = (struct sk_ctl){.rank = conf->rank, .size = conf->size, .reply_rank = conf->reply_rank};
    c->far = conf->host[conf->rank] != conf->host[0];
    c->peer = peer;
    c->seen = seen;
    for (int i = 0; i < conf->size; i++) {
        if (conf->fd[i] >= 0)
            c->peer[c->n_peer++] = (struct peer){.rank = i, .fd = conf->fd[i]};
    }
    sk_buf_init(&c->inbox, MAX_INBOX);
    sk_buf_init(&c->outbox, sizeof(struct frame) + SK_CTL_MAX_MESSAGE);
    rc = bind_rings(c, conf);
    if (rc == 0)
        rc = sk_buf_reserve(&c->inbox, 2 * CHUNK);
    if (rc == 0)
        rc = sk_buf_reserve(&c->outbox, CHUNK);
    if (rc == 0 && c->n_peer)
        rc = start_hearing(c);
    if (rc) {
        sk_ctl_close(c);
        return sk_err_set(err, -rc, NULL, "no memory for the control plane");
    }
    *ret = c;
    return 0;
}

void sk_ctl_close(struct sk_ctl *c)
{
    if (!c)
        return;
    if (c->in.shared && (c->rank == 0 || c->far))
        sk_ring_close(&c->in);
    if (c->out.shared && c->rank == 0)
        sk_ring_close(&c->out);
    for (int i = 0; i < c->n_peer; i++)
        shutdown(c->peer[i].fd, SHUT_RDWR); /* hear's poll returns; what was sent still goes out */
    if (c->hearing)
        pthread_join(c->hear, NULL);
    for (int i = 0; i < c->n_peer; i++)
        close(c->peer[i].fd);
    sk_buf_done(&c->inbox);
    sk_buf_done(&c->outbox);
    sk_free(c->peer);
    sk_free(c->seen);
    sk_free(c->mem);
    sk_free(c);
}
