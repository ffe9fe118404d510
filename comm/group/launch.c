/* mpirun's command line. Each option has its reason: Open MPI's defaults are for batch jobs of a cluster, whose death
 * is an operator's matter, while ours are restarted within a second and may share a host with anything.
 *
 * An option that the user has set by $OMPI_MCA_... stays as it is. */
#define _GNU_SOURCE /* pipe2 */
#include "comm/group/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "comm/base/mem.h"

extern char **environ;

enum { MAX_MEM_BYTES = 32 << 10, MAX_PATH = 512, VERSION_MS = 10000, TERM_BASE = 128, MAX_SIGNAL = 64 };

/* hwloc's "gl" plug-in connects to X11 displays. */
const char *const sk_launch_env[] = {"HWLOC_COMPONENTS=-gl", NULL};

/* ---- is it there? ---- */

static bool find_program(const char *name, char *ret, size_t n)
{
    const char *at = getenv("PATH");
    if (strchr(name, '/')) {
        snprintf(ret, n, "%s", name);
        return access(name, X_OK) == 0;
    }
    while (at && *at) {
        size_t len = strcspn(at, ":");
        if (len > 0 && (size_t)snprintf(ret, n, "%.*s/%s", (int)len, at, name) < n && access(ret, X_OK) == 0)
            return true;
        at += len + (at[len] == ':');
    }
    return false;
}

/* What a program writes to stdout, its first n - 1 bytes; false: it says nothing in time. */
static bool read_output(char *const *argv, char *ret, size_t n)
{
    posix_spawn_file_actions_t fa;
    int p[2];
    pid_t pid;
    size_t got = 0;
    if (pipe2(p, O_CLOEXEC) != 0)
        return false;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, p[1], 1);
    int rc = posix_spawn(&pid, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    close(p[1]);
    struct pollfd pf = {.fd = p[0], .events = POLLIN};
    while (rc == 0 && got + 1 < n) {
        int ready = poll(&pf, 1, VERSION_MS);
        ssize_t k = ready > 0 ? read(p[0], ret + got, n - 1 - got) : ready;
        if (k < 0 && errno == EINTR)
            continue; /* by the end of a child, for instance */
        if (k <= 0)
            break;
        got += (size_t)k;
    }
    close(p[0]);
    ret[got] = '\0';
    if (rc == 0) {
        kill(pid, SIGKILL); /* it has nothing more to say */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return got > 0;
}

int sk_launch_check(struct sk_err *err)
{
    char path[MAX_PATH], text[256];
    int major = 0, minor = 0;
    if (!find_program("mpirun", path, sizeof path))
        return sk_err_set(
            err, SK_EUNSUP, "tp",
            "--tp and --pp need Open MPI's mpirun, which is not in PATH (Debian: apt install openmpi-bin)");
    char *const argv[] = {path, "--version", NULL};
    if (!read_output(argv, text, sizeof text))
        return sk_err_set(err, SK_EUNSUP, "tp", "%s --version says nothing", path);
    text[strcspn(text, "\n")] = '\0';
    if (sscanf(text, "mpirun (Open MPI) %d.%d", &major, &minor) != 2)
        return sk_err_set(err, SK_EUNSUP, "tp",
                          "%s is not Open MPI's but \"%.100s\" (Debian: apt install openmpi-bin, and see "
                          "update-alternatives --config mpirun)",
                          path, text);
    if (major != 4)
        return sk_err_set(err, SK_EUNSUP, "tp", "%s is of Open MPI %d.%d; skein starts its ranks with 4.x", path, major,
                          minor);
    return 0;
}

int sk_launch_agent(char **ret, int max, char *mem, size_t n_mem)
{
    const char *agent = getenv("OMPI_MCA_plm_rsh_agent");
    char path[MAX_PATH], *save;
    int n = 0;
    if ((size_t)snprintf(mem, n_mem, "%s", agent && *agent ? agent : "ssh") >= n_mem)
        return 0;
    mem[strcspn(mem, ":")] = '\0'; /* a list of alternatives: the first */
    for (char *w = strtok_r(mem, " \t", &save); w && n < max; w = strtok_r(NULL, " \t", &save))
        ret[n++] = w;
    if (n == 0 || !find_program(ret[0], path, sizeof path))
        return 0;
    size_t at = (size_t)(ret[n - 1] - mem) + strlen(ret[n - 1]) + 1; /* behind the last word */
    if (at + strlen(path) >= n_mem)
        return 0;
    ret[0] = strcpy(mem + at, path);
    return n;
}

/* ---- the command line ---- */

struct words {
    struct sk_launch_argv *a;
    size_t at; /* of mem */
    int rc;
};

__attribute__((format(printf, 2, 3))) static void word(struct words *w, const char *fmt, ...)
{
    struct sk_launch_argv *a = w->a;
    va_list ap;
    if (w->rc != 0)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(a->mem + w->at, MAX_MEM_BYTES - w->at, fmt, ap);
    va_end(ap);
    if (n < 0 || w->at + (size_t)n >= MAX_MEM_BYTES || a->n == SK_LAUNCH_MAX_ARGS) {
        w->rc = -SK_ETOOBIG;
        return;
    }
    a->argv[a->n++] = a->mem + w->at;
    w->at += (size_t)n + 1;
}

static void option(struct words *w, const char *name, const char *value)
{
    word(w, "%s", name);
    word(w, "%s", value);
}

static void mca(struct words *w, const char *name, const char *value)
{
    char var[128];
    snprintf(var, sizeof var, "OMPI_MCA_%s", name);
    if (getenv(var))
        return;
    word(w, "--mca");
    option(w, name, value);
}

/* No ssh is looked for, and no port is opened by a rank. */
static void one_host(struct words *w, const struct sk_launch_dirs *d)
{
    word(w, "--oversubscribe"); /* it counts cores, of which a rank may want less than one */
    mca(w, "plm", "isolated");
    mca(w, "btl", "self,vader");
    mca(w, "orte_tmpdir_base", d->dir); /* what a killed job leaves there and below is wiped with our folder */
    mca(w, "btl_vader_backing_directory", d->shm);
    mca(w, "osc_sm_backing_directory", d->shm);
}

/* What our programs read from their environment goes to all hosts. */
static void export_variables(struct words *w)
{
    for (char **e = environ; *e; e++) {
        size_t n = strcspn(*e, "=");
        if (strncmp(*e, "SKEIN_", 6) == 0 && strncmp(*e, SK_LAUNCH_TOKEN "=", n + 1) != 0) {
            word(w, "-x");
            word(w, "%.*s", (int)n, *e);
        }
    }
    option(w, "-x", "HWLOC_COMPONENTS");
}

/* The defaults notice a link that is cut after 480 s. No folder is named, since all hosts would
 * have to have it: here $TMPDIR is ours, and there mpirun uses its own choice. The token is for rank 0, which is here.
 */
static void several_hosts(struct words *w, const struct sk_launch_dirs *d)
{
    word(w, "--hostfile");
    word(w, "%s/hosts", d->dir);
    option(w, "--map-by", "slot"); /* rank 0 is on the first host, and a stage's ranks are neighbours */
    mca(w, "btl", "tcp,self,vader");
    mca(w, "oob_tcp_keepalive_time", "2");
    mca(w, "oob_tcp_keepalive_intvl", "1");
    mca(w, "oob_tcp_keepalive_probes", "3");
    export_variables(w);
}

static int write_hosts(const struct sk_launch_conf *conf, struct sk_err *err)
{
    char path[SK_LAUNCH_PATH + 16];
    snprintf(path, sizeof path, "%s/hosts", conf->dirs->dir);
    FILE *f = fopen(path, "we");
    for (uint32_t i = 0; f && i < conf->hosts->n; i++)
        fprintf(f, "%s slots=%u\n", conf->hosts->host[i].name, conf->hosts->host[i].slots);
    if (!f || fclose(f) != 0)
        return sk_err_errno(err, SK_EIO, "hostfile", "cannot write %s", path);
    return 0;
}

int sk_launch_argv(const struct sk_launch_conf *conf, struct sk_launch_argv *ret, struct sk_err *err)
{
    bool is_one = !conf->hosts || conf->hosts->n == 1;
    char path[MAX_PATH], n_rank[16];
    struct words w = {.a = ret};
    *ret = (struct sk_launch_argv){.mem = sk_malloc(MAX_MEM_BYTES)};
    if (!ret->mem)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    if (!find_program("mpirun", path, sizeof path))
        snprintf(path, sizeof path, "mpirun"); /* it was there; who starts it says why it is not */
    snprintf(n_rank, sizeof n_rank, "%u", conf->n_rank);

    word(&w, "%s", path); /* an absolute one: then the other hosts take it, and its libraries, from there too */
    if (geteuid() == 0)
        word(&w, "--allow-run-as-root");
    option(&w, "-n", n_rank);
    option(&w, "--stdin", "none");
    option(&w, "--bind-to", "none"); /* or all threads of a rank, and of every job's first rank, share one core */
    mca(&w, "pml", "ob1");
    mca(&w, "odls_base_sigkill_timeout", "0");          /* ranks have nothing to save */
    mca(&w, "btl_vader_single_copy_mechanism", "none"); /* the kernel may forbid it in containers (Yama) */
    if (is_one)
        one_host(&w, conf->dirs);
    else
        several_hosts(&w, conf->dirs);
    for (char *const *a = conf->rank_argv; *a && w.rc == 0; a++) {
        if (ret->n == SK_LAUNCH_MAX_ARGS)
            w.rc = -SK_ETOOBIG;
        else
            ret->argv[ret->n++] = *a;
    }
    ret->argv[ret->n] = NULL;
    int rc = w.rc ? sk_err_set(err, -w.rc, NULL, "mpirun's command line is too long") : 0;
    if (rc == 0 && !is_one)
        rc = write_hosts(conf, err);
    if (rc != 0)
        sk_launch_argv_done(ret);
    return rc;
}

void sk_launch_argv_done(struct sk_launch_argv *a)
{
    sk_free(a->mem);
    *a = (struct sk_launch_argv){0};
}

int sk_launch_status(int wait_status)
{
    int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0;
    return code > TERM_BASE && code <= TERM_BASE + MAX_SIGNAL ? code - TERM_BASE : wait_status;
}
