/* Command lines of the programs that the daemon starts, from its own options. */
#ifndef SK_COMMAND_H
#define SK_COMMAND_H
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/base/err.h"

enum { SK_COMMAND_MAX_ARGS = 64 };

struct sk_command {
    char *argv[SK_COMMAND_MAX_ARGS + 1]; /* owned, NULL-terminated */
    int n;
};

/* skein-build for --model, into the cache. -SK_ENOMEM, -SK_ETOOBIG; nothing is owned then. */
int sk_command_build(struct sk_command *c, const struct sk_conf *conf, const char *bin_dir, struct sk_err *err);

struct sk_command_rank {
    const char *bin_dir, *dir; /* dir: engine directory */
    const char *connect;       /* where its leader finds the daemon; NULL: channel and board are descriptors 3 and 4 */
    uint32_t n_tp, n_pp, replica;
    uint32_t n; /* the n-th engine of this replica, from 0, each of which records into a file of its own */
};
/* skein-engine, as every rank of one engine is started. Errors as above; -SK_ENOENT: the directory is gone. */
int sk_command_engine(struct sk_command *c, const struct sk_conf *conf, const struct sk_command_rank *r,
                      struct sk_err *err);
void sk_command_done(struct sk_command *c);

#endif
