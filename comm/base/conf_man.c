#include "comm/base/conf.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/conf_row.h"

#define MAX_TEXT 4096

/* A hyphen that can be copied, and nothing that is taken for a request or an escape. */
void sk_conf_man_text(FILE *f, const char *s)
{
    static const char special[] = "\\-'~^`";
    static const char *const names[] = {"\\e", "\\-", "\\(aq", "\\(ti", "\\(ha", "\\(ga"};
    if (*s == '.')
        fputs("\\&", f);
    for (; *s; s++) {
        const char *at = strchr(special, *s);
        if (at)
            fputs(names[at - special], f);
        else
            putc(*s, f);
    }
}

static void print_option(FILE *f, const struct sk_conf_row *r, unsigned prog)
{
    fputs(r->kind == SK_CONF_BOOL ? ".TP\n\\fB\\-\\-\\fR[\\fBno\\-\\fR]\\fB" : ".TP\n\\fB\\-\\-", f);
    sk_conf_man_text(f, r->name);
    fputs("\\fR", f);
    if (r->kind != SK_CONF_BOOL) {
        fputs(" \\fI", f);
        sk_conf_man_text(f, sk_conf_row_arg(r));
        fputs("\\fR", f);
    }
    putc('\n', f);

    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    sk_conf_row_put_description(&b, r, prog & SK_PROG_DAEMON);
    sk_conf_man_text(f, b.p ? b.p : r->help);
    putc('\n', f);
    sk_buf_done(&b);
}

void sk_conf_man(FILE *f, unsigned prog)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if (r->prog & prog)
            print_option(f, r, prog);
}
