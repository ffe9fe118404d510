#include "server/job/command.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/base/mem.h"

enum { MAX_ARG = PATH_MAX + 64 };

/* One word, unless a word before it failed already. */
static void add(struct sk_command *c, int *rc, const char *fmt, const char *value)
{
    char s[MAX_ARG];
    if (*rc != 0)
        return;
    snprintf(s, sizeof s, fmt, value);
    char *copy = sk_strdup(s);
    if (!copy)
        *rc = -SK_ENOMEM;
    else if (c->n == SK_COMMAND_MAX_ARGS)
        *rc = -SK_ETOOBIG;
    if (*rc == 0)
        c->argv[c->n++] = copy;
    else
        sk_free(copy);
}

static int close_list(struct sk_command *c, int rc, struct sk_err *err)
{
    c->argv[c->n] = NULL;
    if (rc == 0)
        return 0;
    sk_command_done(c);
    return sk_err_set(err, -rc, NULL, "no command line: %s", sk_err_text(rc));
}

/* The options that are that program's, too. */
static int finish(struct sk_command *c, int rc, const struct sk_conf *conf, unsigned prog, struct sk_err *err)
{
    int n = rc == 0 ? sk_conf_to_args(conf, prog, c->argv + c->n, SK_COMMAND_MAX_ARGS - c->n) : rc;
    c->n += n < 0 ? 0 : n;
    return close_list(c, n < 0 ? n : 0, err);
}

int sk_command_build(struct sk_command *c, const struct sk_conf *conf, const char *bin_dir, struct sk_err *err)
{
    int rc = 0;
    *c = (struct sk_command){0};
    add(c, &rc, "%s/skein-build", bin_dir);
    add(c, &rc, "--cache=%s", conf->model);
    add(c, &rc, "%s", "--porcelain");
    return finish(c, rc, conf, SK_PROG_BUILD, err);
}

static void add_record(struct sk_command *c, int *rc, const struct sk_conf *conf, const struct sk_command_rank *r)
{
    char replica[16] = "", again[16] = "", record[SK_CONF_STR_MAX + 32];
    if (!conf->engine_record[0])
        return;
    if (r->replica > 0)
        snprintf(replica, sizeof replica, ".r%u", r->replica);
    if (r->n > 0)
        snprintf(again, sizeof again, ".%u", r->n);
    snprintf(record, sizeof record, "%s%s%s", conf->engine_record, replica, again);
    add(c, rc, "--record=%s", record);
}

/* On another host the working directory may be another one. */
static void add_dir(struct sk_command *c, int *rc, const struct sk_command_rank *r)
{
    char path[PATH_MAX];
    if (!r->connect)
        add(c, rc, "--dir=%s", r->dir);
    else if (realpath(r->dir, path))
        add(c, rc, "--dir=%s", path);
    else
        *rc = *rc ? *rc : -SK_ENOENT;
}

static void add_number(struct sk_command *c, int *rc, const char *fmt, uint32_t value)
{
    char s[16];
    snprintf(s, sizeof s, "%u", value);
    add(c, rc, fmt, s);
}

int sk_command_engine(struct sk_command *c, const struct sk_conf *conf, const struct sk_command_rank *r,
                      struct sk_err *err)
{
    char share[32];
    int rc = 0;
    *c = (struct sk_command){0};
    add(c, &rc, "%s/skein-engine", r->bin_dir);
    if (r->connect) {
        add(c, &rc, "--connect=%s", r->connect);
    } else {
        add(c, &rc, "%s", "--fd=3");
        add(c, &rc, "%s", "--board-fd=4");
    }
    add_dir(c, &rc, r);
    add_record(c, &rc, conf, r);
    if (conf->replicas > 1) {
        snprintf(share, sizeof share, "%u/%u", r->replica, (unsigned)conf->replicas);
        add(c, &rc, "--cpu-share=%s", share);
    }
    rc = finish(c, rc, conf, SK_PROG_ENGINE, err);
    if (rc != 0 || (r->n_tp == (uint32_t)conf->tp && r->n_pp == (uint32_t)conf->pp))
        return rc;
    add_number(c, &rc, "--tp=%s", r->n_tp); /* the last one counts */
    add_number(c, &rc, "--pp=%s", r->n_pp);
    return close_list(c, rc, err);
}

void sk_command_done(struct sk_command *c)
{
    for (int i = 0; i < c->n; i++)
        sk_free(c->argv[i]);
    *c = (struct sk_command){0};
}
