/* The rows of conf/options.def as data: what conf.c reads options with and conf_print.c writes them with. */
#ifndef SK_CONF_ROW_H
#define SK_CONF_ROW_H
#include <stddef.h>
#include "comm/base/buf.h"
#include "comm/base/conf.h"

enum sk_conf_kind { SK_CONF_INT, SK_CONF_NUM, SK_CONF_BOOL, SK_CONF_STR, SK_CONF_ENUM };

struct sk_conf_row {
    enum sk_conf_kind kind;
    const char *name;
    unsigned prog;
    size_t offset; /* of the field in struct sk_conf */
    const char *help;
    int64_t int_default, int_min, int_max; /* INT; BOOL has the default only */
    double num_default, num_min, num_max;
    const char *unit;        /* INT, NUM */
    const char *str_default; /* STR, ENUM */
    const char *arg;         /* STR: what --help calls the value; ENUM: its choices, a|b|c */
};

extern const struct sk_conf_row sk_conf_rows[];
extern const size_t sk_conf_n_rows;

/* The row of an option of `prog`; NULL if there is none. */
const struct sk_conf_row *sk_conf_row_find(unsigned prog, const char *name);
void *sk_conf_row_field(const struct sk_conf_row *r, const struct sk_conf *c);
void sk_conf_row_reset(const struct sk_conf_row *r, struct sk_conf *c); /* to the default; `c` was zeroed */
size_t sk_conf_row_size(const struct sk_conf_row *r); /* bytes of the field; equal values are equal bytes */
bool sk_conf_row_is_default(const struct sk_conf_row *r, const struct sk_conf *c);
bool sk_conf_row_is_given(const struct sk_conf_row *r, const struct sk_conf *c);
/* Says whether file or command line set it. */
void sk_conf_row_give(const struct sk_conf_row *r, struct sk_conf *c, bool given);
/* Written to files and arguments of `prog`: all but `config`, since they are about what it led to, not where it was
 * read. */
bool sk_conf_row_is_written(const struct sk_conf_row *r, unsigned prog);
bool sk_conf_row_is_bytes(const struct sk_conf_row *r);

/* Appends the value as a file says it. Failure is the buffer's. */
void sk_conf_row_put_value(struct sk_buf *b, const struct sk_conf_row *r, const struct sk_conf *c);
void sk_conf_row_put_limits(struct sk_buf *b, const struct sk_conf_row *r); /* "from 1 to 64 tokens" */
/* "help [from 1 to 64 tokens; default 8; reload]"; the last word only where it is so and `with_reload`. */
void sk_conf_row_put_description(struct sk_buf *b, const struct sk_conf_row *r, bool with_reload);
const char *sk_conf_row_arg(const struct sk_conf_row *r); /* what --help calls the value: "FILE", "SIZE", "a|b|c" */

#endif
