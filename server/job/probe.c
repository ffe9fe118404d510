#include "server/job/probe.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <uv.h>
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/job/child.h"

enum { PROBE_MS = 5000, MAX_WORDS = 32 };

struct asked { /* a host */
    struct sk_probe *probe;
    struct sk_child *child; /* NULL: it is over */
    bool answers;
};

struct sk_probe {
    struct sk_launch_hosts hosts;
    struct asked asked[SK_LAUNCH_MAX_HOST];
    uint32_t n_open; /* children */
    uv_timer_t timer;
    void (*done)(void *arg, const struct sk_launch_hosts *alive);
    void *arg;
};

static void on_timer_closed(uv_handle_t *h)
{
    struct sk_probe *p = h->data;
    struct sk_launch_hosts alive = {0};
    for (uint32_t i = 0; i < p->hosts.n; i++) {
        if (!p->asked[i].answers)
            continue;
        alive.host[alive.n++] = p->hosts.host[i];
        alive.n_slot += p->hosts.host[i].slots;
    }
    void (*done)(void *arg, const struct sk_launch_hosts *alive) = p->done;
    void *arg = p->arg;
    sk_free(p);
    done(arg, &alive);
}

static void finish_if_over(struct sk_probe *p)
{
    if (p->n_open == 0)
        uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

static void on_exit_status(void *arg, int status)
{
    struct asked *a = arg;
    a->child = NULL;
    a->answers = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    a->probe->n_open--;
    finish_if_over(a->probe);
}

static void end_children(struct sk_probe *p)
{
    for (uint32_t i = 0; i < p->hosts.n; i++) {
        if (p->asked[i].child)
            sk_child_kill(p->asked[i].child, SIGKILL);
    }
}

static void on_timeout(uv_timer_t *t)
{
    end_children(t->data);
}

static void ask(struct sk_probe *p, uint32_t i, uv_loop_t *loop)
{
    char *argv[MAX_WORDS + 3], mem[1024], name[256], command[] = "true";
    struct asked *a = &p->asked[i];
    const struct sk_child_conf conf = {.argv = argv, .fd = {-1, -1}, .arg = a, .on_exit = on_exit_status};
    struct sk_err err;
    int n = sk_launch_agent(argv, MAX_WORDS, mem, sizeof mem);
    if (n == 0)
        return;
    strcpy(name, p->hosts.host[i].name);
    argv[n++] = name;
    argv[n++] = command;
    argv[n] = NULL;
    if (sk_child_start(loop, &conf, &a->child, &err) == 0)
        p->n_open++;
    else
        sk_log(SK_LOG_WARN, "%s", err.msg);
}

int sk_probe_start(struct uv_loop_s *loop, const struct sk_launch_hosts *hosts,
                   void (*done)(void *arg, const struct sk_launch_hosts *alive), void *arg, struct sk_probe **ret)
{
    struct sk_probe *p = sk_calloc(1, sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    p->hosts = *hosts;
    p->done = done;
    p->arg = arg;
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    uv_timer_start(&p->timer, on_timeout, PROBE_MS, 0);
    for (uint32_t i = 0; i < hosts->n; i++)
        p->asked[i].probe = p;
    p->asked[0].answers = true;
    for (uint32_t i = 1; i < hosts->n; i++)
        ask(p, i, loop);
    *ret = p;
    finish_if_over(p);
    return 0;
}

void sk_probe_cut(struct sk_probe *p)
{
    end_children(p);
}
