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
/* skein-engine on engine directory `dir`, its channel descriptor 3 and its board 4; the n-th engine, from 0, each of
 * which records into a file of its own. Errors as above. */
int sk_command_engine(struct sk_command *c, const struct sk_conf *conf, const char *bin_dir, const char *dir,
                      uint32_t n, struct sk_err *err);
void sk_command_done(struct sk_command *c);

#endif
