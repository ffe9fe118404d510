#include "comm/base/conf.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"

#define MAX_FILE_BYTES (1 << 20)
#define MAX_NAME       64   /* bytes of an option's name, NUL included */
#define MAX_TEXT       4096 /* bytes of a value or its description */
#define COLUMNS        80
#define HELP_COLUMN    30

/* ---- the table ---- */

enum kind { KIND_INT, KIND_NUM, KIND_BOOL, KIND_STR, KIND_ENUM };

struct row {
    enum kind kind;
    const char *name;
    unsigned prog;
    size_t offset; /* of the field in struct sk_conf */
    const char *help;
    int64_t int_default, int_min, int_max; /* INT; BOOL has the default only */
    double num_default, num_min, num_max;
    const char *unit;
    const char *str_default; /* STR, ENUM */
    const char *arg;         /* what --help calls the value; for an ENUM its choices, a|b|c */
};

static const struct row rows[] = {
#define FIRST(kind_, f, n, p, h) .kind = kind_, .name = n, .prog = p, .offset = offsetof(struct sk_conf, f), .help = h
#define SK_OPT_INT(f, n, p, def, min, max, unit_, h)                                                                   \
    {FIRST(KIND_INT, f, n, p, h), .int_default = def, .int_min = min, .int_max = max, .unit = unit_},
#define SK_OPT_NUM(f, n, p, def, min, max, unit_, h)                                                                   \
    {FIRST(KIND_NUM, f, n, p, h), .num_default = def, .num_min = min, .num_max = max, .unit = unit_},
#define SK_OPT_BOOL(f, n, p, def, h)          {FIRST(KIND_BOOL, f, n, p, h), .int_default = def},
#define SK_OPT_STR(f, n, p, def, arg_, h)     {FIRST(KIND_STR, f, n, p, h), .str_default = def, .arg = arg_},
#define SK_OPT_ENUM(f, n, p, def, choices, h) {FIRST(KIND_ENUM, f, n, p, h), .str_default = def, .arg = choices},
#include "conf/options.def"
#undef FIRST
#undef SK_OPT_INT
#undef SK_OPT_NUM
#undef SK_OPT_BOOL
#undef SK_OPT_STR
#undef SK_OPT_ENUM
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

_Static_assert(N_ROWS <= 8 * sizeof((struct sk_conf *)0)->given, "sk_conf.given has a bit for each option");

static void *field(const struct sk_conf *c, const struct row *r)
{
    return (char *)c + r->offset;
}

static bool is_bytes(const struct row *r)
{
    return r->kind == KIND_INT && strcmp(r->unit, "bytes") == 0;
}

/* The row of an option of `prog`; NULL if there is none. */
static const struct row *find(unsigned prog, const char *name)
{
    for (const struct row *r = rows; r < rows + N_ROWS; r++)
        if ((r->prog & prog) && strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein's distance; both shorter than MAX_NAME. */
static size_t distance(const char *a, const char *b)
{
    size_t row[MAX_NAME];
    size_t n = strlen(b);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[n];
}

static int unknown(unsigned prog, const char *name, struct sk_err *err)
{
    const struct row *nearest = NULL;
    size_t n = strlen(name), least = n / 3 + 2;
    for (const struct row *r = rows; r < rows + N_ROWS && n < MAX_NAME; r++) {
        size_t d = r->prog & prog ? distance(name, r->name) : SIZE_MAX;
        if (d < least) {
            least = d;
            nearest = r;
        }
    }
    if (nearest)
        return sk_err_set(err, SK_EINVAL, name, "unknown option '%s'; did you mean '%s'?", name, nearest->name);
    return sk_err_set(err, SK_EINVAL, name, "unknown option '%s'", name);
}

/* ---- values as text ---- */

int sk_conf_bytes(const char *s, int64_t *ret)
{
    static const char units[] = "kmgt";
    int64_t whole = 0, scale = 1;
    double part = 0, digit = 0.1;
    if (*s < '0' || *s > '9')
        return -SK_EINVAL;
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *s - '0', &whole))
            return -SK_EINVAL;
    bool fraction = *s == '.';
    if (fraction)
        for (s++; *s >= '0' && *s <= '9'; s++, digit /= 10)
            part += (*s - '0') * digit;

    const char *unit = *s ? strchr(units, *s | 0x20) : NULL;
    if (unit) {
        scale = (int64_t)1 << (10 * (unit - units + 1));
        s++;
        if (*s == 'i')
            s++;
    } else if (fraction) {
        return -SK_EINVAL; /* there is no half byte */
    }
    if (*s == 'B')
        s++;
    if (*s || __builtin_mul_overflow(whole, scale, &whole) ||
        __builtin_add_overflow(whole, (int64_t)(part * (double)scale), &whole))
        return -SK_EINVAL;
    *ret = whole;
    return 0;
}

/* In the largest unit that divides it, so that it reads back exactly. */
static void put_bytes(struct sk_buf *b, int64_t x)
{
    static const char *const units[] = {"", "K", "M", "G", "T"};
    int k = 0;
    for (; k < 4 && x && x % 1024 == 0; k++)
        x /= 1024;
    sk_buf_fmt(b, "%lld%s", (long long)x, units[k]);
}

static void put_int(struct sk_buf *b, const struct row *r, int64_t x)
{
    if (is_bytes(r))
        put_bytes(b, x);
    else
        sk_buf_fmt(b, "%lld", (long long)x);
}

static void put_value(struct sk_buf *b, const struct row *r, const struct sk_conf *c)
{
    const void *p = field(c, r);
    switch (r->kind) {
    case KIND_INT:
        put_int(b, r, *(const int64_t *)p);
        break;
    case KIND_NUM:
        sk_json_put_num(b, *(const double *)p);
        break;
    case KIND_BOOL:
        sk_buf_str(b, *(const bool *)p ? "true" : "false");
        break;
    case KIND_STR:
    case KIND_ENUM:
        sk_buf_str(b, p);
        break;
    }
}

static void put_limits(struct sk_buf *b, const struct row *r)
{
    if (r->kind == KIND_INT) {
        sk_buf_str(b, r->int_max == INT64_MAX ? "at least " : "from ");
        put_int(b, r, r->int_min);
        if (r->int_max != INT64_MAX) {
            sk_buf_str(b, " to ");
            put_int(b, r, r->int_max);
        }
    } else if (r->kind == KIND_NUM) {
        sk_buf_fmt(b, "from %g to %g", r->num_min, r->num_max);
    }
    if (r->unit && *r->unit)
        sk_buf_fmt(b, " %s", r->unit);
}

/* ---- setting ---- */

static void set_default(struct sk_conf *c, const struct row *r)
{
    void *p = field(c, r);
    switch (r->kind) {
    case KIND_INT:
        *(int64_t *)p = r->int_default;
        break;
    case KIND_NUM:
        *(double *)p = r->num_default;
        break;
    case KIND_BOOL:
        *(bool *)p = r->int_default;
        break;
    case KIND_STR:
    case KIND_ENUM:
        strcpy(p, r->str_default); /* ours, and the field was zero and larger */
        break;
    }
}

void sk_conf_defaults(struct sk_conf *c)
{
    memset(c, 0, sizeof *c);
    for (const struct row *r = rows; r < rows + N_ROWS; r++)
        set_default(c, r);
}

static int bad_value(const struct row *r, int code, const char *value, struct sk_err *err)
{
    struct sk_buf want;
    sk_buf_init(&want, MAX_TEXT);
    if (r->kind == KIND_BOOL)
        sk_buf_str(&want, "true or false");
    else if (r->kind == KIND_ENUM)
        sk_buf_fmt(&want, "one of %s", r->arg);
    else if (code == SK_ETYPE)
        sk_buf_str(&want, r->kind == KIND_NUM ? "a number "
                          : is_bytes(r)       ? "a size such as 512M or 8G, "
                                              : "an integer ");
    put_limits(&want, r);
    sk_err_set(err, code, r->name, "%s must be %s, not '%s'", r->name, want.p ? want.p : "different", value);
    sk_buf_done(&want);
    return -code;
}

static int parse_int(const struct row *r, const char *s, int64_t *ret)
{
    if (is_bytes(r))
        return sk_conf_bytes(s, ret) ? -SK_ETYPE : 0;
    char *end;
    errno = 0;
    long long x = strtoll(s, &end, 10);
    if (end == s || *end || (*s != '-' && (*s < '0' || *s > '9')))
        return -SK_ETYPE;
    if (errno == ERANGE)
        return -SK_ERANGE;
    *ret = x;
    return 0;
}

static int set_int(const struct row *r, const char *s, int64_t *ret)
{
    int64_t x;
    int rc = parse_int(r, s, &x);
    if (rc)
        return rc;
    if (x < r->int_min || x > r->int_max)
        return -SK_ERANGE;
    *ret = x;
    return 0;
}

static int set_num(const struct row *r, const char *s, double *ret)
{
    char *end;
    double x = strtod(s, &end);
    if (end == s || *end || !(*s == '-' || *s == '.' || (*s >= '0' && *s <= '9')))
        return -SK_ETYPE;
    if (!(x >= r->num_min && x <= r->num_max))
        return -SK_ERANGE;
    *ret = x;
    return 0;
}

/* 1 or 0; -1: neither. */
static int truth_of(const char *s)
{
    static const char *const words[] = {"false", "true", "off", "on", "no", "yes"};
    for (int i = 0; i < 6; i++)
        if (strcmp(s, words[i]) == 0)
            return i % 2;
    return -1;
}

static bool is_choice(const char *choices, const char *s)
{
    size_t n = strlen(s);
    for (const char *at = choices; *at; at += strcspn(at, "|"), at += *at == '|')
        if (n && strcspn(at, "|") == n && strncmp(at, s, n) == 0)
            return true;
    return false;
}

static int set_str(const struct row *r, const char *s, char *field_p, struct sk_err *err)
{
    size_t n = strlen(s);
    if (n >= SK_CONF_STR_MAX)
        return sk_err_set(err, SK_ERANGE, r->name, "%s is longer than %d bytes", r->name, SK_CONF_STR_MAX - 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return sk_err_set(err, SK_EINVAL, r->name, "%s has a control character at byte %zu", r->name, i);
    memmove(field_p, s, n + 1);
    return 0;
}

static int set_row(struct sk_conf *c, const struct row *r, const char *value, struct sk_err *err)
{
    void *p = field(c, r);
    int rc = 0;
    switch (r->kind) {
    case KIND_INT:
        rc = set_int(r, value, p);
        break;
    case KIND_NUM:
        rc = set_num(r, value, p);
        break;
    case KIND_BOOL:
        rc = truth_of(value) < 0 ? -SK_ETYPE : 0;
        if (rc == 0)
            *(bool *)p = truth_of(value);
        break;
    case KIND_ENUM:
        rc = is_choice(r->arg, value) ? 0 : -SK_EINVAL;
        if (rc == 0)
            strcpy(p, value); /* a choice fits */
        break;
    case KIND_STR:
        rc = set_str(r, value, p, err);
        if (rc)
            return rc;
        break;
    }
    if (rc)
        return bad_value(r, -rc, value, err);
    size_t i = (size_t)(r - rows);
    c->given[i / 64] |= UINT64_C(1) << (i % 64);
    return 0;
}

int sk_conf_set(struct sk_conf *c, unsigned prog, const char *name, const char *value, struct sk_err *err)
{
    const struct row *r = find(prog, name);
    return r ? set_row(c, r, value, err) : unknown(prog, name, err);
}

static bool is_given(const struct sk_conf *c, const struct row *r)
{
    size_t i = (size_t)(r - rows);
    return c->given[i / 64] >> (i % 64) & 1;
}

bool sk_conf_given(const struct sk_conf *c, const char *name)
{
    const struct row *r = find(~0u, name);
    sk_assert(r);
    return is_given(c, r);
}

/* ---- files ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Makes [*s, *end) a string without the white space around it. */
static char *trim(char *s, char *end)
{
    while (s < end && is_space(*s))
        s++;
    while (end > s && is_space(end[-1]))
        end--;
    *end = '\0';
    return s;
}

/* One line of a file, without its end; it is changed. A value in double quotes is what is between them: so blanks at
 * its ends can be said. */
static int set_line(struct sk_conf *c, unsigned prog, char *line, size_t n, struct sk_err *err)
{
    if (memchr(line, '\0', n))
        return sk_err_set(err, SK_EINVAL, NULL, "NUL byte");
    char *s = trim(line, line + n);
    if (*s == '#' || *s == '\0')
        return 0;
    char *eq = strchr(s, '=');
    if (!eq)
        return sk_err_set(err, SK_EINVAL, NULL, "expected 'name = value', not '%s'", s);
    char *value = trim(eq + 1, s + strlen(s));
    char *name = trim(s, eq);
    size_t n_value = strlen(value);
    if (n_value >= 2 && value[0] == '"' && value[n_value - 1] == '"') {
        value[n_value - 1] = '\0';
        value++;
    }
    if (strcmp(name, "config") == 0)
        return sk_err_set(err, SK_EINVAL, name, "a configuration file cannot name another one");
    return sk_conf_set(c, prog, name, value, err);
}

int sk_conf_text(struct sk_conf *c, unsigned prog, const char *path, const char *s, size_t n, struct sk_err *err)
{
    int rc = 0;
    struct sk_err why = {0};
    char *text = sk_malloc(n + 1);
    if (!text)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
    memcpy(text, s, n);
    text[n] = '\0';
    int n_line = 1;
    for (char *line = text, *end = text + n; line <= end; n_line++) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop)
            stop = end;
        rc = set_line(c, prog, line, (size_t)(stop - line), &why);
        if (rc) {
            sk_err_set(err, -rc, why.param, "%s:%d: %s", path, n_line, why.msg);
            break;
        }
        line = stop + 1;
    }
    sk_free(text);
    return rc;
}

int sk_conf_file(struct sk_conf *c, unsigned prog, const char *path, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_FILE_BYTES);
    int rc = sk_buf_file(&b, path, err);
    if (rc == 0)
        rc = sk_conf_text(c, prog, path, b.p, b.n, err);
    sk_buf_done(&b);
    return rc;
}

/* ---- the command line ---- */

struct arg {
    const struct row *row; /* NULL: not an option but a word */
    const char *value;     /* the option's, or the word */
    int n_used;            /* elements of argv */
};

/* Reads `--name=value` or `--name value` at argv[i]. */
static int read_option(unsigned prog, int argc, char **argv, int i, struct arg *ret, struct sk_err *err)
{
    const char *word = argv[i] + 2, *eq = strchr(word, '=');
    char name[SK_CONF_STR_MAX];
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    if (n >= sizeof name)
        return sk_err_set(err, SK_EINVAL, NULL, "an option's name of %zu bytes", n);
    memcpy(name, word, n);
    name[n] = '\0';

    struct arg a = {.row = find(prog, name), .n_used = 1};
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    if (!a.row && !eq && strncmp(name, "no-", 3) == 0) {
        a.row = find(prog, name + 3);
        a.value = "false";
        if (a.row && a.row->kind != KIND_BOOL)
            a.row = NULL;
    } else if (eq) {
        a.value = eq + 1;
    } else if (a.row && a.row->kind == KIND_BOOL && (!next || truth_of(next) < 0)) {
        a.value = "true";
    } else if (a.row && (!next || strncmp(next, "--", 2) == 0)) {
        return sk_err_set(err, SK_EMISSING, name, "--%s needs a value", name);
    } else {
        a.value = next;
        a.n_used = 2;
    }
    if (!a.row)
        return unknown(prog, name, err);
    *ret = a;
    return 0;
}

static int read_arg(unsigned prog, int argc, char **argv, int i, struct arg *ret, struct sk_err *err)
{
    if (strncmp(argv[i], "--", 2) == 0 && argv[i][2])
        return read_option(prog, argc, argv, i, ret, err);
    if (argv[i][0] == '-' && argv[i][1])
        return unknown(prog, argv[i], err);
    *ret = (struct arg){.value = argv[i], .n_used = 1};
    return 0;
}

/* The file comes before everything else on the command line, wherever --config stands; the last --config counts. */
static int read_config_arg(struct sk_conf *c, unsigned prog, int argc, char **argv, struct sk_err *err)
{
    const char *path = NULL;
    struct arg a;
    for (int i = 1; i < argc; i += a.n_used) {
        int rc = read_arg(prog, argc, argv, i, &a, err);
        if (rc)
            return rc;
        if (a.row && strcmp(a.row->name, "config") == 0)
            path = a.value;
    }
    return path ? sk_conf_file(c, prog, path, err) : 0;
}

int sk_conf_args(struct sk_conf *c, unsigned prog, int argc, char **argv, const char **ret_rest, int max_rest,
                 int *ret_n_rest, struct sk_err *err)
{
    int n_rest = 0;
    int rc = read_config_arg(c, prog, argc, argv, err);
    if (rc)
        return rc;
    struct arg a;
    for (int i = 1; i < argc; i += a.n_used) {
        rc = read_arg(prog, argc, argv, i, &a, err);
        if (rc)
            return rc;
        if (a.row) {
            rc = set_row(c, a.row, a.value, err);
            if (rc)
                return rc;
        } else if (n_rest < max_rest) {
            ret_rest[n_rest++] = a.value;
        } else {
            return sk_err_set(err, SK_EINVAL, NULL, "unexpected argument '%s'", a.value);
        }
    }
    if (ret_n_rest)
        *ret_n_rest = n_rest;
    return 0;
}

/* ---- printing ---- */

/* Writes the words of `text` between `indent` and COLUMNS, each further line after `prefix`. The cursor is at `indent`.
 */
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
static void put_description(struct sk_buf *b, const struct row *r)
{
    struct sk_conf c;
    sk_conf_defaults(&c);
    sk_buf_str(b, r->help);
    if (r->kind == KIND_STR && !*r->str_default)
        return;
    sk_buf_str(b, " [");
    put_limits(b, r);
    if (r->kind == KIND_INT || r->kind == KIND_NUM)
        sk_buf_str(b, "; ");
    sk_buf_str(b, "default ");
    put_value(b, r, &c);
    sk_buf_char(b, ']');
}

static void print_help(FILE *f, const struct row *r)
{
    const char *arg = r->arg ? r->arg : is_bytes(r) ? "SIZE" : r->unit && strcmp(r->unit, "ms") == 0 ? "MS" : "N";
    int n = r->kind == KIND_BOOL ? fprintf(f, "  --[no-]%s", r->name) : fprintf(f, "  --%s %s", r->name, arg);
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
    for (const struct row *r = rows; r < rows + N_ROWS; r++)
        if (r->prog & prog)
            print_help(f, r);
}

static bool is_default(const struct row *r, const struct sk_conf *c)
{
    const void *p = field(c, r);
    switch (r->kind) {
    case KIND_INT:
        return *(const int64_t *)p == r->int_default;
    case KIND_NUM:
        return *(const double *)p == r->num_default;
    case KIND_BOOL:
        return *(const bool *)p == r->int_default;
    default:
        return strcmp(p, r->str_default) == 0;
    }
}

/* The file and the arguments are about what --config led to, not about where it was read. */
static bool is_written(const struct row *r, unsigned prog)
{
    return (r->prog & prog) && strcmp(r->name, "config") != 0;
}

static void print_row(const struct sk_conf *c, const struct row *r, FILE *f)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_TEXT);
    put_description(&b, r);
    if (r->kind == KIND_ENUM)
        sk_buf_fmt(&b, " (%s)", r->arg);
    fputs("\n# ", f);
    wrap(f, "# ", 2, b.p ? b.p : r->help);

    sk_buf_clear(&b);
    put_value(&b, r, c);
    const char *value = b.p ? b.p : "";
    size_t n = strlen(value);
    bool quote = n && (is_space(value[0]) || is_space(value[n - 1]) || (value[0] == '"' && value[n - 1] == '"'));
    const char *q = quote ? "\"" : "";
    fprintf(f, "%s%s =%s%s%s%s\n", is_default(r, c) && !is_given(c, r) ? "#" : "", r->name, n ? " " : "", q, value, q);
    sk_buf_done(&b);
}

void sk_conf_print(const struct sk_conf *c, unsigned prog, FILE *f)
{
    fputs("# Lines of the form `name = value`. A line that begins with # is a comment; those of the form\n"
          "# `#name = value` show defaults. Sizes take K, M, G and T, powers of 1024.\n",
          f);
    for (const struct row *r = rows; r < rows + N_ROWS; r++)
        if (is_written(r, prog))
            print_row(c, r, f);
}

int sk_conf_to_args(const struct sk_conf *c, unsigned prog, char **argv, int max)
{
    int n = 0, rc = 0;
    for (const struct row *r = rows; r < rows + N_ROWS && rc == 0; r++) {
        if (!is_written(r, prog) || is_default(r, c))
            continue;
        struct sk_buf b;
        sk_buf_init(&b, MAX_TEXT);
        sk_buf_fmt(&b, "--%s=", r->name);
        put_value(&b, r, c);
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
