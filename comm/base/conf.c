#include "comm/base/conf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/conf_row.h"

#define MAX_NAME 64   /* bytes of an option's name, NUL included */
#define MAX_TEXT 4096 /* bytes of a description of limits */

/* ---- one value ---- */

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
    const struct sk_conf_row *nearest = NULL;
    size_t n = strlen(name), least = n / 3 + 2;
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows && n < MAX_NAME; r++) {
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

int sk_conf_bytes(const char *s, int64_t *ret)
{
    static const char units[] = "kmgt";
    int64_t whole = 0, scale = 1;
    int64_t part = 0, parts = 1; /* the decimals as a fraction of exact integers, so that .5 and .125 are exact */
    if (*s < '0' || *s > '9')
        return -SK_EINVAL;
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *s - '0', &whole))
            return -SK_EINVAL;
    bool fraction = *s == '.';
    if (fraction)
        for (s++; *s >= '0' && *s <= '9'; s++)
            if (parts < INT64_C(1000000000000000)) {
                part = part * 10 + (*s - '0');
                parts *= 10;
            }

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
        __builtin_add_overflow(whole, (int64_t)((double)part / (double)parts * (double)scale), &whole))
        return -SK_EINVAL;
    *ret = whole;
    return 0;
}

void sk_conf_defaults(struct sk_conf *c)
{
    memset(c, 0, sizeof *c);
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        sk_conf_row_reset(r, c);
}

static int bad_value(const struct sk_conf_row *r, int code, const char *value, struct sk_err *err)
{
    struct sk_buf want;
    sk_buf_init(&want, MAX_TEXT);
    if (r->kind == SK_CONF_BOOL)
        sk_buf_str(&want, "true or false");
    else if (r->kind == SK_CONF_ENUM)
        sk_buf_fmt(&want, "one of %s", r->arg);
    else if (code == SK_ETYPE)
        sk_buf_str(&want, r->kind == SK_CONF_NUM    ? "a number "
                          : sk_conf_row_is_bytes(r) ? "a size such as 512M or 8G, "
                                                    : "an integer ");
    sk_conf_row_put_limits(&want, r);
    sk_err_set(err, code, r->name, "%s must be %s, not '%s'", r->name, want.p ? want.p : "different", value);
    sk_buf_done(&want);
    return -code;
}

static int parse_int(const struct sk_conf_row *r, const char *s, int64_t *ret)
{
    if (sk_conf_row_is_bytes(r))
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

static int set_int(const struct sk_conf_row *r, const char *s, int64_t *ret)
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

static int set_num(const struct sk_conf_row *r, const char *s, double *ret)
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

static int set_str(const struct sk_conf_row *r, const char *s, char *field_p, struct sk_err *err)
{
    size_t n = strlen(s);
    if (n >= SK_CONF_STR_MAX)
        return sk_err_set(err, SK_ERANGE, r->name, "%s is longer than %d bytes", r->name, SK_CONF_STR_MAX - 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return sk_err_set(err, SK_EINVAL, r->name, "%s has a control character at byte %zu", r->name, i);
    memcpy(field_p, s, n);
    memset(field_p + n, 0, SK_CONF_STR_MAX - n); /* equal configurations are equal bytes */
    return 0;
}

static int set_row(struct sk_conf *c, const struct sk_conf_row *r, const char *value, struct sk_err *err)
{
    void *p = sk_conf_row_field(r, c);
    int rc = 0;
    switch (r->kind) {
    case SK_CONF_INT:
        rc = set_int(r, value, p);
        break;
    case SK_CONF_NUM:
        rc = set_num(r, value, p);
        break;
    case SK_CONF_BOOL:
        rc = truth_of(value) < 0 ? -SK_ETYPE : 0;
        if (rc == 0)
            *(bool *)p = truth_of(value);
        break;
    case SK_CONF_ENUM:
        rc = is_choice(r->arg, value) ? 0 : -SK_EINVAL;
        if (rc == 0)
            strncpy(p, value, SK_CONF_ENUM_MAX); /* a choice fits, and the rest becomes zero */
        break;
    case SK_CONF_STR:
        rc = set_str(r, value, p, err);
        if (rc)
            return rc;
        break;
    }
    if (rc)
        return bad_value(r, -rc, value, err);
    sk_conf_row_give(r, c, true);
    return 0;
}

int sk_conf_set(struct sk_conf *c, unsigned prog, const char *name, const char *value, struct sk_err *err)
{
    const struct sk_conf_row *r = sk_conf_row_find(prog, name);
    return r ? set_row(c, r, value, err) : unknown(prog, name, err);
}

bool sk_conf_given(const struct sk_conf *c, const char *name)
{
    const struct sk_conf_row *r = sk_conf_row_find(~0u, name);
    sk_assert(r);
    return sk_conf_row_is_given(r, c);
}

/* ---- the command line ---- */

struct arg {
    const struct sk_conf_row *row; /* NULL: not an option but a word */
    const char *value;             /* the option's, or the word */
    int n_used;                    /* elements of argv */
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

    struct arg a = {.row = sk_conf_row_find(prog, name), .n_used = 1};
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    if (!a.row && !eq && strncmp(name, "no-", 3) == 0) {
        a.row = sk_conf_row_find(prog, name + 3);
        a.value = "false";
        if (a.row && a.row->kind != SK_CONF_BOOL)
            a.row = NULL;
    } else if (eq) {
        a.value = eq + 1;
    } else if (a.row && a.row->kind == SK_CONF_BOOL && (!next || truth_of(next) < 0)) {
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

/* The files come before everything else on the command line, wherever --config stands; the last --config counts. */
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
    if (!path)
        return 0;
    int rc = sk_conf_file(c, prog, path, err);
    return rc ? rc : sk_conf_dropins(c, prog, path, err);
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

/* ---- a running program ---- */

void sk_conf_reload(struct sk_conf *to, const struct sk_conf *from, unsigned prog, struct sk_buf *ret_names)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++) {
        void *field = sk_conf_row_field(r, to);
        const void *wanted = sk_conf_row_field(r, from);
        if (!sk_conf_row_is_written(r, prog))
            continue;
        if (r->prog & SK_OPT_RELOAD) {
            memcpy(field, wanted, sk_conf_row_size(r));
            sk_conf_row_give(r, to, sk_conf_row_is_given(r, from));
        } else if (memcmp(field, wanted, sk_conf_row_size(r)) != 0) {
            sk_buf_fmt(ret_names, "%s%s", ret_names->n ? ", " : "", r->name);
        }
    }
}
