#define _GNU_SOURCE 1
#include "engine/job.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/base/buf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/group/launch.h"
#include "comm/group/world.h"
#include "engine/cpus.h"
#include "engine/model/timeline.h"

enum { TIMELINE_EVENTS = 1 << 20 /* of each rank: some minutes of a small model */ };

/* ---- a person's own job ---- */

static volatile sig_atomic_t mpirun_pid;

static void pass_on(int number)
{
    if (mpirun_pid > 0)
        kill(mpirun_pid, number);
}

/* A terminal's Ctrl-C reaches mpirun by itself, too. */
static void catch_signals(void)
{
    const struct sigaction a = {.sa_handler = pass_on};
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
}

_Noreturn static void become_mpirun(char **argv, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    for (int i = 0; sk_launch_env[i]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(sk_launch_env[i], "="), sk_launch_env[i]);
        setenv(name, strchr(sk_launch_env[i], '=') + 1, 0);
    }
    execv(argv[0], argv);
    fprintf(stderr, "skein-engine: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(1);
}

static int wait_for(pid_t pid, struct sk_err *err)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return sk_err_errno(err, SK_EIO, NULL, "waiting for mpirun");
    mpirun_pid = 0;
    status = sk_launch_status(status);
    if (WIFSIGNALED(status))
        return sk_err_set(err, SK_EIO, NULL, "a rank, or mpirun, was ended by signal %d", WTERMSIG(status));
    return status ? sk_err_set(err, SK_EIO, NULL, "the ranks failed") : 0;
}

int sk_job_run(const struct sk_conf *conf, char **argv, struct sk_err *err)
{
    char path[4096];
    struct sk_launch_dirs dirs;
    struct sk_launch_argv launch;
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot find this program's file");
    path[n] = '\0';
    argv[0] = path;
    int rc = sk_launch_check(err);
    if (!rc)
        rc = sk_launch_make_dirs(0, &dirs, err);
    if (rc)
        return rc;
    const struct sk_launch_conf lc = {.n_rank = (uint32_t)(conf->tp * conf->pp), .dirs = &dirs, .rank_argv = argv};
    rc = sk_launch_argv(&lc, &launch, err);
    if (rc)
        goto out;
    const pid_t parent = getpid();
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* none is lost between here and where it is known whom it is for */
    catch_signals();
    const pid_t pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        become_mpirun(launch.argv, parent);
    }
    mpirun_pid = pid;
    sigprocmask(SIG_SETMASK, &before, NULL);
    rc = pid < 0 ? sk_err_errno(err, SK_EUNAVAIL, NULL, "cannot start mpirun") : wait_for(pid, err);
    sk_launch_argv_done(&launch);
out:
    sk_launch_wipe(&dirs);
    return rc;
}

/* ---- a rank ---- */

/* CPUs are divided only where they are shared: a rank that is alone goes where its thread pool wants. */
static int take_cpus(struct sk_conf *conf, const struct sk_world *w, struct sk_err *err)
{
    struct sk_cpus_conf c = {.share = conf->cpu_share, .n_rank = 1};
    int n_thread;
    if (w) {
        c.rank = w->local_rank;
        c.n_rank = w->n_local;
    }
    if (!conf->cpu_share[0] && c.n_rank == 1)
        return 0;
    int rc = sk_cpus_take(&c, &n_thread, err);
    if (!rc && conf->threads == 0)
        conf->threads = n_thread;
    return rc;
}

static int open_timeline(const struct sk_conf *conf, struct sk_timeline **ret, struct sk_err *err)
{
    if (!conf->timeline[0])
        return 0;
    int rc = sk_timeline_open(TIMELINE_EVENTS, ret);
    return rc ? sk_err_set(err, -rc, "timeline", "no memory for a timeline of %d events", TIMELINE_EVENTS) : 0;
}

int sk_job_open(struct sk_conf *conf, struct sk_job *ret, struct sk_err *err)
{
    int rc = 0;
    *ret = (struct sk_job){0};
    if (sk_job_is_large(conf)) {
        rc = sk_world_open((int)conf->tp, (int)conf->pp, &ret->world, err);
        if (rc)
            return rc;
        sk_log_rank_set(ret->world->rank, ret->world->host_name);
        rc = sk_world_same(ret->world, "the version of skein-engine", SK_VERSION, err);
        if (rc)
            return rc;
    }
    rc = take_cpus(conf, ret->world, err);
    if (!rc)
        rc = open_timeline(conf, &ret->timeline, err);
    return ret->world ? sk_world_check(ret->world, rc, err) : rc;
}

bool sk_job_leads(const struct sk_job *j)
{
    return !j->world || j->world->rank == 0;
}

int sk_job_end(struct sk_job *j, const struct sk_conf *conf, struct sk_err *err)
{
    struct sk_buf own;
    char *all = NULL;
    size_t n = 0;
    if (!j->timeline)
        return 0;
    sk_buf_init(&own, SIZE_MAX);
    int rc = sk_timeline_pack(j->timeline, j->world ? j->world->rank : 0, j->world ? j->world->host_name : "this host",
                              &own);
    if (rc)
        sk_err_set(err, -rc, "timeline", "no memory for the timeline");
    if (j->world)
        rc = sk_world_check(j->world, rc, err);
    if (!rc && j->world) {
        rc = sk_world_gather(j->world, own.p, own.n, &all, &n);
        if (rc)
            sk_err_set(err, -rc, "timeline", "the timelines of the ranks cannot be gathered");
    }
    if (!rc && sk_job_leads(j))
        rc = sk_timeline_write(conf->timeline, j->world ? all : own.p, j->world ? n : own.n, err);
    sk_free(all);
    sk_buf_done(&own);
    return rc;
}

void sk_job_close(struct sk_job *j)
{
    sk_timeline_close(j->timeline);
    sk_world_close(j->world);
    *j = (struct sk_job){0};
}
