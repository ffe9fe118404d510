#include "server/job/command.h"

#include <stdio.h>

#include "comm/base/mem.h"

enum { MAX_ARG = 2200 };

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

/* The options that are that program's, too. */
static int finish(struct sk_command *c, int rc, const struct sk_conf *conf, unsigned prog, struct sk_err *err)
{
    if (rc == 0) {
        int n = sk_conf_to_args(conf, prog, c->argv + c->n, SK_COMMAND_MAX_ARGS - c->n);
        rc = n < 0 ? n : 0;
        c->n += n < 0 ? 0 : n;
        c->argv[c->n] = NULL;
    }
    if (rc == 0)
        return 0;
    sk_command_done(c);
    return sk_err_set(err, -rc, NULL, "no command line: %s", sk_err_text(rc));
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

int sk_command_engine(struct sk_command *c, const struct sk_conf *conf, const char *bin_dir, const char *dir,
                      uint32_t n, struct sk_err *err)
{
    char record[SK_CONF_STR_MAX + 16];
    int rc = 0;
    *c = (struct sk_command){0};
    add(c, &rc, "%s/skein-engine", bin_dir);
    add(c, &rc, "%s", "--fd=3");
    add(c, &rc, "%s", "--board-fd=4");
    add(c, &rc, "--dir=%s", dir);
    if (conf->engine_record[0]) {
        snprintf(record, sizeof record, n ? "%s.%u" : "%s", conf->engine_record, n);
        add(c, &rc, "--record=%s", record);
    }
    return finish(c, rc, conf, SK_PROG_ENGINE, err);
}

void sk_command_done(struct sk_command *c)
{
    for (int i = 0; i < c->n; i++)
        sk_free(c->argv[i]);
    *c = (struct sk_command){0};
}
