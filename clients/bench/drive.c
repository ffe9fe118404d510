#include "clients/bench/drive.h"

#include <sys/resource.h>

#include "clients/bench/agenda.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"

enum { TICK_NS = 200000000, CONNECT_AGAIN_NS = 100000000, MAX_BATCH = 256 };

/* A conversation with the exchange of its current turn. */
struct user {
    struct sk_turn x; /* first: an exchange is its user */
    struct sk_talk talk;
    struct user *next; /* in the list of free ones */
};

/* What is due: a user's next turn, or (NULL) a new conversation, which is followed by the next arrival in an open loop.
 *   conversation: due -> turn in flight -> (think) -> due ... -> over -> (closed loop) the next conversation is due */
struct driver {
    const struct sk_drive *conf;
    struct sk_round *round;
    struct sk_net net;
    struct sk_agenda agenda;
    struct sk_draw gaps;
    struct user *free;
    struct sk_turn *oldest, *newest; /* in flight, by when they were sent */
    uint64_t start_ns, n_in_flight, n_talk;
    uint64_t arrival_ns; /* of the last conversation of an open loop, since the start */
    bool is_over;        /* nothing more is sent */
    int rc;
};

/* ---- users ---- */

static struct user *new_user(struct driver *d)
{
    struct user *u = d->free;
    if (u) {
        d->free = u->next;
        return u;
    }
    u = sk_calloc(1, sizeof *u);
    if (!u)
        return NULL;
    sk_turn_init(&u->x);
    return u;
}

static void free_user(struct driver *d, struct user *u)
{
    sk_load_talk_done(&u->talk);
    u->next = d->free;
    d->free = u;
}

static void fly(struct driver *d, struct sk_turn *x)
{
    x->next = NULL;
    x->prev = d->newest;
    *(d->newest ? &d->newest->next : &d->oldest) = x;
    d->newest = x;
    d->n_in_flight++;
}

static void land(struct driver *d, struct sk_turn *x)
{
    *(x->prev ? &x->prev->next : &d->oldest) = x->next;
    *(x->next ? &x->next->prev : &d->newest) = x->prev;
    d->n_in_flight--;
}

static void push(struct driver *d, uint64_t due_ns, struct user *u)
{
    int rc = sk_agenda_push(&d->agenda, due_ns, u);
    if (rc) {
        d->rc = rc;
        if (u)
            free_user(d, u);
    }
}

/* ---- answers ---- */

/* The turn is over: the user thinks and goes on, or a new one comes. */
static void on_done(void *arg, struct sk_turn *x)
{
    struct driver *d = arg;
    struct user *u = (struct user *)x;
    land(d, x);
    sk_round_take(d->round, &x->rec, &d->conf->slo);
    bool goes_on = u->talk.turn < u->talk.n_turn && x->rec.end == SK_ROUND_OK && !x->text.failed;
    if (goes_on && sk_load_answer(d->conf->load, &u->talk, x->text.p ? x->text.p : "", x->text.n) == 0) {
        int64_t think_ms = sk_dist_draw(&d->conf->load->think_ms, &u->talk.draw, 0);
        push(d, x->rec.end_ns + (uint64_t)think_ms * 1000000, u);
        return;
    }
    uint64_t due_ns = x->rec.end_ns + (x->rec.end == SK_ROUND_CONNECT ? CONNECT_AGAIN_NS : 0);
    free_user(d, u);
    if (d->conf->concurrency)
        push(d, due_ns, NULL);
}

/* ---- requests ---- */

static void send_turn(struct driver *d, struct user *u, uint64_t due_ns)
{
    const struct sk_load *load = d->conf->load;
    struct sk_turn *x = &u->x;
    sk_turn_begin(x);
    int rc = sk_load_ask(load, &u->talk, &x->body, &x->ask);
    if (rc) {
        d->rc = rc;
        free_user(d, u);
        return;
    }
    x->talk = &u->talk;
    x->round = d->round;
    x->start_ns = d->start_ns;
    x->wants_stream = load->stream;
    x->wants_text = u->talk.turn < u->talk.n_turn;
    x->rec.due_ns = due_ns;
    x->rec.talk = u->talk.index;
    x->rec.turn = (uint16_t)u->talk.turn;
    d->round->n_sent++;
    fly(d, x);
    sk_net_send(&d->net, x);
}

/* When the next conversation of an open loop comes; false: never. */
static bool next_arrival(struct driver *d)
{
    const struct sk_trace *trace = d->conf->load->trace;
    if (d->conf->rate > 0) {
        d->arrival_ns += sk_dist_gap_ns(d->conf->gap, d->conf->rate, d->conf->burstiness, &d->gaps);
        return true;
    }
    if (d->n_talk >= trace->n)
        return false;
    d->arrival_ns = (uint64_t)(trace->items[d->n_talk].at_ms * 1e6 / d->conf->speed);
    return true;
}

static void send_new(struct driver *d, uint64_t due_ns)
{
    struct user *u = new_user(d);
    if (!u) {
        d->rc = -SK_ENOMEM;
        return;
    }
    sk_load_talk(d->conf->load, d->conf->first_talk + d->n_talk++, &u->talk);
    if (!d->conf->concurrency && next_arrival(d))
        push(d, d->arrival_ns, NULL);
    send_turn(d, u, due_ns);
}

static void send_due(struct driver *d)
{
    const struct sk_drive *c = d->conf;
    const struct sk_agenda_item *first;
    /* In batches, so that answers are read in between. */
    for (int n = 0; n < MAX_BATCH && d->rc == 0 && (first = sk_agenda_first(&d->agenda)); n++) {
        struct sk_agenda_item item = *first;
        d->is_over |= (c->max_requests && d->round->n_sent >= c->max_requests) ||
                      (c->duration_ns && item.due_ns >= c->duration_ns);
        if (d->is_over || d->n_in_flight >= c->max_in_flight || item.due_ns > sk_clock_ns() - d->start_ns)
            return;
        sk_agenda_pop(&d->agenda);
        if (item.what)
            send_turn(d, item.what, item.due_ns);
        else
            send_new(d, item.due_ns);
    }
}

/* All have the same time, so that the oldest is the first to run out of it. */
static void end_late(struct driver *d, uint64_t now_ns)
{
    while (d->oldest && now_ns >= d->oldest->rec.sent_ns + d->conf->timeout_ns) {
        sk_turn_over(d->oldest, SK_ROUND_TIMEOUT, now_ns + d->start_ns, "no end within --timeout");
        sk_net_drop(&d->net, d->oldest);
    }
}

static void cut(struct driver *d)
{
    d->is_over = true;
    d->round->was_cut = true;
    while (d->oldest) {
        sk_turn_over(d->oldest, SK_ROUND_CUT, sk_clock_ns(), "");
        sk_net_drop(&d->net, d->oldest);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int64_t time_to_wait(const struct driver *d, uint64_t now_ns, uint64_t tick_ns)
{
    const struct sk_agenda_item *first = sk_agenda_first(&d->agenda);
    uint64_t at_ns = tick_ns;
    if (d->oldest)
        at_ns = earlier(at_ns, d->oldest->rec.sent_ns + d->conf->timeout_ns);
    if (first && !d->is_over && d->n_in_flight < d->conf->max_in_flight)
        at_ns = earlier(at_ns, first->due_ns);
    return at_ns > now_ns ? (int64_t)(at_ns - now_ns) : 0;
}

/* Each pass: read what came, send what is due, wait for the sockets. What a pass takes without the wait is how late a
 * request or a timestamp can be by this program's doing. */
static int loop(struct driver *d, struct sk_err *err)
{
    uint64_t tick_ns = TICK_NS, woke_ns = sk_clock_ns(), now_ns = woke_ns - d->start_ns;
    while (d->rc == 0 && (d->n_in_flight || (!d->is_over && d->agenda.n))) {
        if (*d->conf->stop)
            cut(d);
        send_due(d);
        end_late(d, now_ns);
        if (now_ns >= tick_ns) {
            tick_ns = now_ns + TICK_NS;
            if (d->conf->tick)
                d->conf->tick(d->conf->arg, d->round, now_ns, d->n_in_flight);
        }
        now_ns = sk_clock_ns() - d->start_ns;
        sk_stat_add(&d->round->loop, (double)(now_ns + d->start_ns - woke_ns) / 1e6);
        if (d->n_in_flight == 0 && (d->is_over || !d->agenda.n))
            break;
        int rc = sk_net_poll(&d->net, time_to_wait(d, now_ns, tick_ns), &woke_ns, err);
        if (rc)
            return rc;
        now_ns = sk_clock_ns() - d->start_ns;
    }
    return d->rc ? sk_err_set(err, -d->rc, NULL, "%s", sk_err_text(d->rc)) : 0;
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* The first conversations: all users at once, or the first arrival. */
static void begin(struct driver *d)
{
    if (d->conf->concurrency)
        for (int64_t i = 0; i < d->conf->concurrency; i++)
            push(d, 0, NULL);
    else if (next_arrival(d))
        push(d, d->arrival_ns, NULL);
}

static void finish(struct driver *d)
{
    while (d->oldest) { /* after an error of the driver's own */
        struct sk_turn *x = d->oldest;
        sk_turn_over(x, SK_ROUND_CUT, sk_clock_ns(), "");
        sk_net_drop(&d->net, x);
    }
    for (const struct sk_agenda_item *i; (i = sk_agenda_first(&d->agenda)); sk_agenda_pop(&d->agenda))
        if (i->what)
            free_user(d, i->what);
    while (d->free) {
        struct user *u = d->free;
        d->free = u->next;
        sk_turn_done(&u->x);
        sk_free(u);
    }
    sk_agenda_done(&d->agenda);
    sk_net_close(&d->net);
}

int sk_drive(const struct sk_drive *conf, const struct sk_target *target, const char *path, struct sk_round *r,
             struct sk_err *err)
{
    struct driver d = {.conf = conf, .round = r};
    const struct sk_net_conf net = {.target = target, .path = path, .done = on_done, .arg = &d};
    int rc = sk_net_open(&d.net, &net, err);
    if (rc)
        return rc;
    sk_draw_init(&d.gaps, conf->load->seed, SK_DRAW_GAP, conf->first_talk);
    double cpu = cpu_s();
    d.start_ns = sk_clock_ns();
    begin(&d);
    rc = loop(&d, err);
    finish(&d);
    r->own_cpu_s = cpu_s() - cpu;
    return rc;
}
