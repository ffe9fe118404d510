/* What the parser accepts prints as text that it accepts again, as the same value and the same text. */
#include <string.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/base/utf8.h"

#define MAX_BYTES (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool equal_str(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool equal(const struct cJSON *a, const struct cJSON *b)
{
    int64_t i;
    double x = sk_json_num(a), y = sk_json_num(b);
    if (sk_json_type(a) != sk_json_type(b) || sk_json_len(a) != sk_json_len(b))
        return false;
    if (!(x == y || (x != x && y != y)) || sk_json_is_true(a) != sk_json_is_true(b))
        return false;
    if (sk_json_is_int(a, &i) != sk_json_is_int(b, &i) || !equal_str(sk_json_str(a), sk_json_str(b)))
        return false;
    const struct cJSON *ca = sk_json_first(a), *cb = sk_json_first(b);
    for (; ca && cb; ca = sk_json_next(ca), cb = sk_json_next(cb)) {
        const char *key = sk_json_key(ca);
        if (!equal_str(key, sk_json_key(cb)) || !equal(ca, cb))
            return false;
        sk_assert(!key || sk_json_get(a, key));
    }
    return !ca && !cb;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cJSON *v = NULL, *again = NULL;
    struct sk_err err = {0};
    struct sk_buf b, b2;
    int rc = sk_json_parse((const char *)data, n, MAX_BYTES, &v, &err);
    if (rc) {
        sk_assert(rc != -SK_ENOMEM); /* cJSON refused what the strict check let pass */
        sk_assert(err.code == -rc && err.msg[0] && sk_utf8_valid(err.msg, strlen(err.msg)));
        return 0;
    }
    sk_assert(sk_utf8_valid((const char *)data, n));
    sk_buf_init(&b, 8 * MAX_BYTES);
    sk_buf_init(&b2, 8 * MAX_BYTES);
    sk_assert(sk_json_print(&b, v) == 0);
    sk_assert(sk_json_parse(b.p, b.n, b.n, &again, NULL) == 0);
    sk_assert(equal(v, again));
    sk_assert(sk_json_print(&b2, again) == 0);
    sk_assert(b.n == b2.n && memcmp(b.p, b2.p, b.n) == 0);
    sk_buf_done(&b);
    sk_buf_done(&b2);
    sk_json_free(v);
    sk_json_free(again);
    return 0;
}
