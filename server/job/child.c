/* fork and exec by hand, since uv_spawn has no place for PR_SET_PDEATHSIG: an engine must not outlive a daemon that was
 * killed. */
#define _GNU_SOURCE /* environ */
#include "server/job/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/buf.h"
#include "comm/base/mem.h"

enum { MAX_LINE_BYTES = 4096 };

struct out { /* stdout or stderr of the child */
    struct sk_child *child;
    uv_pipe_t pipe;
    struct sk_buf line;
    bool is_stderr, open;
    char chunk[1024];
};

struct sk_child {
    struct sk_child_conf conf;
    pid_t pid;
    uv_signal_t signal;
    struct out out[2];
    int status, n_handles;
    bool reaped;
};

static void on_closed(uv_handle_t *h)
{
    struct sk_child *c = h->data;
    if (--c->n_handles > 0)
        return;
    struct sk_child_conf conf = c->conf;
    int status = c->status;
    for (int i = 0; i < 2; i++)
        sk_buf_done(&c->out[i].line);
    sk_free(c);
    if (conf.on_exit)
        conf.on_exit(conf.arg, status);
}

static void close_if_over(struct sk_child *c)
{
    if (c->reaped && !c->out[0].open && !c->out[1].open && !uv_is_closing((uv_handle_t *)&c->signal))
        uv_close((uv_handle_t *)&c->signal, on_closed);
}

static void on_sigchld(uv_signal_t *s, int signum)
{
    struct sk_child *c = s->data;
    if (c->reaped || waitpid(c->pid, &c->status, WNOHANG) != c->pid)
        return;
    c->reaped = true;
    close_if_over(c);
}

static void end_line(struct out *o)
{
    if (o->line.n > 0)
        o->child->conf.on_line(o->child->conf.arg, o->is_stderr, o->line.p);
    sk_buf_clear(&o->line);
}

static void give_chunk(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct out *o = (struct out *)((char *)h - offsetof(struct out, pipe));
    *buf = uv_buf_init(o->chunk, sizeof o->chunk);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct out *o = (struct out *)((char *)s - offsetof(struct out, pipe));
    for (ssize_t i = 0; i < n; i++) {
        if (buf->base[i] == '\n')
            end_line(o);
        else
            sk_buf_char(&o->line, buf->base[i]); /* what is too long is cut */
    }
    if (n < 0) {
        end_line(o);
        o->open = false;
        uv_close((uv_handle_t *)s, on_closed);
        close_if_over(o->child);
    }
}

struct plumbing {
    int out[2][2]; /* pipes for stdout and stderr */
    int exec[2];   /* carries errno of a failed exec, nothing otherwise */
    int null;
};

static void plumbing_close(struct plumbing *p)
{
    int *fd = &p->out[0][0];
    for (int i = 0; i < 4; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (p->exec[i] >= 0)
            close(p->exec[i]);
    }
    if (p->null >= 0)
        close(p->null);
}

static int plumbing_open(struct plumbing *p, bool lines)
{
    *p = (struct plumbing){.out = {{-1, -1}, {-1, -1}}, .exec = {-1, -1}, .null = -1};
    p->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (p->null < 0 || uv_pipe(p->exec, 0, 0) != 0)
        return -1;
    return lines && (uv_pipe(p->out[0], 0, 0) != 0 || uv_pipe(p->out[1], 0, 0) != 0) ? -1 : 0;
}

/* Sockets, watchdog and credentials of a service are for its main process: see sd_notify(3), sd_listen_fds(3),
 * systemd.exec(5). The token lets an engine of another launcher in. */
static bool is_ours_alone(const char *var)
{
    static const char *const names[] = {"NOTIFY_SOCKET=",         "LISTEN_FDS=",        "LISTEN_PID=",
                                        "LISTEN_FDNAMES=",        "WATCHDOG_USEC=",     "WATCHDOG_PID=",
                                        "CREDENTIALS_DIRECTORY=", "SKEIN_ENGINE_TOKEN="};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strncmp(var, names[i], strlen(names[i])) == 0)
            return true;
    }
    return false;
}

static size_t count(const char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    return n;
}

/* Does the list have a variable of that name? */
static bool has_name(const char *const *list, const char *var)
{
    size_t len = strcspn(var, "=") + 1;
    for (; list && *list; list++) {
        if (strncmp(*list, var, len) == 0)
            return true;
    }
    return false;
}

/* Owned is the array only. NULL: no memory. */
static char **child_environment(const char *const *more)
{
    size_t n = count((const char *const *)environ), n_more = count(more), kept = 0;
    char **env = sk_malloc((n + n_more + 1) * sizeof *env);
    if (!env)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (!is_ours_alone(environ[i]) && !has_name(more, environ[i]))
            env[kept++] = environ[i];
    }
    for (size_t i = 0; i < n_more; i++)
        env[kept++] = (char *)more[i];
    env[kept] = NULL;
    return env;
}

/* In the child: async-signal-safe calls only. */
static void become(const struct sk_child_conf *conf, const struct plumbing *p, pid_t parent, char **env)
{
    sigset_t none;
    int e;

    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL); /* but for those that have no other */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || (conf->own_group && setpgid(0, 0) != 0))
        _exit(127);
    /* Nothing must be where descriptors 3 and 4 go. */
    int report = fcntl(p->exec[1], F_DUPFD_CLOEXEC, 10), moved[2];
    bool ok = report >= 0;
    for (int i = 0; i < 2; i++) {
        moved[i] = conf->fd[i] >= 0 ? fcntl(conf->fd[i], F_DUPFD_CLOEXEC, 10) : -1;
        ok = ok && (conf->fd[i] < 0 || moved[i] >= 0);
    }
    if (!ok)
        _exit(127);
    ok = dup2(p->null, 0) == 0 && dup2(conf->lines ? p->out[0][1] : 2, 1) == 1;
    if (conf->lines)
        ok = ok && dup2(p->out[1][1], 2) == 2;
    for (int i = 0; i < 2; i++)
        ok = ok && (moved[i] < 0 || dup2(moved[i], 3 + i) == 3 + i);
    if (ok)
        execve(conf->argv[0], conf->argv, env);
    e = errno;
    (void)!write(report, &e, sizeof e);
    _exit(127);
}

/* Signals wait until the child has put our handlers away: those would write into pipes that it shares with us. */
static pid_t fork_deaf(const struct sk_child_conf *conf, const struct plumbing *p, char **env)
{
    sigset_t all, before;
    pid_t self = getpid();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        become(conf, p, self, env);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static void open_pipes(struct sk_child *c, struct plumbing *p, uv_loop_t *loop)
{
    for (int i = 0; i < 2; i++) {
        struct out *o = &c->out[i];
        o->child = c;
        o->is_stderr = i == 1;
        sk_buf_init(&o->line, MAX_LINE_BYTES);
        if (!c->conf.lines)
            continue;
        uv_pipe_init(loop, &o->pipe, 0);
        o->pipe.data = c;
        uv_pipe_open(&o->pipe, p->out[i][0]);
        p->out[i][0] = -1;
        o->open = true;
        c->n_handles++;
        uv_read_start((uv_stream_t *)&o->pipe, give_chunk, on_read);
    }
}

static int read_errno(int fd)
{
    int e = 0;
    ssize_t n;
    do
        n = read(fd, &e, sizeof e);
    while (n < 0 && errno == EINTR);
    return n == sizeof e ? e : 0;
}

/* No handle is open yet but `signal`, which has to be closed by the loop. */
static int fail_start(struct sk_child *c, int e, struct sk_err *err)
{
    errno = e;
    int rc = sk_err_errno(err, SK_EIO, NULL, "cannot start %s", c->conf.argv[0]);
    c->conf.on_exit = NULL;
    uv_close((uv_handle_t *)&c->signal, on_closed);
    return rc;
}

int sk_child_start(struct uv_loop_s *loop, const struct sk_child_conf *conf, struct sk_child **ret, struct sk_err *err)
{
    struct plumbing p;
    char **env = child_environment(conf->env);
    struct sk_child *c = sk_calloc(1, sizeof *c);
    int rc = 0, e = 0;
    if (!c || !env) {
        sk_free(c);
        sk_free(env);
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    c->conf = *conf;
    uv_signal_init(loop, &c->signal);
    c->signal.data = c;
    c->n_handles = 1;
    uv_signal_start(&c->signal, on_sigchld, SIGCHLD); /* before there is a child to miss */

    if (plumbing_open(&p, conf->lines) != 0 || (c->pid = fork_deaf(conf, &p, env)) < 0) {
        rc = fail_start(c, errno, err);
        goto out;
    }
    close(p.exec[1]);
    p.exec[1] = -1;
    e = read_errno(p.exec[0]); /* returns when the child has become the program */
    if (e != 0) {
        waitpid(c->pid, NULL, 0);
        rc = fail_start(c, e, err);
        goto out;
    }
    open_pipes(c, &p, loop);
    c->conf.argv = NULL;
    *ret = c;
out:
    plumbing_close(&p);
    sk_free(env);
    return rc;
}

void sk_child_kill(struct sk_child *c, int signum)
{
    if (!c->reaped)
        kill(c->pid, signum);
}

int sk_child_pid(const struct sk_child *c)
{
    return c->pid;
}
