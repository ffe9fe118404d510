/* A child process: started with descriptors of its own or with its output as lines, reaped, and ended with us whatever
 * happens to us. Its environment is ours without what a service manager meant for us alone. Owner: loop thread. */
#ifndef SK_CHILD_H
#define SK_CHILD_H
#include <stdbool.h>
#include "comm/base/err.h"

struct uv_loop_s;
struct sk_child;

struct sk_child_conf {
    char *const *argv;      /* argv[0] is the path of the program; NULL-terminated; borrowed for the call */
    const char *const *env; /* "NAME=value" beyond ours, or in place of ours; NULL-terminated, NULL = none */
    int fd[2]; /* become descriptors 3 and 4 of the child, its only ones beyond 0..2; -1 = none; remain the caller's */
    bool own_group; /* of processes: what a terminal sends to ours does not reach it */
    bool lines;     /* stdout and stderr come line by line through on_line; else stdout goes where our stderr goes */
    void *arg;
    void (*on_line)(void *arg, bool is_stderr, const char *line);
    /* The child is reaped, its output read to the end and every handle closed; `wait_status` as of waitpid(2). Called
     * once; the pointer is dead when it returns. */
    void (*on_exit)(void *arg, int wait_status);
};

/* -SK_EIO when it cannot be started (the message names the program and why), -SK_ENOMEM. */
int sk_child_start(struct uv_loop_s *loop, const struct sk_child_conf *conf, struct sk_child **ret, struct sk_err *err);
void sk_child_kill(struct sk_child *c, int signum);
int sk_child_pid(const struct sk_child *c);

#endif
