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
#include "server/job/command.h"
#include "server/job/dump.h"
#include "server/metrics/metrics.h"

enum {
    FIRST_BACKOFF_MS = 100,
    MAX_BACKOFF_MS = 10000,
    STEADY_MS = 10000,     /* READY for so long, and the back-off begins anew */
    MAX_FAILED_STARTS = 5, /* in a row, without READY between */
    MAX_BEAT_MS = 5000,
    QUIT_GRACE_MS = 5000,
    SEGMENT_BYTES = 8 << 20 /* of the flight recorder, two of them: most that it takes, pages come as it writes */
};

/* How an engine ended, and its name as a label of skein_engine_ends_total. Only of a crash and of a hang is somebody on
 * board to blame; START is either of them before it was READY. */
enum end { END_CRASH, END_HANG, END_KILLED, END_START };
static const char *const end_names[] = {"crash", "hang", "killed", "start"};

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
    struct sk_board board;
    int board_fd;
    bool was_ready;    /* at least once */
    bool killed_by_us; /* and killed_as says how that counts */
    enum end killed_as;
    int pid; /* of the engine, 0 = none */
    uint64_t beat_number, ready_ms, step, progress;
    uint32_t unheard, unmoved; /* beats since the last frame, since the last step, or since the board's progress moved:
                                  beats, not time, so that a stopped daemon blames nobody */
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
    sk_metric_set(s->conf.metrics, SK_METRIC_ENGINE_UP, state == SK_ENGINE_READY, NULL, NULL);
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
    sk_board_unmap(&s->board);
    close(s->board_fd);
    sk_free(s);
    if (done)
        done(arg);
}

static void finish_close(struct sk_super *s)
{
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->beat, on_handle_closed);
}

/* Takes the command line. */
static int start_child(struct sk_super *s, struct sk_command *c, const struct sk_child_conf *conf, struct sk_err *err)
{
    struct sk_child_conf cc = *conf;
    cc.argv = c->argv;
    cc.arg = s;
    int rc = sk_child_start(s->loop, &cc, &s->child, err);
    sk_command_done(c);
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
    const struct sk_child_conf child = {
        .fd = {-1, -1}, .lines = true, .on_line = on_build_line, .on_exit = on_build_exit};
    struct sk_command c;
    struct sk_err err;
    progress(s, "building", 0);
    int rc = sk_command_build(&c, s->conf.conf, s->conf.bin_dir, &err);
    if (rc == 0)
        rc = start_child(s, &c, &child, &err);
    if (rc != 0)
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

/* --- the flight recorder --- */

static int dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err)
{
    const struct sk_conf *c = s->conf.conf;
    char dir[SK_CONF_STR_MAX], cache[SK_DIR_MAX_CACHE];
    if (s->board.max_plan == 0)
        return sk_err_set(err, SK_ENOENT, "flight-plans", "--flight-plans is 0: nothing was recorded");
    int rc = c->flight_dir[0] ? 0 : sk_dir_cache(c->cache_dir, cache, sizeof cache, err);
    if (rc != 0)
        return rc;
    if (c->flight_dir[0])
        snprintf(dir, sizeof dir, "%s", c->flight_dir);
    else
        snprintf(dir, sizeof dir, "%s/flight", cache);
    return sk_dump_write(&s->board, dir, s->pid, why, ret_path, err);
}

int sk_super_dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err)
{
    int rc = dump_flight(s, why, ret_path, err);
    if (rc == 0)
        sk_log(SK_LOG_WARN, "the last steps of engine pid=%d (%s) are in %s; they hold prompts", s->pid, why, ret_path);
    return rc;
}

static void dump_after_end(struct sk_super *s, enum end end)
{
    char path[SK_DUMP_MAX_PATH];
    struct sk_err err;
    int rc = sk_super_dump_flight(s, end_names[end], path, &err);
    if (rc != 0 && rc != -SK_ENOENT)
        sk_log(SK_LOG_ERROR, "the last steps of the engine could not be written: %s", err.msg);
}

/* --- the engine's end --- */

static void kill_engine(struct sk_super *s, enum end as, const char *why)
{
    if (!s->child || s->killed_by_us)
        return;
    sk_log(SK_LOG_ERROR, "engine pid=%d is killed: %s", s->pid, why);
    snprintf(s->refused, sizeof s->refused, "%s", why);
    s->killed_by_us = true;
    s->killed_as = as;
    sk_child_kill(s->child, SIGKILL);
}

/* Some signals come from outside (an operator, the kernel short of memory) and say nothing about the engine, nor about
 * the requests on board. One that said why it gives up, and hung up, ended by itself, whatever hit it then. */
static enum end end_of(const struct sk_super *s, int status, bool was_up)
{
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    bool from_outside = sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP;
    enum end end = s->killed_by_us ? s->killed_as : from_outside && !s->refused[0] ? END_KILLED : END_CRASH;
    return was_up || end == END_KILLED ? end : END_START;
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

/* The time that the next start waits. One that did some work is started at once, however often: nobody is to wait for
 * what one request does to engines, and that is found out after a few (server/job/suspect.c). */
static uint64_t next_backoff(struct sk_super *s, bool was_up)
{
    if (was_up && (s->step > 0 || uv_now(s->loop) - s->ready_ms >= STEADY_MS))
        s->backoff_ms = 0;
    uint64_t ms = s->backoff_ms ? s->backoff_ms : was_up ? 0 : FIRST_BACKOFF_MS;
    s->backoff_ms = s->backoff_ms == 0                   ? FIRST_BACKOFF_MS
                    : s->backoff_ms * 2 < MAX_BACKOFF_MS ? s->backoff_ms * 2
                                                         : MAX_BACKOFF_MS;
    return ms;
}

/* An engine that never was READY may say no, or be broken, for good: FAILED. One that was is tried for ever; who waits
 * for it is told when it looks hopeless. */
static void back_off(struct sk_super *s, bool was_up, enum end end, const char *why)
{
    bool is_failed_start = !was_up && !(end == END_KILLED && s->was_ready); /* one that has served is not broken */
    s->n_failed_starts = was_up ? 0 : s->n_failed_starts + is_failed_start;
    sk_metric_add(s->conf.metrics, SK_METRIC_ENGINE_ENDS, 1, end_names[end], NULL);
    if (!s->was_ready && (s->refused[0] || s->n_failed_starts >= MAX_FAILED_STARTS)) {
        fail(s, why);
        s->conf.on_lost(s->conf.arg, NULL, 0);
        return;
    }
    uint64_t ms = next_backoff(s, was_up);
    s->restarts++;
    snprintf(s->text, sizeof s->text, "%.448s, starting again in %.1f s", why, (double)ms / 1e3);
    sk_log(SK_LOG_WARN, "%s", s->text);
    uv_timer_start(&s->timer, on_start, ms, 0);
    to(s, SK_ENGINE_BACKOFF);
    if (was_up) {
        bool own_fault = end == END_CRASH || end == END_HANG;
        s->conf.on_lost(s->conf.arg, s->board.seat, own_fault ? sk_board_seats(&s->board) : 0);
    }
    if (is_failed_start && s->n_failed_starts == MAX_FAILED_STARTS && s->conf.on_hopeless)
        s->conf.on_hopeless(s->conf.arg);
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
    enum end end = end_of(s, status, was_up);
    describe_end(s, status, why, sizeof why);
    if (end == END_CRASH || end == END_HANG)
        dump_after_end(s, end);
    s->pid = 0;
    back_off(s, was_up, end, why);
}

/* What the engine sends can be its requests' doing; that our side of the channel is full, or has no memory, is not. */
static void on_link_down(void *arg, const char *why)
{
    struct sk_super *s = arg;
    char text[128];
    if (s->state == SK_ENGINE_STOPPING || !s->child)
        return;
    snprintf(text, sizeof text, "the channel to the engine: %s", why);
    if (strcmp(why, "connection lost") == 0)
        sk_child_kill(s->child, SIGKILL); /* most likely it has ended by itself; else it is of no use now */
    else
        kill_engine(s, strcmp(why, "protocol error") == 0 ? END_CRASH : END_KILLED, text);
}

/* --- frames --- */

static void on_hello(struct sk_super *s, const struct sk_wire_hello *h)
{
    if (s->state != SK_ENGINE_STARTING)
        return;
    if (h->version != SK_WIRE_VERSION || strcmp(h->build, SK_VERSION) != 0) {
        kill_engine(s, END_CRASH, "skein-engine is of another version than skeind");
        return;
    }
    if (strcmp(h->digest, s->digest) != 0 || h->credit == 0) {
        kill_engine(s, END_CRASH, "the engine serves another directory, or nothing");
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
    case SK_FRAME_VIEW:
        if (s->state == SK_ENGINE_READY)
            s->conf.on_frame(s->conf.arg, f);
        break;
    default:
        kill_engine(s, END_CRASH, "the engine sent a frame of a kind that is not its to send");
    }
}

static uint64_t beat_ms(const struct sk_super *s)
{
    uint64_t ms = (uint64_t)s->conf.conf->engine_timeout / 4;
    return ms < MAX_BEAT_MS ? ms : MAX_BEAT_MS;
}

static uint32_t max_beats(const struct sk_super *s)
{
    return (uint32_t)((uint64_t)s->conf.conf->engine_timeout / beat_ms(s));
}

/* One that was stopped from outside hangs, too, but not of its own making. */
static void kill_hung(struct sk_super *s, const char *why)
{
    if (sk_child_is_stopped(s->child))
        kill_engine(s, END_KILLED, "the engine was stopped (SIGSTOP) for --engine-timeout");
    else
        kill_engine(s, END_HANG, why);
}

/* Steps of many rows take long, and meanwhile the leader sends nothing. */
static void look_at_progress(struct sk_super *s)
{
    uint64_t progress = sk_board_progress(&s->board);
    if (progress == s->progress)
        return;
    s->progress = progress;
    s->unheard = s->unmoved = 0;
}

static void on_beat(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    uv_timer_set_repeat(t, beat_ms(s)); /* --engine-timeout may have been read anew */
    s->unheard++;
    s->unmoved = s->conf.is_busy(s->conf.arg) ? s->unmoved + 1 : 0;
    look_at_progress(s);
    if (s->unheard > max_beats(s)) {
        kill_hung(s, "the engine gave no sign of life for --engine-timeout");
    } else if (s->state == SK_ENGINE_READY && s->unmoved > max_beats(s)) {
        kill_hung(s, "the engine finished no step for --engine-timeout");
    } else if (s->link && s->state == SK_ENGINE_READY) {
        sk_wire_put_beat(sk_link_out(s->link), ++s->beat_number, s->step);
        sk_link_flush(s->link);
    }
}

/* --- starting --- */

static int spawn_engine(struct sk_super *s, int fd, struct sk_err *err)
{
    const struct sk_child_conf child = {.fd = {fd, s->board_fd}, .on_exit = on_engine_exit};
    struct sk_command c;
    sk_board_clear(&s->board);
    int rc = sk_command_engine(&c, s->conf.conf, s->conf.bin_dir, s->dir, s->restarts, err);
    if (rc == 0)
        rc = start_child(s, &c, &child, err);
    s->pid = rc == 0 ? sk_child_pid(s->child) : 0;
    return rc;
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
        kill_engine(s, END_CRASH,
                    "no memory for the channel to the engine"); /* and on_engine_exit goes on from there */
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
    s->step = s->progress = 0;
    s->unheard = s->unmoved = 0;
    progress(s, "loading", 0);
    to(s, SK_ENGINE_STARTING);
    if (connect_engine(s, &err) != 0) {
        snprintf(s->refused, sizeof s->refused, "%s", err.msg);
        back_off(s, false, END_START, err.msg);
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
    uint32_t n_seat = 2 * (uint32_t)conf->conf->max_seqs; /* as many as an engine takes in: those on their way out too */
    int rc = sk_board_make(n_seat, (uint32_t)conf->conf->flight_plans, SEGMENT_BYTES, &s->board_fd, &s->board, err);
    if (rc != 0) {
        sk_free(s);
        return rc;
    }
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
    uint32_t long_ago = max_beats(s) / 2 + 1;
    ret->state = s->state;
    ret->permille = s->permille;
    ret->restarts = s->restarts;
    ret->pid = s->pid;
    ret->making_progress = s->state == SK_ENGINE_READY && s->unheard <= long_ago && s->unmoved <= long_ago;
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
