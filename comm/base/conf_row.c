#include "comm/base/conf_row.h"

#include <string.h>

#include "comm/base/json.h"

const struct sk_conf_row sk_conf_rows[] = {
#define FIRST(kind_, f, n, p, h) .kind = kind_, .name = n, .prog = p, .offset = offsetof(struct sk_conf, f), .help = h
#define SK_OPT_INT(f, n, p, def, min, max, unit_, h)                                                                   \
    {FIRST(SK_CONF_INT, f, n, p, h), .int_default = def, .int_min = min, .int_max = max, .unit = unit_},
#define SK_OPT_NUM(f, n, p, def, min, max, unit_, h)                                                                   \
    {FIRST(SK_CONF_NUM, f, n, p, h), .num_default = def, .num_min = min, .num_max = max, .unit = unit_},
#define SK_OPT_BOOL(f, n, p, def, h)          {FIRST(SK_CONF_BOOL, f, n, p, h), .int_default = def},
#define SK_OPT_STR(f, n, p, def, arg_, h)     {FIRST(SK_CONF_STR, f, n, p, h), .str_default = def, .arg = arg_},
#define SK_OPT_ENUM(f, n, p, def, choices, h) {FIRST(SK_CONF_ENUM, f, n, p, h), .str_default = def, .arg = choices},
#include "conf/options.def"
#undef FIRST
#undef SK_OPT_INT
#undef SK_OPT_NUM
#undef SK_OPT_BOOL
#undef SK_OPT_STR
#undef SK_OPT_ENUM
};
const size_t sk_conf_n_rows = sizeof sk_conf_rows / sizeof sk_conf_rows[0];

_Static_assert(sizeof sk_conf_rows / sizeof sk_conf_rows[0] <= 8 * sizeof((struct sk_conf *)0)->given,
               "sk_conf.given has a bit for each option");

const struct sk_conf_row *sk_conf_row_find(unsigned prog, const char *name)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++)
        if ((r->prog & prog) && strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

void *sk_conf_row_field(const struct sk_conf_row *r, const struct sk_conf *c)
{
    return (char *)c + r->offset;
}

size_t sk_conf_row_size(const struct sk_conf_row *r)
{
    static const size_t sizes[] = {[SK_CONF_INT] = sizeof(int64_t),
                                   [SK_CONF_NUM] = sizeof(double),
                                   [SK_CONF_BOOL] = sizeof(bool),
                                   [SK_CONF_STR] = SK_CONF_STR_MAX,
                                   [SK_CONF_ENUM] = SK_CONF_ENUM_MAX};
    return sizes[r->kind];
}

void sk_conf_row_reset(const struct sk_conf_row *r, struct sk_conf *c)
{
    void *p = sk_conf_row_field(r, c);
    switch (r->kind) {
    case SK_CONF_INT:
        *(int64_t *)p = r->int_default;
        break;
    case SK_CONF_NUM:
        *(double *)p = r->num_default;
        break;
    case SK_CONF_BOOL:
        *(bool *)p = r->int_default;
        break;
    case SK_CONF_STR:
    case SK_CONF_ENUM:
        strcpy(p, r->str_default); /* ours, and the field was zero and larger */
        break;
    }
}

bool sk_conf_row_is_default(const struct sk_conf_row *r, const struct sk_conf *c)
{
    const void *p = sk_conf_row_field(r, c);
    switch (r->kind) {
    case SK_CONF_INT:
        return *(const int64_t *)p == r->int_default;
    case SK_CONF_NUM:
        return *(const double *)p == r->num_default;
    case SK_CONF_BOOL:
        return *(const bool *)p == r->int_default;
    default:
        return strcmp(p, r->str_default) == 0;
    }
}

bool sk_conf_row_is_given(const struct sk_conf_row *r, const struct sk_conf *c)
{
    size_t i = (size_t)(r - sk_conf_rows);
    return c->given[i / 64] >> (i % 64) & 1;
}

void sk_conf_row_give(const struct sk_conf_row *r, struct sk_conf *c, bool given)
{
    size_t i = (size_t)(r - sk_conf_rows);
    uint64_t bit = UINT64_C(1) << (i % 64);
    c->given[i / 64] = given ? c->given[i / 64] | bit : c->given[i / 64] & ~bit;
}

bool sk_conf_row_is_written(const struct sk_conf_row *r, unsigned prog)
{
    return (r->prog & prog) && strcmp(r->name, "config") != 0;
}

bool sk_conf_row_is_bytes(const struct sk_conf_row *r)
{
    return r->kind == SK_CONF_INT && strcmp(r->unit, "bytes") == 0;
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

static void put_int(struct sk_buf *b, const struct sk_conf_row *r, int64_t x)
{
    if (sk_conf_row_is_bytes(r))
        put_bytes(b, x);
    else
        sk_buf_fmt(b, "%lld", (long long)x);
}

void sk_conf_row_put_value(struct sk_buf *b, const struct sk_conf_row *r, const struct sk_conf *c)
{
    const void *p = sk_conf_row_field(r, c);
    switch (r->kind) {
    case SK_CONF_INT:
        put_int(b, r, *(const int64_t *)p);
        break;
    case SK_CONF_NUM:
        sk_json_put_num(b, *(const double *)p);
        break;
    case SK_CONF_BOOL:
        sk_buf_str(b, *(const bool *)p ? "true" : "false");
        break;
    case SK_CONF_STR:
    case SK_CONF_ENUM:
        sk_buf_str(b, p);
        break;
    }
}

void sk_conf_row_put_limits(struct sk_buf *b, const struct sk_conf_row *r)
{
    if (r->kind == SK_CONF_INT) {
        sk_buf_str(b, r->int_max == INT64_MAX ? "at least " : "from ");
        put_int(b, r, r->int_min);
        if (r->int_max != INT64_MAX) {
            sk_buf_str(b, " to ");
            put_int(b, r, r->int_max);
        }
    } else if (r->kind == SK_CONF_NUM) {
        sk_buf_fmt(b, "from %g to %g", r->num_min, r->num_max);
    }
    if (r->unit && *r->unit)
        sk_buf_fmt(b, " %s", r->unit);
}

void sk_conf_row_put_description(struct sk_buf *b, const struct sk_conf_row *r, bool with_reload)
{
    struct sk_conf defaults;
    const bool reload = with_reload && (r->prog & SK_OPT_RELOAD);
    sk_buf_str(b, r->help);
    if (r->kind != SK_CONF_STR || *r->str_default) {
        sk_buf_str(b, " [");
        sk_conf_row_put_limits(b, r);
        if (r->kind == SK_CONF_INT || r->kind == SK_CONF_NUM)
            sk_buf_str(b, "; ");
        sk_buf_str(b, "default ");
        sk_conf_defaults(&defaults);
        if (r->prog & SK_OPT_FIELD)
            sk_buf_str(b, "the server's");
        else
            sk_conf_row_put_value(b, r, &defaults);
        sk_buf_str(b, reload ? "; reload]" : "]");
    } else if (reload) {
        sk_buf_str(b, " [reload]");
    }
}

const char *sk_conf_row_arg(const struct sk_conf_row *r)
{
    if (r->arg)
        return r->arg;
    if (sk_conf_row_is_bytes(r))
        return "SIZE";
    return r->unit && strcmp(r->unit, "ms") == 0 ? "MS" : "N";
}
