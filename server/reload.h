/* A new configuration for the running daemon. */
#ifndef SK_RELOAD_H
#define SK_RELOAD_H
#include "server/server.h"

/* Reads the options again, from the files of today and the command line of the start, and checks all that they name;
 * then switches at once: limits, keys, log, certificates, origins (the rows of conf/options.def with R). Open requests
 * go on. The log names what has changed and needs a restart. `conf` is what s->conf points to.
 * false: there is a mistake, of which the log says file and line, and everything stays as it was. */
bool sk_reload(struct sk_server *s, struct sk_conf *conf, int argc, char **argv);

#endif
