#include "comm/base/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"

/* ---- the strict check: cJSON accepts far more than JSON (01, +1, raw control characters, trailing text), so that it
 * only ever sees what has passed here ---- */

struct scan {
    const char *s;
    size_t n, i; /* i: the byte looked at; on failure, the offending one */
    size_t n_values, max_values;
    struct sk_buf long_ints; /* struct long_int: integers that a double may round */
    const char *why;
};

struct long_int {
    size_t value; /* which value of the text it is, from 1 */
    size_t at, n; /* its characters */
};

static int fail(struct scan *x, int code, const char *why)
{
    x->why = why;
    return -code;
}

/* The byte at i, or -1 at the end. */
static int peek(const struct scan *x)
{
    return x->i < x->n ? (unsigned char)x->s[x->i] : -1;
}

static void skip_space(struct scan *x)
{
    for (int c = peek(x); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = peek(x))
        x->i++;
}

static bool skip_digits(struct scan *x)
{
    size_t from = x->i;
    for (int c = peek(x); c >= '0' && c <= '9'; c = peek(x))
        x->i++;
    return x->i > from;
}

static int scan_number(struct scan *x)
{
    size_t from = x->i;
    if (peek(x) == '-')
        x->i++;
    if (peek(x) == '0')
        x->i++;
    else if (!skip_digits(x))
        return fail(x, SK_EJSON, "expected a digit");
    bool is_int = peek(x) != '.' && (peek(x) | 0x20) != 'e';
    if (peek(x) == '.') {
        x->i++;
        if (!skip_digits(x))
            return fail(x, SK_EJSON, "expected a digit after the decimal point");
    }
    if (peek(x) == 'e' || peek(x) == 'E') {
        x->i++;
        if (peek(x) == '+' || peek(x) == '-')
            x->i++;
        if (!skip_digits(x))
            return fail(x, SK_EJSON, "expected a digit in the exponent");
    }
    if (x->i - from > SK_JSON_MAX_NUMBER_BYTES) {
        x->i = from;
        return fail(x, SK_EJSON, "number of more than 63 characters");
    }
    const struct long_int l = {.value = x->n_values, .at = from, .n = x->i - from};
    if (l.n <= DBL_DIG || !is_int)
        return 0;
    x->why = "out of memory";
    return sk_buf_add(&x->long_ints, &l, sizeof l);
}

/* Four hex digits at i; -1 if they are not. Moves past them. */
static int scan_hex4(struct scan *x)
{
    int v = 0;
    for (int k = 0; k < 4; k++, x->i++) {
        int c = peek(x);
        if (c >= '0' && c <= '9')
            v = v * 16 + c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            v = v * 16 + (c | 0x20) - 'a' + 10;
        else
            return -1;
    }
    return v;
}

/* At the backslash. */
static int scan_escape(struct scan *x)
{
    size_t from = x->i++;
    int c = peek(x);
    if (c < 0 || !strchr("\"\\/bfnrtu", c) || c == '\0')
        return fail(x, SK_EJSON, "unknown escape");
    x->i++;
    if (c != 'u')
        return 0;
    int unit = scan_hex4(x);
    if (unit < 0)
        return fail(x, SK_EJSON, "expected four hex digits after \\u");
    int low = 0xDC00;
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        low = -1;
        if (x->n - x->i >= 6 && x->s[x->i] == '\\' && x->s[x->i + 1] == 'u') {
            x->i += 2;
            low = scan_hex4(x);
        }
    }
    if (unit == 0 || low < 0xDC00 || low > 0xDFFF || (unit >= 0xDC00 && unit <= 0xDFFF)) {
        x->i = from;
        return fail(x, SK_EJSON, unit ? "lone surrogate" : "\\u0000 is not accepted");
    }
    return 0;
}

/* At the opening quote. */
static int scan_string(struct scan *x)
{
    for (x->i++;;) {
        int c = peek(x);
        if (c < 0)
            return fail(x, SK_EJSON, "unterminated string");
        if (c == '"') {
            x->i++;
            return 0;
        }
        if (c < 0x20)
            return fail(x, SK_EJSON, "control character in a string");
        if (c == '\\') {
            int rc = scan_escape(x);
            if (rc)
                return rc;
        } else if (c < 0x80) {
            x->i++;
        } else {
            uint32_t cp;
            int k = sk_utf8_next(x->s + x->i, x->n - x->i, &cp);
            if (k < 0)
                return fail(x, SK_EUTF8, "invalid UTF-8");
            x->i += (size_t)k;
        }
    }
}

static int scan_word(struct scan *x, const char *word)
{
    size_t n = strlen(word);
    if (x->n - x->i < n || memcmp(x->s + x->i, word, n) != 0)
        return fail(x, SK_EJSON, "expected a value");
    x->i += n;
    return 0;
}

static int scan_value(struct scan *x, int depth);

/* At the opening bracket, which ends with `close`; objects have keys. */
static int scan_members(struct scan *x, int close, int depth)
{
    if (depth == SK_JSON_MAX_DEPTH)
        return fail(x, SK_EJSON, "nested too deeply");
    x->i++;
    skip_space(x);
    if (peek(x) == close) {
        x->i++;
        return 0;
    }
    for (;;) {
        int rc;
        if (close == '}') {
            skip_space(x);
            if (peek(x) != '"')
                return fail(x, SK_EJSON, "expected a key in double quotes");
            rc = scan_string(x);
            if (rc)
                return rc;
            skip_space(x);
            if (peek(x) != ':')
                return fail(x, SK_EJSON, "expected ':'");
            x->i++;
        }
        rc = scan_value(x, depth + 1);
        if (rc)
            return rc;
        skip_space(x);
        int c = peek(x);
        if (c != ',' && c != close)
            return fail(x, SK_EJSON, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        x->i++;
        if (c == close)
            return 0;
    }
}

static int scan_value(struct scan *x, int depth)
{
    skip_space(x);
    if (x->n_values++ == x->max_values)
        return fail(x, SK_ETOOBIG, "too many values");
    switch (peek(x)) {
    case '{':
        return scan_members(x, '}', depth);
    case '[':
        return scan_members(x, ']', depth);
    case '"':
        return scan_string(x);
    case 't':
        return scan_word(x, "true");
    case 'f':
        return scan_word(x, "false");
    case 'n':
        return scan_word(x, "null");
    case '-':
    case '0' ... '9':
        return scan_number(x);
    case -1:
        return fail(x, SK_EJSON, "expected a value but the text ends");
    default:
        return fail(x, SK_EJSON, "expected a value");
    }
}

static int check(struct scan *x, struct sk_err *err)
{
    int rc = scan_value(x, 0);
    if (rc == 0) {
        skip_space(x);
        if (x->i == x->n)
            return 0;
        rc = fail(x, SK_EJSON, "text after the end of the value");
    }
    size_t line = 1, column = 1;
    for (size_t i = 0; i < x->i; i++) {
        column = x->s[i] == '\n' ? 1 : column + 1;
        line += x->s[i] == '\n';
    }
    if (rc == -SK_ETOOBIG)
        return sk_err_set(err, -rc, NULL,
                          "%zu values of JSON are the limit, and there are more at line %zu, column %zu", x->max_values,
                          line, column);
    return sk_err_set(err, -rc, NULL, "%s at line %zu, column %zu (byte %zu)", x->why, line, column, x->i);
}

/* ---- parsing ---- */

static void install_hooks(void)
{
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = sk_malloc, .free_fn = sk_free});
}

struct keeper {
    const char *s;
    size_t n_values;
    const struct long_int *next, *end;
};

/* cJSON keeps a number as a double only; `valuestring`, which its numbers leave empty and it frees with any value,
 * takes the characters of a long integer. Values come in the text's order, the order in which they were counted. */
static int keep_long_ints(struct cJSON *v, struct keeper *k)
{
    if (++k->n_values == k->next->value) {
        v->valuestring = sk_malloc(k->next->n + 1);
        if (!v->valuestring)
            return -SK_ENOMEM;
        memcpy(v->valuestring, k->s + k->next->at, k->next->n);
        v->valuestring[k->next->n] = '\0';
        k->next++;
    }
    int rc = 0;
    for (struct cJSON *e = v->child; rc == 0 && e && k->next < k->end; e = e->next)
        rc = keep_long_ints(e, k);
    return rc;
}

static int parse(const char *s, size_t n, size_t max, size_t max_values, struct cJSON **ret_v, struct sk_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_hooks);
    if (n > max)
        return sk_err_set(err, SK_ETOOBIG, NULL, "%zu bytes of JSON are more than the limit of %zu", n, max);
    cJSON *v = NULL;
    struct scan x = {.s = s, .n = n, .max_values = max_values};
    sk_buf_init(&x.long_ints, SIZE_MAX);
    int rc = check(&x, err);
    if (rc)
        goto out;
    v = cJSON_ParseWithLengthOpts(s, n, NULL, 0); /* the syntax is known to be right */
    struct keeper k = {.s = s, .next = (const void *)x.long_ints.p};
    k.end = k.next ? k.next + x.long_ints.n / sizeof *k.next : NULL; /* none: there is no array to point into */
    if (!v || (k.next < k.end && keep_long_ints(v, &k) != 0))
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory while parsing %zu bytes of JSON", n);
out:
    sk_buf_done(&x.long_ints);
    if (rc == 0)
        *ret_v = v;
    else
        cJSON_Delete(v);
    return rc;
}

int sk_json_parse(const char *s, size_t n, size_t max, struct cJSON **ret_v, struct sk_err *err)
{
    return parse(s, n, max, SK_JSON_MAX_VALUES, ret_v, err);
}

int sk_json_load(const char *path, size_t max, struct cJSON **ret_v, struct sk_err *err)
{
    struct sk_buf b;
    struct sk_err why = {0};
    sk_buf_init(&b, max);
    int rc = sk_buf_file(&b, path, err);
    if (rc)
        goto out;
    rc = parse(b.p, b.n, max, SK_JSON_MAX_FILE_VALUES, ret_v, &why);
    if (rc)
        sk_err_set(err, -rc, NULL, "%s: %s", path, why.msg);
out:
    sk_buf_done(&b);
    return rc;
}

void sk_json_free(struct cJSON *v)
{
    cJSON_Delete(v);
}

/* ---- reading ---- */

enum sk_json_type sk_json_type(const struct cJSON *v)
{
    switch (v ? v->type & 0xFF : cJSON_NULL) {
    case cJSON_False:
    case cJSON_True:
        return SK_JSON_BOOL;
    case cJSON_Number:
        return SK_JSON_NUMBER;
    case cJSON_String:
        return SK_JSON_STRING;
    case cJSON_Array:
        return SK_JSON_ARRAY;
    case cJSON_Object:
        return SK_JSON_OBJECT;
    default:
        return SK_JSON_NULL;
    }
}

const char *sk_json_typename(const struct cJSON *v)
{
    static const char *const names[] = {"null", "boolean", "number", "string", "array", "object"};
    return names[sk_json_type(v)];
}

const struct cJSON *sk_json_get(const struct cJSON *obj, const char *key)
{
    return cJSON_IsObject(obj) ? cJSON_GetObjectItemCaseSensitive(obj, key) : NULL;
}

const struct cJSON *sk_json_at(const struct cJSON *v, const char *dotted)
{
    for (const char *key = dotted; v;) {
        size_t n = strcspn(key, ".");
        const cJSON *child = cJSON_IsObject(v) ? v->child : NULL;
        while (child && (strncmp(child->string, key, n) != 0 || child->string[n] != '\0'))
            child = child->next;
        v = child;
        if (key[n] == '\0')
            break;
        key += n + 1;
    }
    return v;
}

size_t sk_json_len(const struct cJSON *v)
{
    size_t n = 0;
    for (v = sk_json_first(v); v; v = v->next)
        n++;
    return n;
}

const struct cJSON *sk_json_first(const struct cJSON *v)
{
    return v ? v->child : NULL;
}

const struct cJSON *sk_json_next(const struct cJSON *v)
{
    return v->next;
}

const char *sk_json_key(const struct cJSON *v)
{
    return v->string;
}

const char *sk_json_str(const struct cJSON *v)
{
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

double sk_json_num(const struct cJSON *v)
{
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}

bool sk_json_is_true(const struct cJSON *v)
{
    return cJSON_IsTrue(v);
}

bool sk_json_is_int(const struct cJSON *v, int64_t *ret)
{
    double x = sk_json_num(v);
    if (cJSON_IsNumber(v) && v->valuestring) {
        errno = 0;
        long long i = strtoll(v->valuestring, NULL, 10);
        if (errno != 0)
            return false;
        *ret = i;
        return true;
    }
    if (!(fabs(x) < 0x1p53) || x != trunc(x))
        return false;
    *ret = (int64_t)x;
    return true;
}

/* *ret_v: the member, NULL where it is absent or null. */
static int get_typed(const struct cJSON *obj, const char *key, enum sk_json_type type, const struct cJSON **ret_v,
                     struct sk_err *err)
{
    static const char *const wanted[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    const struct cJSON *v = sk_json_get(obj, key);
    enum sk_json_type have = sk_json_type(v);
    if (have != SK_JSON_NULL && have != type)
        return sk_err_set(err, SK_ETYPE, key, "%s must be %s, not %s", key, wanted[type], wanted[have]);
    *ret_v = have == SK_JSON_NULL ? NULL : v;
    return 0;
}

int sk_json_get_int(const struct cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *ret,
                    struct sk_err *err)
{
    const struct cJSON *v;
    int rc = get_typed(obj, key, SK_JSON_NUMBER, &v, err);
    if (rc || !v)
        return rc;
    double x = v->valuedouble;
    int64_t i;
    if (x != trunc(x)) /* infinities are their own trunc: they are out of range */
        return sk_err_set(err, SK_ETYPE, key, "%s must be an integer, not %g", key, x);
    if (!sk_json_is_int(v, &i) || i < min || i > max)
        return sk_err_set(err, SK_ERANGE, key, "%s must be from %lld to %lld, not %.17g", key, (long long)min,
                          (long long)max, x);
    *ret = i;
    return 0;
}

int sk_json_get_num(const struct cJSON *obj, const char *key, double min, double max, double *ret, struct sk_err *err)
{
    const struct cJSON *v;
    int rc = get_typed(obj, key, SK_JSON_NUMBER, &v, err);
    if (rc || !v)
        return rc;
    double x = v->valuedouble;
    if (!isfinite(x) || !(x >= min && x <= max))
        return sk_err_set(err, SK_ERANGE, key, "%s must be from %.9g to %.9g, not %.9g", key, min, max, x);
    *ret = x;
    return 0;
}

int sk_json_get_bool(const struct cJSON *obj, const char *key, bool *ret, struct sk_err *err)
{
    const struct cJSON *v;
    int rc = get_typed(obj, key, SK_JSON_BOOL, &v, err);
    if (rc == 0 && v)
        *ret = sk_json_is_true(v);
    return rc;
}

int sk_json_get_str(const struct cJSON *obj, const char *key, const char **ret, struct sk_err *err)
{
    const struct cJSON *v;
    int rc = get_typed(obj, key, SK_JSON_STRING, &v, err);
    if (rc == 0 && v)
        *ret = v->valuestring;
    return rc;
}

/* ---- writing ---- */

/* What stands for a byte (or, with U+FFFD, for an ill-formed sequence) that cannot stand for itself; NULL: it can. */
static const char *escape_of(uint32_t cp, bool ill_formed, char tmp[8])
{
    switch (cp) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    }
    if (ill_formed)
        return "\xEF\xBF\xBD";
    if (cp >= 0x20)
        return NULL;
    snprintf(tmp, 8, "\\u%04x", (unsigned)cp);
    return tmp;
}

int sk_json_quote(struct sk_buf *b, const char *s, size_t n)
{
    size_t done = 0;
    sk_buf_char(b, '"');
    for (size_t i = 0; i < n;) {
        char tmp[8];
        uint32_t cp;
        int k = sk_utf8_next(s + i, n - i, &cp);
        size_t len = (size_t)abs(k);
        const char *esc = escape_of(cp, k < 0, tmp);
        if (esc) {
            sk_buf_add(b, s + done, i - done);
            sk_buf_str(b, esc);
            done = i + len;
        }
        i += len;
    }
    sk_buf_add(b, s + done, n - done);
    return sk_buf_char(b, '"');
}

/* FLT_DIG and DBL_DIG digits always survive reading, so that no shorter text than theirs (less trailing zeros, which %g
 * drops) can be equal; subnormal numbers have fewer digits and start from 1. */
static int put_shortest(struct sk_buf *b, double x, int digits, bool is_float)
{
    char text[40];
    if (!isfinite(x))
        return sk_buf_str(b, x > 0 ? "9999.0" : "-9999.0");
    for (bool equal = false; !equal; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        equal = is_float ? strtof(text, NULL) == (float)x : strtod(text, NULL) == x;
    }
    return sk_buf_str(b, text);
}

int sk_json_put_num(struct sk_buf *b, double x)
{
    return put_shortest(b, x, fpclassify(x) == FP_SUBNORMAL ? 1 : DBL_DIG, false);
}

int sk_json_put_float(struct sk_buf *b, float x)
{
    return put_shortest(b, (double)x, fpclassify(x) == FP_SUBNORMAL ? 1 : FLT_DIG, true);
}

static void print_members(struct sk_buf *b, const struct cJSON *v, const char brackets[2])
{
    sk_buf_char(b, brackets[0]);
    for (const struct cJSON *m = v->child; m && !b->failed; m = m->next) {
        if (m != v->child)
            sk_buf_char(b, ',');
        if (m->string) {
            sk_json_quote(b, m->string, strlen(m->string));
            sk_buf_char(b, ':');
        }
        sk_json_print(b, m);
    }
    sk_buf_char(b, brackets[1]);
}

int sk_json_print(struct sk_buf *b, const struct cJSON *v)
{
    switch (sk_json_type(v)) {
    case SK_JSON_NULL:
        return sk_buf_str(b, "null");
    case SK_JSON_BOOL:
        return sk_buf_str(b, sk_json_is_true(v) ? "true" : "false");
    case SK_JSON_NUMBER:
        if (v->valuestring)
            return sk_buf_str(b, v->valuestring);
        if (isinf(v->valuedouble)) /* a file may say 1e999 */
            return sk_buf_str(b, v->valuedouble > 0 ? "1e999" : "-1e999");
        return sk_json_put_num(b, v->valuedouble);
    case SK_JSON_STRING:
        return sk_json_quote(b, v->valuestring, strlen(v->valuestring));
    case SK_JSON_ARRAY:
        print_members(b, v, "[]");
        break;
    case SK_JSON_OBJECT:
        print_members(b, v, "{}");
        break;
    }
    return b->failed;
}
