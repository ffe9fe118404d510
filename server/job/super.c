#include "server/job/super.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "server/job/child.h"

enum {
    MAX_ARGS = 64,
    FIRST_BACKOFF_MS = 100,
    MAX_BACKOFF_MS = 10000,
    STEADY_MS = 10000,     /* READY for so long, and the back-off begins anew */
    MAX_FAILED_STARTS = 5, /* in a row, without READY between */
    MAX_BEAT_MS = 5000,
    QUIT_GRACE_MS = 5000
};

struct sk_super {
    struct sk_super_conf conf;
    uv_loop_t *loop;
    uv_timer_t timer; /* start, back-off, grace */
    uv_timer_t beat;
    enum sk_engine_state state;
    uint32_t permille, restarts, n_failed_starts, backoff_ms;
    char text[512];
    char dir[1024], digest[40];
    char refused[448];     /* what the engine said when it gave up, or why we gave it up */
    char build_error[448]; /* what skein-build said last */
    struct sk_child *child;
    struct sk_link *link;
    bool was_ready;    /* at least once */
    bool killed_by_us; /* hung or broke the protocol: its own fault */
    uint64_t beat_number, ready_ms, step;
    uint32_t unheard, unmoved; /* beats since the last frame, since the last step: beats, not time, so that a stopped
                                  daemon blames nobody */
    int n_handles;
    void (*done)(void *arg);
    void *done_arg;
};

static void on_start(uv_timer_t *t);

/* --- state --- */

static void to(struct sk_super *s, enum sk_engine_state state)
{
    static const unsigned next[] = {
        [SK_ENGINE_BUILDING] =
            1u << SK_ENGINE_BUILDING | 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_STARTING] = 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_READY | 1u << SK_ENGINE_BACKOFF |
                               1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_READY] = 1u << SK_ENGINE_BACKOFF | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_BACKOFF] = 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_FAILED] = 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_STOPPING] = 1u << SK_ENGINE_STOPPED,
        [SK_ENGINE_STOPPED] = 0,
    };
    sk_assert(next[s->state] & (1u << state));
    s->state = state;
    if (s->conf.on_state && state < SK_ENGINE_STOPPING)
        s->conf.on_state(s->conf.arg);
}

static void progress(struct sk_super *s, const char *what, uint32_t permille)
{
    s->permille = permille > 1000 ? 1000 : permille;
    snprintf(s->text, sizeof s->text, "%s %u %%", what, s->permille / 10);
}

static void fail(struct sk_super *s, const char *why)
{
    snprintf(s->text, sizeof s->text, "%s", why); /* the owner says it aloud */
    to(s, SK_ENGINE_FAILED);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct sk_super *s = h->data;
    if (--s->n_handles > 0)
        return;
    void (*done)(void *arg) = s->done;
    void *arg = s->done_arg;
    to(s, SK_ENGINE_STOPPED);
    sk_free(s);
    if (done)
        done(arg);
}

static void finish_close(struct sk_super *s)
{
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->beat, on_handle_closed);
}

/* --- command lines --- */

struct args {
    char *v[MAX_ARGS + 1];
    int n;
    int rc; /* the first failure */
};

static void args_add(struct args *a, const char *fmt, const char *value)
{
    char s[2200];
    snprintf(s, sizeof s, fmt, value);
    char *copy = a->n < MAX_ARGS ? sk_strdup(s) : NULL;
    if (copy)
        a->v[a->n++] = copy;
    else if (!a->rc)
        a->rc = -SK_ENOMEM;
}

static void args_conf(struct args *a, const struct sk_conf *conf, unsigned prog)
{
    int n = sk_conf_to_args(conf, prog, a->v + a->n, MAX_ARGS - a->n);
    if (n >= 0)
        a->n += n;
    else if (!a->rc)
        a->rc = n;
}

static void args_done(struct args *a)
{
    for (int i = 0; i < a->n; i++)
        sk_free(a->v[i]);
}

static int start_child(struct sk_super *s, struct args *a, const struct sk_child_conf *conf, struct sk_err *err)
{
    struct sk_child_conf c = *conf;
    c.argv = a->v;
    c.arg = s;
    int rc = a->rc ? sk_err_set(err, a->rc, NULL, "no command line: %s", sk_err_text(a->rc))
                   : sk_child_start(s->loop, &c, &s->child, err);
    args_done(a);
    return rc;
}

/* --- building --- */

static void on_build_line(void *arg, bool is_stderr, const char *line)
{
    struct sk_super *s = arg;
    if (is_stderr) {
        fprintf(stderr, "%s\n", line);
    } else if (strncmp(line, "error ", 6) == 0) {
        snprintf(s->build_error, sizeof s->build_error, "%s", line + 6);
    } else if (strncmp(line, "progress ", 9) == 0) { /* percent */
        progress(s, "building", 10 * (uint32_t)strtoul(line + 9, NULL, 10));
    } else if (strncmp(line, "dir ", 4) == 0) {
        snprintf(s->dir, sizeof s->dir, "%s", line + 4);
    }
}

static void begin(struct sk_super *s);

static void on_build_exit(void *arg, int status)
{
    struct sk_super *s = arg;
    char why[512];
    s->child = NULL;
    if (s->state == SK_ENGINE_STOPPING) {
        finish_close(s);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && s->dir[0]) {
        begin(s);
    } else {
        if (WIFSIGNALED(status))
            snprintf(why, sizeof why, "skein-build ended with signal %d", WTERMSIG(status));
        else
            snprintf(why, sizeof why, "%s", s->build_error[0] ? s->build_error : "skein-build failed without a word");
        fail(s, why);
    }
}

static void build(struct sk_super *s)
{
    const struct sk_conf *c = s->conf.conf;
    struct args a = {0};
    struct sk_err err;
    args_add(&a, "%s/skein-build", s->conf.bin_dir);
    args_add(&a, "--cache=%s", c->model);
    args_add(&a, "%s", "--porcelain");
    args_conf(&a, c, SK_PROG_BUILD);
    progress(s, "building", 0);
    const struct sk_child_conf child = {.fd = -1, .lines = true, .on_line = on_build_line, .on_exit = on_build_exit};
    if (start_child(s, &a, &child, &err) != 0)
        fail(s, err.msg);
}

/* The directory is there. Its digest makes sure that engine and tokenizer are of one build. */
static void begin(struct sk_super *s)
{
    struct sk_dir dir;
    struct sk_err err;
    if (sk_dir_open(s->dir, &dir, &err) != 0) {
        fail(s, err.msg);
        return;
    }
    snprintf(s->digest, sizeof s->digest, "%s", dir.digest);
    sk_dir_close(&dir);
    s->conf.on_dir(s->conf.arg, s->dir);
    if (s->state == SK_ENGINE_BUILDING) /* on_dir may have closed us */
        uv_timer_start(&s->timer, on_start, 0, 0);
}

/* --- the engine's end --- */

static void kill_engine(struct sk_super *s, const char *why)
{
    if (!s->child || s->killed_by_us)
        return;
    sk_log(SK_LOG_ERROR, "engine pid=%d is killed: %s", sk_child_pid(s->child), why);
    snprintf(s->refused, sizeof s->refused, "%s", why);
    s->killed_by_us = true;
    sk_child_kill(s->child, SIGKILL);
}

/* These come from outside (an operator, the kernel short of memory) and say nothing about the requests on board. */
static bool is_own_fault(const struct sk_super *s, int status)
{
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return s->killed_by_us || !(sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP);
}

static void describe_end(const struct sk_super *s, int status, char *ret, size_t n)
{
    if (s->refused[0])
        snprintf(ret, n, "%s", s->refused);
    else if (WIFSIGNALED(status))
        snprintf(ret, n, "the engine ended with signal %d", WTERMSIG(status));
    else
        snprintf(ret, n, "the engine exited with status %d", WEXITSTATUS(status));
}

/* An engine that was not READY says no by itself, or is broken; one that was is given time. */
static void back_off(struct sk_super *s, const char *why, bool was_up)
{
    if (!was_up && ((!s->was_ready && s->refused[0]) || ++s->n_failed_starts >= MAX_FAILED_STARTS)) {
        fail(s, why);
        return;
    }
    if (was_up) {
        s->n_failed_starts = 0;
        if (uv_now(s->loop) - s->ready_ms >= STEADY_MS)
            s->backoff_ms = 0;
    }
    uint64_t ms = s->backoff_ms ? s->backoff_ms : was_up ? 0 : FIRST_BACKOFF_MS;
    s->backoff_ms = s->backoff_ms == 0                   ? FIRST_BACKOFF_MS
                    : s->backoff_ms * 2 < MAX_BACKOFF_MS ? s->backoff_ms * 2
                                                         : MAX_BACKOFF_MS;
    s->restarts++;
    snprintf(s->text, sizeof s->text, "%.448s, starting again in %.1f s", why, (double)ms / 1e3);
    sk_log(SK_LOG_WARN, "%s", s->text);
    to(s, SK_ENGINE_BACKOFF);
    uv_timer_start(&s->timer, on_start, ms, 0);
}

static void on_engine_exit(void *arg, int status)
{
    struct sk_super *s = arg;
    char why[512];
    s->child = NULL;
    uv_timer_stop(&s->beat);
    if (s->link) {
        sk_link_drain(s->link); /* its last frames, among them why it gave up */
        sk_link_close(s->link);
        s->link = NULL;
    }
    if (s->state == SK_ENGINE_STOPPING) {
        finish_close(s);
        return;
    }
    bool was_up = s->state == SK_ENGINE_READY;
    describe_end(s, status, why, sizeof why);
    back_off(s, why, was_up);
    if (was_up || s->state == SK_ENGINE_FAILED)
        s->conf.on_lost(s->conf.arg, is_own_fault(s, status));
}

static void on_link_down(void *arg, const char *why)
{
    struct sk_super *s = arg;
    if (s->state == SK_ENGINE_STOPPING || !s->child)
        return;
    if (strcmp(why, "connection lost") == 0)
        sk_child_kill(s->child, SIGKILL); /* most likely it has ended by itself; else it is of no use now */
    else
        kill_engine(s, why);
}

/* --- frames --- */

static void on_hello(struct sk_super *s, const struct sk_wire_hello *h)
{
    if (s->state != SK_ENGINE_STARTING)
        return;
    if (h->version != SK_WIRE_VERSION || strcmp(h->build, SK_VERSION) != 0) {
        kill_engine(s, "skein-engine is of another version than skeind");
        return;
    }
    if (strcmp(h->digest, s->digest) != 0 || h->credit == 0) {
        kill_engine(s, "the engine serves another directory, or nothing");
        return;
    }
    s->was_ready = true;
    s->ready_ms = uv_now(s->loop);
    s->unmoved = 0;
    s->permille = 1000;
    snprintf(s->text, sizeof s->text, "ready");
    sk_log(SK_LOG_INFO, "engine ready pid=%u backend=%s max_len=%u max_seqs=%u blocks=%u", h->pid, h->isa, h->max_len,
           h->max_seqs, h->n_blk[0]);
    to(s, SK_ENGINE_READY);
    s->conf.on_up(s->conf.arg, h);
}

static void moved(struct sk_super *s, uint64_t step)
{
    if (step == s->step)
        return;
    s->step = step;
    s->unmoved = 0;
}

static void on_engine_state(struct sk_super *s, const struct sk_wire_state *st)
{
    if (st->failed)
        snprintf(s->refused, sizeof s->refused, "%s", st->text);
    else if (s->state == SK_ENGINE_STARTING)
        progress(s, "loading", st->permille);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
    struct sk_super *s = arg;
    s->unheard = 0;
    switch (f->kind) {
    case SK_FRAME_HELLO:
        on_hello(s, (const struct sk_wire_hello *)f);
        break;
    case SK_FRAME_STATE:
        on_engine_state(s, (const struct sk_wire_state *)f);
        break;
    case SK_FRAME_BEAT:
        moved(s, ((const struct sk_wire_beat *)f)->step);
        break;
    case SK_FRAME_TOKENS:
        moved(s, ((const struct sk_wire_tokens *)f)->step);
        if (s->state == SK_ENGINE_READY)
            s->conf.on_frame(s->conf.arg, f);
        break;
    case SK_FRAME_STATS:
        if (s->state == SK_ENGINE_READY)
            s->conf.on_frame(s->conf.arg, f);
        break;
    default:
        kill_engine(s, "the engine sent a frame of a kind that is not its to send");
    }
}

static uint64_t beat_ms(const struct sk_super *s)
{
    uint64_t ms = (uint64_t)s->conf.conf->engine_timeout / 4;
    return ms < MAX_BEAT_MS ? ms : MAX_BEAT_MS;
}

static void on_beat(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    uint32_t limit = (uint32_t)((uint64_t)s->conf.conf->engine_timeout / beat_ms(s));
    s->unheard++;
    s->unmoved = s->conf.is_busy(s->conf.arg) ? s->unmoved + 1 : 0;
    if (s->unheard > limit) {
        kill_engine(s, "the engine gave no sign of life for --engine-timeout");
    } else if (s->state == SK_ENGINE_READY && s->unmoved > limit) {
        kill_engine(s, "the engine finished no step for --engine-timeout");
    } else if (s->link && s->state == SK_ENGINE_READY) {
        sk_wire_put_beat(sk_link_out(s->link), ++s->beat_number, s->step);
        sk_link_flush(s->link);
    }
}

/* --- starting --- */

static int spawn_engine(struct sk_super *s, int fd, struct sk_err *err)
{
    const struct sk_conf *c = s->conf.conf;
    struct args a = {0};
    char record[SK_CONF_STR_MAX + 16];
    args_add(&a, "%s/skein-engine", s->conf.bin_dir);
    args_add(&a, "%s", "--fd=3");
    args_add(&a, "--dir=%s", s->dir);
    args_conf(&a, c, SK_PROG_ENGINE);
    if (c->engine_record[0]) { /* each engine's history is a file of its own */
        snprintf(record, sizeof record, s->restarts ? "%s.%u" : "%s", c->engine_record, s->restarts);
        args_add(&a, "--record=%s", record);
    }
    const struct sk_child_conf child = {.fd = fd, .on_exit = on_engine_exit};
    return start_child(s, &a, &child, err);
}

static int connect_engine(struct sk_super *s, struct sk_err *err)
{
    struct sk_wire_hello hello = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    const struct sk_link_conf lc = {.arg = s, .on_frame = on_frame, .on_down = on_link_down};
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "no channel to the engine");
    int rc = spawn_engine(s, sv[1], err);
    close(sv[1]);
    if (rc != 0) {
        close(sv[0]);
        return rc;
    }
    rc = sk_link_open(s->loop, sv[0], &lc, &s->link);
    if (rc != 0) {
        kill_engine(s, "no memory for the channel to the engine"); /* and on_engine_exit goes on from there */
        return 0;
    }
    snprintf(hello.build, sizeof hello.build, "%s", SK_VERSION);
    snprintf(hello.digest, sizeof hello.digest, "%s", s->digest);
    sk_wire_put_hello(sk_link_out(s->link), &hello);
    sk_link_flush(s->link);
    return 0;
}

static void start_engine(struct sk_super *s)
{
    struct sk_err err;
    s->refused[0] = '\0';
    s->killed_by_us = false;
    s->step = 0;
    s->unheard = s->unmoved = 0;
    progress(s, "loading", 0);
    to(s, SK_ENGINE_STARTING);
    if (connect_engine(s, &err) != 0) {
        snprintf(s->refused, sizeof s->refused, "%s", err.msg);
        back_off(s, err.msg, false);
        if (s->state == SK_ENGINE_FAILED)
            s->conf.on_lost(s->conf.arg, false);
        return;
    }
    uv_timer_start(&s->beat, on_beat, beat_ms(s), beat_ms(s));
}

static void on_first(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    if (s->dir[0])
        begin(s);
    else
        build(s);
}

static void on_start(uv_timer_t *t)
{
    start_engine(t->data);
}

int sk_super_open(struct uv_loop_s *loop, const struct sk_super_conf *conf, struct sk_super **ret, struct sk_err *err)
{
    const char *model = conf->conf->model;
    if (!*model)
        return sk_err_set(err, SK_EMISSING, "model",
                          "--model is missing: a GGUF file, a Hugging Face directory or an engine directory");
    if (access(model, R_OK) != 0)
        return sk_err_errno(err, SK_ENOENT, "model", "cannot read the model %s", model);
    struct sk_super *s = sk_calloc(1, sizeof *s);
    if (!s)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    s->conf = *conf;
    s->loop = loop;
    if (sk_dir_is(model))
        snprintf(s->dir, sizeof s->dir, "%s", model);
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->beat);
    s->timer.data = s->beat.data = s;
    s->n_handles = 2;
    progress(s, s->dir[0] ? "loading" : "building", 0);
    uv_timer_start(&s->timer, on_first, 0, 0);
    *ret = s;
    return 0;
}

struct sk_link *sk_super_link(struct sk_super *s)
{
    return s->state == SK_ENGINE_READY ? s->link : NULL;
}

enum sk_engine_state sk_super_state(const struct sk_super *s)
{
    return s->state;
}

void sk_super_status(const struct sk_super *s, struct sk_engine_status *ret)
{
    ret->state = s->state;
    ret->permille = s->permille;
    ret->restarts = s->restarts;
    snprintf(ret->text, sizeof ret->text, "%s", s->text);
}

static void on_grace_over(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    if (s->child)
        sk_child_kill(s->child, SIGKILL);
}

void sk_super_close(struct sk_super *s, void (*done)(void *arg), void *arg)
{
    s->done = done;
    s->done_arg = arg;
    enum sk_engine_state was = s->state;
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->beat);
    to(s, SK_ENGINE_STOPPING);
    if (!s->child) {
        finish_close(s);
        return;
    }
    if (was == SK_ENGINE_READY) {
        sk_wire_put_quit(sk_link_out(s->link));
        sk_link_flush(s->link);
    } else { /* a builder takes its half-made directory with it; an engine that still loads does not listen, and has
                nothing to lose */
        sk_child_kill(s->child, was == SK_ENGINE_BUILDING ? SIGTERM : SIGKILL);
    }
    uv_timer_start(&s->timer, on_grace_over, QUIT_GRACE_MS, 0);
}
