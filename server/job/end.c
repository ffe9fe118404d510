#include "server/job/end.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

static int signal_of(int status)
{
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* Some signals come from outside (an operator, the kernel short of memory) and say nothing about the engine, nor about
 * the requests on board. One that said why it gives up, and hung up, ended by itself, whatever hit it then. */
static enum sk_end end_of_ours(const struct sk_end_signs *e, int status)
{
    int sig = signal_of(status);
    bool from_outside = sig == SIGKILL || sig == SIGTERM || sig == SIGINT || sig == SIGHUP;
    return from_outside && !e->said[0] ? SK_END_KILLED : SK_END_CRASH;
}

/* The first rank that failed is known by its signal; any other status is mpirun's own, as when it lost a host, or was
 * ended. A rank that crashed leaves the others without it, so its signal says more than they do. */
static enum sk_end end_of_mpiruns(const struct sk_end_signs *e, int status)
{
    int sig = signal_of(status);
    bool is_crash = sig == SIGSEGV || sig == SIGABRT || sig == SIGBUS || sig == SIGFPE || sig == SIGILL;
    return is_crash || (e->said[0] && !e->is_lost) ? SK_END_CRASH : SK_END_KILLED;
}

/* One that hung up without a word may have crashed: else a request that makes it crash would do so for ever. */
static enum sk_end end_of_anothers(const struct sk_end_signs *e)
{
    return e->is_lost ? SK_END_KILLED : SK_END_CRASH;
}

enum sk_end sk_end_of(const struct sk_end_signs *e, int wait_status, bool was_up)
{
    enum sk_end end = e->was_killed               ? e->killed_as
                      : e->kind == SK_END_OURS    ? end_of_ours(e, wait_status)
                      : e->kind == SK_END_MPIRUNS ? end_of_mpiruns(e, wait_status)
                                                  : end_of_anothers(e);
    return was_up || end == SK_END_KILLED ? end : SK_END_START;
}

const char *sk_end_name(enum sk_end end)
{
    static const char *const names[] = {"crash", "hang", "killed", "start"};
    return names[end];
}

void sk_end_describe(const struct sk_end_signs *e, int wait_status, char *ret, size_t n)
{
    if (e->said[0])
        snprintf(ret, n, "%s", e->said);
    else if (e->kind == SK_END_ANOTHERS)
        snprintf(ret, n, "the engine hung up");
    else if (signal_of(wait_status))
        snprintf(ret, n, "the engine ended with signal %d", signal_of(wait_status));
    else
        snprintf(ret, n, "%s exited with status %d", e->kind == SK_END_MPIRUNS ? "mpirun" : "the engine",
                 WEXITSTATUS(wait_status));
}
