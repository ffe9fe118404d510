#include "server/job/start.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/wire/join.h"
#include "server/job/child.h"
#include "server/job/command.h"
#include "server/job/door.h"
#include "server/job/procs.h"

enum {
    LAST_WORDS_MS = 1500, /* for mpirun to find out which rank failed, and how */
    LOOK_MS = 5,
    MAX_LEFT_MS = 5000, /* until a process that was killed must be gone */
    MAX_LEFT = 256,
    MAX_ENV = 8
};

struct sk_start {
    struct sk_start_conf conf; /* its strings are not kept */
    uv_loop_t *loop;
    struct sk_child *child; /* NULL for another launcher's, and when it is reaped */
    struct sk_door *door;
    bool is_launched, has_dirs, is_awaited, is_over;
    struct sk_launch_dirs dirs;
    uv_timer_t timer; /* last words, then what is left */
    uint64_t over_ms;
    int status;
};

/* ---- the end ---- */

static void on_timer_closed(uv_handle_t *h)
{
    struct sk_start *s = h->data;
    void (*on_end)(void *arg, int wait_status) = s->conf.on_end;
    void *arg = s->conf.arg;
    int status = s->status;
    sk_free(s);
    if (on_end)
        on_end(arg, status);
}

/* mpirun and its ranks, which are not our children: they are known by where they were told to connect. */
static int find_processes(const struct sk_start *s, int pid[MAX_LEFT])
{
    char text[SK_LAUNCH_PATH + 32];
    if (!s->has_dirs)
        return 0;
    snprintf(text, sizeof text, "--connect=unix:%s/", s->dirs.dir);
    return sk_procs_find(text, pid, MAX_LEFT);
}

/* Ranks end with mpirun, but some while after it. */
static bool is_something_left(struct sk_start *s)
{
    int pid[MAX_LEFT];
    int n = find_processes(s, pid);
    for (int i = 0; i < n; i++)
        kill(pid[i], SIGKILL);
    if (n > 0 && uv_now(s->loop) - s->over_ms >= MAX_LEFT_MS) {
        sk_log(SK_LOG_ERROR, "%d processes of an engine that has ended do not go, pid=%d among them", n, pid[0]);
        return false;
    }
    return n > 0;
}

static void on_look(uv_timer_t *t)
{
    struct sk_start *s = t->data;
    uv_update_time(s->loop);
    if (is_something_left(s)) {
        uv_timer_start(&s->timer, on_look, LOOK_MS, 0);
        return;
    }
    if (s->has_dirs)
        sk_launch_wipe(&s->dirs);
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}

static void end(struct sk_start *s, int status)
{
    if (s->is_over)
        return;
    s->is_over = true;
    s->is_awaited = false;
    s->status = status;
    s->over_ms = uv_now(s->loop);
    sk_door_close(s->door);
    s->door = NULL;
    on_look(&s->timer);
}

static void on_exit_status(void *arg, int wait_status)
{
    struct sk_start *s = arg;
    s->child = NULL;
    uv_timer_stop(&s->timer);
    end(s, s->is_launched ? sk_launch_status(wait_status) : wait_status);
}

static void on_last_words_over(uv_timer_t *t)
{
    sk_start_kill(t->data, SIGKILL);
}

void sk_start_hung_up(struct sk_start *s)
{
    if (s->child && s->is_launched)
        uv_timer_start(&s->timer, on_last_words_over, LAST_WORDS_MS, 0);
    else
        sk_start_kill(s, SIGKILL);
}

void sk_start_kill(struct sk_start *s, int signum)
{
    if (s->child)
        sk_child_kill(s->child, signum);
    else
        end(s, 0);
}

/* ---- the start ---- */

static void on_leader(void *arg, int fd)
{
    struct sk_start *s = arg;
    s->is_awaited = false;
    s->conf.on_leader(s->conf.arg, fd);
}

static int make_command(const struct sk_start *s, const char *connect, struct sk_command *ret, struct sk_err *err)
{
    const struct sk_start_conf *c = &s->conf;
    const struct sk_command_rank r = {.bin_dir = c->bin_dir,
                                      .dir = c->dir,
                                      .connect = connect,
                                      .n_tp = c->shape->n_tp,
                                      .n_pp = c->shape->n_pp,
                                      .replica = c->replica,
                                      .n = c->n};
    return sk_command_engine(ret, c->conf, &r, err);
}

static int start_one(struct sk_start *s, struct sk_err *err)
{
    struct sk_command cmd;
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "no channel to the engine");
    int rc = make_command(s, NULL, &cmd, err);
    if (rc == 0) {
        const struct sk_child_conf child = {
            .argv = cmd.argv, .fd = {sv[1], s->conf.board_fd}, .arg = s, .on_exit = on_exit_status};
        rc = sk_child_start(s->loop, &child, &s->child, err);
        sk_command_done(&cmd);
    }
    close(sv[1]);
    if (rc != 0)
        close(sv[0]);
    else
        on_leader(s, sv[0]);
    return rc;
}

static int open_door(struct sk_start *s, const char *addr, const char *token, int board_fd, struct sk_err *err)
{
    const struct sk_door_conf dc = {
        .addr = addr, .token = token, .board_fd = board_fd, .arg = s, .on_leader = on_leader};
    return sk_door_make(s->loop, &dc, &s->door, err);
}

struct launch_env {
    const char *list[MAX_ENV + 1];
    char token[sizeof SK_LAUNCH_TOKEN + 1 + SK_JOIN_TOKEN], tmpdir[SK_LAUNCH_PATH + 16];
};

/* The token is no argument, since everybody may read those. */
static void make_env(const struct sk_start *s, const char *token, struct launch_env *ret)
{
    int n = 0;
    *ret = (struct launch_env){0};
    snprintf(ret->token, sizeof ret->token, "%s=%s", SK_LAUNCH_TOKEN, token);
    ret->list[n++] = ret->token;
    if (s->conf.shape->hosts.n > 1) {
        snprintf(ret->tmpdir, sizeof ret->tmpdir, "TMPDIR=%s", s->dirs.dir);
        ret->list[n++] = ret->tmpdir;
    }
    for (const char *const *e = sk_launch_env; *e && n < MAX_ENV; e++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (!getenv(name))
            ret->list[n++] = *e;
    }
}

static int run_mpirun(struct sk_start *s, const char *addr, const char *token, struct sk_err *err)
{
    struct launch_env env;
    struct sk_launch_argv argv;
    struct sk_command cmd;
    make_env(s, token, &env);
    int rc = make_command(s, addr, &cmd, err);
    if (rc != 0)
        return rc;
    const struct sk_shape *shape = s->conf.shape;
    const struct sk_launch_conf lc = {.n_rank = shape->n_tp * shape->n_pp,
                                      .hosts = shape->hosts.n ? &shape->hosts : NULL,
                                      .dirs = &s->dirs,
                                      .rank_argv = cmd.argv};
    rc = sk_launch_argv(&lc, &argv, err);
    if (rc == 0) { /* a Ctrl-C would make mpirun end the ranks, while we let requests come to their end */
        const struct sk_child_conf child = {
            .own_group = true, .argv = argv.argv, .env = env.list, .fd = {-1, -1}, .arg = s, .on_exit = on_exit_status};
        rc = sk_child_start(s->loop, &child, &s->child, err);
        sk_launch_argv_done(&argv);
    }
    sk_command_done(&cmd);
    return rc;
}

static int start_several(struct sk_start *s, struct sk_err *err)
{
    char addr[SK_LAUNCH_PATH + 16], token[SK_JOIN_TOKEN + 1];
    int rc = sk_launch_make_dirs(s->conf.number, &s->dirs, err);
    if (rc != 0)
        return rc;
    s->has_dirs = true;
    snprintf(addr, sizeof addr, "unix:%s/daemon", s->dirs.dir);
    sk_join_make_token(token);
    rc = open_door(s, addr, token, s->conf.board_fd, err);
    return rc ? rc : run_mpirun(s, addr, token, err);
}

/* Its leader shares no memory with us: it may be anywhere. */
static int await_another(struct sk_start *s, struct sk_err *err)
{
    const char *token = getenv(SK_LAUNCH_TOKEN);
    if (!sk_join_is_token(token))
        return sk_err_set(
            err, SK_EMISSING, "engine-listen",
            "--engine-listen needs $%s, the same for daemon and engine: %d hex digits, as of openssl rand "
            "-hex %d",
            SK_LAUNCH_TOKEN, SK_JOIN_TOKEN, SK_JOIN_TOKEN / 2);
    int rc = open_door(s, s->conf.conf->engine_listen, token, -1, err);
    s->is_awaited = rc == 0;
    return rc;
}

int sk_start_open(struct uv_loop_s *loop, const struct sk_start_conf *conf, struct sk_start **ret, struct sk_err *err)
{
    struct sk_start *s = sk_calloc(1, sizeof *s);
    int rc;
    if (!s)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    s->conf = *conf;
    s->loop = loop;
    s->is_launched = conf->conf->engine_listen[0] || !sk_shape_is_one(conf->shape);
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    *ret = s;
    if (conf->conf->engine_listen[0])
        rc = await_another(s, err);
    else if (s->is_launched)
        rc = start_several(s, err);
    else
        rc = start_one(s, err);
    if (rc == 0)
        return 0;
    *ret = NULL;
    s->conf.on_end = NULL;
    end(s, 0);
    return rc;
}

int sk_start_pid(const struct sk_start *s)
{
    return s->child ? sk_child_pid(s->child) : 0;
}

const char *sk_start_awaits(const struct sk_start *s)
{
    return s->is_awaited ? sk_door_name(s->door) : NULL;
}

bool sk_start_is_stopped(const struct sk_start *s)
{
    int pid[MAX_LEFT];
    int n = find_processes(s, pid);
    bool is_stopped = s->child && sk_procs_is_stopped(sk_child_pid(s->child));
    for (int i = 0; i < n && !is_stopped; i++)
        is_stopped = sk_procs_is_stopped(pid[i]);
    return is_stopped;
}
