/* The configuration of skeind as a whole: where it comes from, and whether what it names can be used. */
#ifndef SK_OPTIONS_H
#define SK_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/conf.h"

/* Defaults, then --config and the files of its conf.d, then the command line; API keys come from $CREDENTIALS_DIRECTORY
 * (LoadCredential= of a systemd unit) where no option names their file. Errors are those of sk_conf_args. */
int sk_options_read(struct sk_conf *ret, int argc, char **argv, struct sk_err *err);

/* Tries everything that the options name, as far as that is possible without changing anything or keeping a running
 * daemon from its work: addresses, permissions, certificate, origins, keys, users, template, model, folders. Calls
 * `complain` for each one that cannot be used, and returns how many. */
int sk_options_check(const struct sk_conf *c, void (*complain)(void *arg, const struct sk_err *why), void *arg);

/* --socket-mode. -SK_EINVAL, -SK_ERANGE. */
int sk_options_mode(const struct sk_conf *c, unsigned *ret, struct sk_err *err);
/* The next entry of a list separated by commas, without the blanks around it; empty ones are passed over. false = there
 * is none. One that does not fit is cut. */
bool sk_options_next(const char **at, char *ret, size_t n);

/* What a reload switches beside keys, certificates and origins. */
void sk_options_log(const struct sk_conf *c);
struct sk_http_limits;
void sk_options_limits(const struct sk_conf *c, struct sk_http_limits *ret);

#endif
