#include "comm/base/conf.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/conf_row.h"
#include "comm/base/mem.h"

#define MAX_TEXT    4096 /* bytes of a value or its description */
#define COLUMNS     80
#define HELP_COLUMN 30

/* Writes the words of `text` between `indent`, where the cursor is, and COLUMNS; each further line after `prefix`. */
static void wrap(FILE *f, const char *prefix, int indent, const char *text)
{
    int column = indent;
    for (const char *at = text; *at;) {
        int n = (int)strcspn(at, " ");
        if (column > indent && column + 1 + n > COLUMNS) {
            fprintf(f, "\n%s%*s", prefix, indent - (int)strlen(prefix), "");
            column = indent;
        } else if (column > indent) {
            putc(' ', f);
            column++;
        }
        fwrite(at, 1, (size_t)n, f);
        column += n;
        at += n;
        while (*at == ' ')
            at++;
    }
    putc('\n', f);
}

static void print_help(FILE *f, const struct sk_conf_row *r)
{
    int n = r->kind == SK_CONF_BOOL ? fprintf(f, "  --[no-]%s", r->name)
                                    : fprintf(f, "  --%s %s", r->name, sk_conf_row_arg(r));
    if (n + 2 > HELP_COLUMN) {
        putc('\n', f);
        n = 0;
    }
    fprintf(f, "%*s", HELP_COLUMN - n, "");

    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    sk_conf_row_put_description(&b, r, false);
    wrap(f, "", HELP_COLUMN, b.p ? b.p : r->help);
    sk_buf_done(&b);
}

void sk_conf_help(FILE *f, unsigned prog)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if (r->prog & prog)
            print_help(f, r);
}

static void print_row(const struct sk_conf *c, const struct sk_conf_row *r, unsigned prog, FILE *f)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    sk_conf_row_put_description(&b, r, prog & SK_PROG_DAEMON);
    if (r->kind == SK_CONF_ENUM)
        sk_buf_fmt(&b, " (%s)", r->arg);
    fputs("\n# ", f);
    wrap(f, "# ", 2, b.p ? b.p : r->help);

    sk_buf_clear(&b);
    sk_conf_row_put_value(&b, r, c);
    const char *value = b.p ? b.p : "";
    size_t n = strlen(value);
    bool quote =
        n && (strchr(" \t\r", value[0]) || strchr(" \t\r", value[n - 1]) || (value[0] == '"' && value[n - 1] == '"'));
    const char *q = quote ? "\"" : "";
    fprintf(f, "%s%s =%s%s%s%s\n", sk_conf_row_is_default(r, c) && !sk_conf_row_is_given(r, c) ? "#" : "", r->name,
            n ? " " : "", q, value, q);
    sk_buf_done(&b);
}

void sk_conf_print(const struct sk_conf *c, unsigned prog, FILE *f)
{
    fputs("# Lines of the form `name = value`. A line that begins with # is a comment; those of the form\n"
          "# `#name = value` show defaults. Sizes take K, M, G and T, powers of 1024.\n",
          f);
    if (prog & SK_PROG_DAEMON)
        fputs("# What is marked `reload` takes effect when skeind gets SIGHUP, the rest when it is started.\n", f);
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if (sk_conf_row_is_written(r, prog))
            print_row(c, r, prog, f);
}

int sk_conf_to_args(const struct sk_conf *c, unsigned prog, char **argv, int max)
{
    int n = 0, rc = 0;
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows && rc == 0; r++) {
        if (!sk_conf_row_is_written(r, prog) || sk_conf_row_is_default(r, c))
            continue;
        struct sk_buf b;
        sk_buf_init(&b, MAX_TEXT);
        sk_buf_fmt(&b, "--%s=", r->name);
        sk_conf_row_put_value(&b, r, c);
        rc = b.failed ? b.failed : n == max ? -SK_ETOOBIG : 0;
        if (rc)
            sk_buf_done(&b);
        else
            argv[n++] = b.p;
    }
    if (rc == 0)
        return n;
    while (n > 0)
        sk_free(argv[--n]);
    return rc;
}
