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

/* Help, limits and default as one sentence. */
static void put_description(struct sk_buf *b, const struct sk_conf_row *r)
{
    struct sk_conf c;
    sk_conf_defaults(&c);
    sk_buf_str(b, r->help);
    if (r->kind == SK_CONF_STR && !*r->str_default)
        return;
    sk_buf_str(b, " [");
    sk_conf_row_put_limits(b, r);
    if (r->kind == SK_CONF_INT || r->kind == SK_CONF_NUM)
        sk_buf_str(b, "; ");
    sk_buf_str(b, "default ");
    sk_conf_row_put_value(b, r, &c);
    sk_buf_char(b, ']');
}

static void print_help(FILE *f, const struct sk_conf_row *r)
{
    const char *arg = r->arg                                  ? r->arg
                      : sk_conf_row_is_bytes(r)               ? "SIZE"
                      : r->unit && strcmp(r->unit, "ms") == 0 ? "MS"
                                                              : "N";
    int n = r->kind == SK_CONF_BOOL ? fprintf(f, "  --[no-]%s", r->name) : fprintf(f, "  --%s %s", r->name, arg);
    if (n + 2 > HELP_COLUMN) {
        putc('\n', f);
        n = 0;
    }
    fprintf(f, "%*s", HELP_COLUMN - n, "");

    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    put_description(&b, r);
    wrap(f, "", HELP_COLUMN, b.p ? b.p : r->help);
    sk_buf_done(&b);
}

void sk_conf_help(FILE *f, unsigned prog)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if (r->prog & prog)
            print_help(f, r);
}

/* The file and the arguments are about what --config led to, not about where it was read. */
static bool is_written(const struct sk_conf_row *r, unsigned prog)
{
    return (r->prog & prog) && strcmp(r->name, "config") != 0;
}

static void print_row(const struct sk_conf *c, const struct sk_conf_row *r, FILE *f)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    put_description(&b, r);
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
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if (is_written(r, prog))
            print_row(c, r, f);
}

int sk_conf_to_args(const struct sk_conf *c, unsigned prog, char **argv, int max)
{
    int n = 0, rc = 0;
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows && rc == 0; r++) {
        if (!is_written(r, prog) || sk_conf_row_is_default(r, c))
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
