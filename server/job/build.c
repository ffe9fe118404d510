#include "server/job/build.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include "comm/base/mem.h"
#include "server/job/child.h"
#include "server/job/command.h"

struct sk_build {
    struct sk_build_conf conf;
    struct sk_child *child;
    char dir[1024];
    char error[448]; /* what it said last */
};

static void on_line(void *arg, bool is_stderr, const char *line)
{
    struct sk_build *b = arg;
    if (is_stderr)
        fprintf(stderr, "%s\n", line);
    else if (strncmp(line, "error ", 6) == 0)
        snprintf(b->error, sizeof b->error, "%s", line + 6);
    else if (strncmp(line, "progress ", 9) == 0) /* percent */
        b->conf.on_progress(b->conf.arg, 10 * (uint32_t)strtoul(line + 9, NULL, 10));
    else if (strncmp(line, "dir ", 4) == 0)
        snprintf(b->dir, sizeof b->dir, "%s", line + 4);
}

static void on_exit_status(void *arg, int status)
{
    struct sk_build *b = arg;
    char why[512];
    bool is_done = WIFEXITED(status) && WEXITSTATUS(status) == 0 && b->dir[0];
    if (WIFSIGNALED(status))
        snprintf(why, sizeof why, "skein-build ended with signal %d", WTERMSIG(status));
    else
        snprintf(why, sizeof why, "%s", b->error[0] ? b->error : "skein-build failed without a word");
    b->conf.on_end(b->conf.arg, is_done ? b->dir : NULL, why);
    sk_free(b);
}

int sk_build_start(struct uv_loop_s *loop, const struct sk_build_conf *conf, struct sk_build **ret, struct sk_err *err)
{
    struct sk_command c;
    struct sk_build *b = sk_calloc(1, sizeof *b);
    if (!b)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    b->conf = *conf;
    int rc = sk_command_build(&c, conf->conf, conf->bin_dir, err);
    if (rc == 0) {
        const struct sk_child_conf child = {
            .argv = c.argv, .fd = {-1, -1}, .lines = true, .arg = b, .on_line = on_line, .on_exit = on_exit_status};
        rc = sk_child_start(loop, &child, &b->child, err);
        sk_command_done(&c);
    }
    if (rc != 0)
        sk_free(b);
    else
        *ret = b;
    return rc;
}

void sk_build_kill(struct sk_build *b, int signum)
{
    sk_child_kill(b->child, signum);
}
