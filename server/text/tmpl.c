/* Renders are queued; an idle helper takes the oldest. A helper is OFF -> STARTING (imports, compiles) -> IDLE <->
 * BUSY, and from any of these -> ENDING -> OFF when it dies or is killed. Helpers end by themselves when we do: their
 * stdin closes. */
#define _GNU_SOURCE /* memfd_create */
#include "server/text/tmpl.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/buf.h"
#include "comm/base/json.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/text/helper.h"
#include "server/text/token.h"

extern const char sk_tmpl_helper[]; /* tmpl_helper.py */

enum {
    N_HELPERS = 2,
    MAX_QUEUED = 4096,
    MAX_QUEUED_BYTES = 256 << 20,
    MAX_ERROR_BYTES = 4096,
    START_MS = 10000,
    MAX_TRIES = 2,            /* a helper that somebody killed costs nobody an answer */
    MEMORY_BYTES = 512 << 20, /* address space of a helper; 40 MiB of it before the first render */
};

enum helper_state { HELPER_OFF, HELPER_STARTING, HELPER_IDLE, HELPER_BUSY, HELPER_ENDING };

struct render {
    TAILQ_ENTRY(render) link;
    int id, tries;
    sk_tmpl_cb *cb; /* NULL: cancelled */
    void *arg;
    size_t n;
    char frame[]; /* length, then the JSON text */
};
TAILQ_HEAD(render_list, render);

struct helper {
    struct sk_tmpl *tmpl;
    enum helper_state state;
    uv_process_t process;
    uv_pipe_t in, out; /* its stdin and stdout */
    uv_write_t write;
    uv_timer_t wall;
    struct sk_buf rx;
    struct render *job;
    bool exited, eof, timed_out, was_ready, writing, was_started;
    bool no_memory; /* it is ended because of us: what it says cannot be taken */
    int signum, n_open;
    char chunk[16384];
};

struct sk_tmpl {
    uv_loop_t *loop;
    struct helper helpers[N_HELPERS];
    struct render_list queue;
    size_t n_queued, queued_bytes;
    struct sk_buf hello; /* the first frame of every helper; empty = no template */
    int wall_ms, max_out_bytes, last_id, n_bad_starts, n_handles;
    uint64_t n_restarts;
    uv_timer_t kick;
    bool closing;
    void (*done)(void *arg);
    void *done_arg;
};

static void on_kick(uv_timer_t *timer);

/* --- renders --- */

static void unqueue(struct sk_tmpl *t, struct render *r)
{
    TAILQ_REMOVE(&t->queue, r, link);
    t->n_queued--;
    t->queued_bytes -= r->n;
}

static void finish(struct render *r, int rc, const char *text, size_t n, const struct sk_err *err)
{
    if (r->cb)
        r->cb(r->arg, rc, text, n, err);
    sk_free(r);
}

static void finish_error(struct render *r, int code, const char *msg, size_t n)
{
    struct sk_err err;
    int rc = sk_err_set(&err, code, NULL, "%.*s", (int)n, msg);
    finish(r, rc, NULL, 0, &err);
}

static void fail_queue(struct sk_tmpl *t, int code, const char *msg, size_t n)
{
    struct render *r;
    while ((r = TAILQ_FIRST(&t->queue))) {
        unqueue(t, r);
        finish_error(r, code, msg, n);
    }
}

static void kick(struct sk_tmpl *t)
{
    if (!t->closing)
        uv_timer_start(&t->kick, on_kick, 0, 0);
}

/* --- the end of a helper --- */

static void handle_closed(struct sk_tmpl *t)
{
    if (--t->n_handles > 0 || !t->closing)
        return;
    void (*done)(void *arg) = t->done;
    void *arg = t->done_arg;
    sk_buf_done(&t->hello);
    for (int i = 0; i < N_HELPERS; i++)
        sk_buf_done(&t->helpers[i].rx);
    sk_free(t);
    if (done)
        done(arg);
}

static void on_own_handle_closed(uv_handle_t *h)
{
    handle_closed(h->data);
}

/* What becomes of the render that it died on. */
static void settle(struct helper *h)
{
    struct sk_tmpl *t = h->tmpl;
    struct render *r = h->job;
    static const char no_memory[] = "out of memory";
    char msg[128];
    h->job = NULL;
    if (!r)
        return;
    if (h->no_memory) {
        finish_error(r, SK_ENOMEM, no_memory, sizeof no_memory - 1);
    } else if (h->timed_out || h->signum == SIGXCPU) {
        snprintf(msg, sizeof msg, "the chat template took longer than %d ms", t->wall_ms);
        finish_error(r, SK_ETIMEOUT, msg, strlen(msg));
    } else if (++r->tries < MAX_TRIES && !t->closing) {
        TAILQ_INSERT_HEAD(&t->queue, r, link);
        t->n_queued++;
        t->queued_bytes += r->n;
    } else {
        snprintf(msg, sizeof msg, "the chat template ends its helper process (signal %d)", h->signum);
        finish_error(r, SK_ETMPL, msg, strlen(msg));
    }
}

static void on_process_closed(uv_handle_t *handle)
{
    struct helper *h = handle->data;
    static const char msg[] = "the helper process for chat templates does not start";
    struct sk_tmpl *t = h->tmpl;
    if (--h->n_open > 0)
        return;
    h->state = HELPER_OFF;
    settle(h);
    if (!h->was_ready && ++t->n_bad_starts >= MAX_TRIES) {
        t->n_bad_starts = 0; /* the next render tries again */
        fail_queue(t, SK_EINTERNAL, msg, sizeof msg - 1);
    }
    if (t->n_queued > 0)
        kick(t);
    handle_closed(t);
}

static void close_if_over(struct helper *h)
{
    if (!h->exited || !h->eof || h->n_open < 3 || uv_is_closing((uv_handle_t *)&h->process))
        return;
    uv_timer_stop(&h->wall);
    uv_close((uv_handle_t *)&h->process, on_process_closed);
    uv_close((uv_handle_t *)&h->in, on_process_closed);
    uv_close((uv_handle_t *)&h->out, on_process_closed);
}

static void end_helper(struct helper *h)
{
    if (h->state == HELPER_OFF || h->state == HELPER_ENDING)
        return;
    h->state = HELPER_ENDING;
    if (!h->exited)
        uv_process_kill(&h->process, SIGKILL);
}

static void on_exit(uv_process_t *p, int64_t status, int signum)
{
    struct helper *h = p->data;
    h->exited = true; /* what it said before may still have to be read */
    h->signum = signum;
    close_if_over(h);
}

static void on_wall(uv_timer_t *timer)
{
    struct helper *h = timer->data;
    sk_log(SK_LOG_WARN, "template helper pid=%d is killed: too slow", uv_process_get_pid(&h->process));
    h->timed_out = true;
    end_helper(h);
}

/* --- answers --- */

static void take_ready(struct helper *h, const struct sk_helper_frame *f)
{
    struct sk_tmpl *t = h->tmpl;
    uv_timer_stop(&h->wall);
    h->was_ready = true; /* or says why not: in both cases it is not a bad start */
    if (f->letter == SK_HELPER_READY) {
        t->n_bad_starts = 0;
        h->state = HELPER_IDLE;
        kick(t);
        return;
    }
    end_helper(h);
    fail_queue(t, SK_ETMPL, f->text, f->n);
}

static void take_answer(struct helper *h, const struct sk_helper_frame *f)
{
    struct render *r = h->job;
    h->job = NULL;
    h->state = HELPER_IDLE;
    uv_timer_stop(&h->wall);
    kick(h->tmpl);
    if (f->letter == SK_HELPER_OUTPUT)
        finish(r, 0, f->text, f->n, NULL);
    else
        finish_error(r, f->letter == SK_HELPER_BIG ? SK_ETOOBIG : SK_ETMPL, f->text, f->n);
}

/* False: the helper is out of its mind. It may say R or T when it starts, O, B or T to what it has read, and nothing
 * else. */
static bool take_frame(struct helper *h)
{
    struct sk_helper_frame f;
    int rc = sk_helper_read(&h->rx, &f);
    if (rc <= 0)
        return rc == 0;
    bool to_start = h->state == HELPER_STARTING && (f.letter == SK_HELPER_READY || f.letter == SK_HELPER_TROUBLE);
    bool to_job = h->state == HELPER_BUSY && f.letter != SK_HELPER_READY;
    if (h->writing || (!to_start && !to_job))
        return false;
    if (to_start)
        take_ready(h, &f);
    else
        take_answer(h, &f);
    sk_buf_done(&h->rx); /* a long prompt's memory is not kept */
    return true;
}

static void give_chunk(uv_handle_t *handle, size_t hint, uv_buf_t *buf)
{
    struct helper *h = handle->data;
    *buf = uv_buf_init(h->chunk, sizeof h->chunk);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct helper *h = s->data;
    if (n < 0) {
        h->eof = true;
        end_helper(h);
        close_if_over(h);
    } else if (h->state != HELPER_ENDING) {
        h->no_memory = sk_buf_add(&h->rx, buf->base, (size_t)n) == -SK_ENOMEM;
        if (h->rx.failed || !take_frame(h))
            end_helper(h);
    }
}

/* --- start --- */

static void on_written(uv_write_t *w, int status)
{
    struct helper *h = w->data;
    h->writing = false;
}

/* The bytes must stay until they are written or the helper is OFF. */
static void send_frame(struct helper *h, const char *p, size_t n)
{
    uv_buf_t b = uv_buf_init((char *)p, (unsigned)n);
    h->write.data = h;
    int rc = uv_write(&h->write, (uv_stream_t *)&h->in, &b, 1, on_written);
    h->writing = rc == 0;
    h->no_memory = rc == UV_ENOMEM;
    if (!h->writing)
        end_helper(h);
}

/* The script as a file that exists in memory only: a command line would show it in every list of processes. */
static int open_script(void)
{
    size_t n = strlen(sk_tmpl_helper);
    int fd = memfd_create("skein-template-helper", MFD_CLOEXEC);
    if (fd >= 0 && (write(fd, sk_tmpl_helper, n) != (ssize_t)n || lseek(fd, 0, SEEK_SET) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd < 0 ? -errno : fd;
}

static int spawn(struct helper *h)
{
    char *python = access(SK_PYTHON, X_OK) == 0 ? SK_PYTHON : "python3";
    char *args[] = {python, "-I", "/dev/fd/3", NULL};
    char *env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", NULL};
    int script = open_script();
    uv_stdio_container_t stdio[4] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&h->in},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&h->out},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = script},
    };
    const uv_process_options_t options = {
        .file = python, .args = args, .env = env, .cwd = "/", .exit_cb = on_exit, .stdio_count = 4, .stdio = stdio};
    int rc = uv_spawn(h->tmpl->loop, &h->process, &options); /* without a script too: it makes the handle, and fails */
    if (script < 0)
        return script;
    close(script);
    return rc;
}

static void start_helper(struct helper *h)
{
    struct sk_tmpl *t = h->tmpl;
    h->state = HELPER_STARTING;
    t->n_restarts += h->was_started;
    h->was_started = true;
    h->exited = h->eof = h->timed_out = h->no_memory = h->was_ready = false;
    h->signum = 0;
    sk_buf_clear(&h->rx);
    uv_pipe_init(t->loop, &h->in, 0);
    uv_pipe_init(t->loop, &h->out, 0);
    h->process.data = h->in.data = h->out.data = h;
    h->n_open = 3;
    t->n_handles++; /* the three of them */
    int rc = spawn(h);
    if (rc != 0) {
        sk_log(SK_LOG_ERROR, "template helper does not start: %s", uv_strerror(rc));
        h->exited = h->eof = true;
        h->state = HELPER_ENDING;
        close_if_over(h);
        return;
    }
    uv_read_start((uv_stream_t *)&h->out, give_chunk, on_read);
    uv_timer_start(&h->wall, on_wall, START_MS, 0);
    send_frame(h, t->hello.p, t->hello.n);
}

static void give_job(struct helper *h)
{
    struct render *r = TAILQ_FIRST(&h->tmpl->queue);
    unqueue(h->tmpl, r);
    h->job = r;
    h->state = HELPER_BUSY;
    uv_timer_start(&h->wall, on_wall, (uint64_t)h->tmpl->wall_ms, 0);
    send_frame(h, r->frame, r->n);
}

static void dispatch(struct sk_tmpl *t)
{
    size_t n_starting = 0;
    for (int i = 0; i < N_HELPERS; i++) {
        if (t->helpers[i].state == HELPER_IDLE && t->n_queued > 0)
            give_job(&t->helpers[i]);
        n_starting += t->helpers[i].state == HELPER_STARTING;
    }
    for (int i = 0; i < N_HELPERS && n_starting < t->n_queued; i++) {
        if (t->helpers[i].state == HELPER_OFF) {
            start_helper(&t->helpers[i]);
            n_starting++;
        }
    }
}

static void on_kick(uv_timer_t *timer)
{
    dispatch(timer->data);
}

static void put_quoted(struct sk_buf *b, const char *key, const char *value)
{
    sk_buf_fmt(b, "\"%s\":", key);
    sk_json_quote(b, value ? value : "", value ? strlen(value) : 0);
    sk_buf_char(b, ',');
}

static int put_hello(struct sk_buf *b, const struct sk_tmpl_conf *conf)
{
    uint32_t n = 0;
    sk_buf_add(b, &n, sizeof n);
    sk_buf_char(b, '{');
    put_quoted(b, "template", conf->source);
    put_quoted(b, "bos_token", conf->bos_token);
    put_quoted(b, "eos_token", conf->eos_token);
    sk_buf_str(b, "\"guarded\":[");
    for (size_t i = 0; i < conf->n_guarded; i++) {
        sk_buf_str(b, i ? "," : "");
        sk_json_quote(b, conf->guarded[i], strlen(conf->guarded[i]));
    }
    sk_buf_fmt(b, "],\"max_out_bytes\":%d,\"memory_bytes\":%d,\"cpu_s\":%d}", conf->max_out_bytes, MEMORY_BYTES,
               conf->wall_ms / 1000 + 1);
    if (b->failed)
        return b->failed;
    n = (uint32_t)(b->n - sizeof n);
    memcpy(b->p, &n, sizeof n);
    return 0;
}

int sk_tmpl_new(struct uv_loop_s *loop, const struct sk_tmpl_conf *conf, struct sk_tmpl **ret, struct sk_err *err)
{
    struct sk_tmpl *t = sk_calloc(1, sizeof *t);
    if (!t)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    t->loop = loop;
    t->wall_ms = conf->wall_ms;
    t->max_out_bytes = conf->max_out_bytes;
    TAILQ_INIT(&t->queue);
    sk_buf_init(&t->hello, 64 << 20);
    if (conf->source && put_hello(&t->hello, conf) != 0) {
        int rc = sk_err_set(err, t->hello.failed, NULL, "the chat template is too long");
        sk_buf_done(&t->hello);
        sk_free(t);
        return rc;
    }
    uv_timer_init(loop, &t->kick);
    t->kick.data = t;
    for (int i = 0; i < N_HELPERS; i++) {
        struct helper *h = &t->helpers[i];
        h->tmpl = t;
        sk_buf_init(&h->rx, (size_t)conf->max_out_bytes + MAX_ERROR_BYTES + 8);
        uv_timer_init(loop, &h->wall);
        h->wall.data = h;
    }
    t->n_handles = 1 + N_HELPERS;
    *ret = t;
    return 0;
}

static void on_wall_closed(uv_handle_t *handle)
{
    handle_closed(((struct helper *)handle->data)->tmpl);
}

void sk_tmpl_close(struct sk_tmpl *t, void (*done)(void *arg), void *arg)
{
    static const char msg[] = "the server is stopping";
    t->closing = true;
    t->done = done;
    t->done_arg = arg;
    fail_queue(t, SK_EUNAVAIL, msg, sizeof msg - 1);
    for (int i = 0; i < N_HELPERS; i++) {
        struct helper *h = &t->helpers[i];
        if (h->job && h->job->cb) {
            struct sk_err err;
            int rc = sk_err_set(&err, SK_EUNAVAIL, NULL, "%s", msg);
            h->job->cb(h->job->arg, rc, NULL, 0, &err);
            h->job->cb = NULL; /* its bytes may be on their way: they are freed with the helper */
        }
        end_helper(h);
        uv_close((uv_handle_t *)&h->wall, on_wall_closed);
    }
    uv_close((uv_handle_t *)&t->kick, on_own_handle_closed);
}

int sk_tmpl_render(struct sk_tmpl *t, const char *json, size_t n, sk_tmpl_cb *cb, void *arg, struct sk_err *err)
{
    if (t->hello.n == 0)
        return sk_err_set(err, SK_EUNSUP, "messages",
                          "The model has no chat template. Use /v1/completions, or give one with --chat-template.");
    if (t->closing || t->n_queued >= MAX_QUEUED || t->queued_bytes + n > MAX_QUEUED_BYTES)
        return sk_err_set(err, SK_EQUEUE, NULL, "Too many chat templates wait for rendering.");
    struct render *r = sk_calloc(1, sizeof *r + 4 + n);
    if (!r)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    uint32_t len = (uint32_t)n;
    memcpy(r->frame, &len, sizeof len);
    memcpy(r->frame + sizeof len, json, n);
    r->n = n + sizeof len;
    r->cb = cb;
    r->arg = arg;
    r->id = t->last_id = t->last_id % INT32_MAX + 1;
    TAILQ_INSERT_TAIL(&t->queue, r, link);
    t->n_queued++;
    t->queued_bytes += r->n;
    kick(t);
    return r->id;
}

uint64_t sk_tmpl_restarts(const struct sk_tmpl *t)
{
    return t->n_restarts;
}

void sk_tmpl_cancel(struct sk_tmpl *t, int id)
{
    struct render *r;
    TAILQ_FOREACH(r, &t->queue, link)
    {
        if (r->id == id) {
            unqueue(t, r);
            sk_free(r);
            return;
        }
    }
    for (int i = 0; i < N_HELPERS; i++) { /* being rendered: goes on, for nobody */
        if (t->helpers[i].job && t->helpers[i].job->id == id)
            t->helpers[i].job->cb = NULL;
    }
}
