/* Options: one table (conf/options.def) gives the struct, the command line, the file, --help and the sample file.
 * Order of precedence: defaults < file (--config FILE, key = value lines) < drop-ins (conf.d/?*.conf beside it, by
 * name) < command line. */
#ifndef SK_CONF_H
#define SK_CONF_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

/* Which program takes an option (bit set). */
enum {
    SK_PROG_DAEMON = 1,
    SK_PROG_ENGINE = 2,
    SK_PROG_BUILD = 4,
    SK_OPT_RELOAD = 8, /* of a row: see there */
    SK_PROG_CHAT = 16,
    SK_PROG_BENCH = 32,
    SK_OPT_FIELD = 64 /* of a row: a field of a chat's requests, sent only where it is given */
};

#define SK_CONF_STR_MAX  1024 /* bytes of a string option, NUL included */
#define SK_CONF_ENUM_MAX 32   /* likewise of an enum's choice */

/* C types of the table's kinds: INT int64_t, BYTES int64_t, MS int64_t, NUM double, BOOL bool, STR/ENUM char[]. */
struct sk_conf {
#define SK_OPT_INT(field, name, prog, def, min, max, unit, help) int64_t field;
#define SK_OPT_NUM(field, name, prog, def, min, max, unit, help) double field;
#define SK_OPT_BOOL(field, name, prog, def, help)                bool field;
#define SK_OPT_STR(field, name, prog, def, arg, help)            char field[SK_CONF_STR_MAX];
#define SK_OPT_ENUM(field, name, prog, def, choices, help)       char field[SK_CONF_ENUM_MAX];
#include "conf/options.def"
#undef SK_OPT_INT
#undef SK_OPT_NUM
#undef SK_OPT_BOOL
#undef SK_OPT_STR
#undef SK_OPT_ENUM
    uint64_t given[3]; /* bit i: option row i was set by file or command line; at most 192 rows */
};

void sk_conf_defaults(struct sk_conf *c);
/* One `name` = `value`; an option set twice has its last value. A BOOL is true|on|yes or false|off|no. -SK_EINVAL
 * (unknown name, the message suggests the nearest one; not among the choices; control character), -SK_ERANGE,
 * -SK_ETYPE; err->param is the name. */
int sk_conf_set(struct sk_conf *c, unsigned prog, const char *name, const char *value, struct sk_err *err);
/* A file of `name = value` lines; lines that begin with # are comments; a value in double quotes is what is between
 * them. `config` is refused. Errors say file:line and leave the lines before in force. Also -SK_ENOENT, -SK_EIO,
 * -SK_ETOOBIG. */
int sk_conf_file(struct sk_conf *c, unsigned prog, const char *path, struct sk_err *err);
/* Parses s[0..n) as such a file; `path` is only for messages. */
int sk_conf_text(struct sk_conf *c, unsigned prog, const char *path, const char *s, size_t n, struct sk_err *err);
/* The files conf.d/?*.conf beside the file `path`, in the order of their names' bytes, without hidden ones; none is
 * fine. Errors as above; -SK_ETOOBIG beyond 256 of them. */
int sk_conf_dropins(struct sk_conf *c, unsigned prog, const char *path, struct sk_err *err);
/* `--name value`, `--name=value`, `--flag` (BOOL; also `--flag off`), `--no-flag`; a --config FILE among them is read
 * first, with its drop-ins. argv[0] is passed over. Non-option words go to ret_rest (at most max_rest; NULL with 0 =
 * none allowed). Errors as above, and -SK_EMISSING where a value is. */
int sk_conf_args(struct sk_conf *c, unsigned prog, int argc, char **argv, const char **ret_rest, int max_rest,
                 int *ret_n_rest, struct sk_err *err);
bool sk_conf_given(const struct sk_conf *c, const char *name); /* set by file or command line; `name` must exist */
void sk_conf_help(FILE *f, unsigned prog);                     /* the options part of --help */
void sk_conf_man(FILE *f, unsigned prog);                      /* likewise of a man page: roff with the man macros */
void sk_conf_man_text(FILE *f, const char *s);                 /* any text of one line, as roff */
/* As a file that sk_conf_file reads back, each option under its help text; those at their defaults are commented out,
 * so that after sk_conf_defaults this is the sample file. The daemon's options that a reload changes are marked.
 * `config` is left out, here and below. */
void sk_conf_print(const struct sk_conf *c, unsigned prog, FILE *f);
/* A new configuration for a running program: the reloadable options of `to` become those of `from`, all at once. Names
 * of others that differ, which need a restart, are appended to `ret_names`, separated by commas. */
void sk_conf_reload(struct sk_conf *to, const struct sk_conf *from, unsigned prog, struct sk_buf *ret_names);
/* Fills argv with `--name=value` of every option of `prog` that differs from its default; strings are the caller's
 * (sk_free). Returns the count or -SK_ETOOBIG / -SK_ENOMEM. */
int sk_conf_to_args(const struct sk_conf *c, unsigned prog, char **argv, int max);

/* "8G", "512MiB", "1.5k": bytes (k/M/G/T are powers of 1024; a rest of a byte is dropped). -SK_EINVAL. */
int sk_conf_bytes(const char *s, int64_t *ret);

#endif
