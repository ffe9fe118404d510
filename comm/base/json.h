/* JSON: cJSON behind typed getters that name the path of what is wrong. The only user of cJSON.h.
 * Parsing is strict RFC 8259: whole input, valid UTF-8, no lone surrogates, no NUL (neither raw nor \u0000), nothing
 * after the value. A key that occurs twice is accepted, and the first one is what every getter finds.
 * One thread parses at a time (cJSON keeps its last error in a global); reading is free for all. */
#ifndef SK_JSON_H
#define SK_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

#define SK_JSON_MAX_DEPTH        64        /* arrays and objects inside one another */
#define SK_JSON_MAX_VALUES       (1 << 20) /* values of one text: a value of 2 bytes costs 80 bytes of memory */
#define SK_JSON_MAX_FILE_VALUES  (1 << 22) /* likewise of a file: a tokenizer has more than a request can have */
#define SK_JSON_MAX_NUMBER_BYTES 63        /* characters of one number */

struct cJSON; /* a value; read-only outside json.c */

/* Parses s[0..n). On success *ret_v is owned by the caller (sk_json_free). -SK_EJSON with the byte offset, line and
 * column in the message, -SK_ETOOBIG (bytes or values), -SK_EUTF8, -SK_ENOMEM. */
int sk_json_parse(const char *s, size_t n, size_t max, struct cJSON **ret_v, struct sk_err *err);
/* Reads a whole file. -SK_ENOENT, -SK_EIO and those of sk_json_parse; the message names the file. */
int sk_json_load(const char *path, size_t max, struct cJSON **ret_v, struct sk_err *err);
void sk_json_free(struct cJSON *v); /* NULL is allowed */

enum sk_json_type { SK_JSON_NULL, SK_JSON_BOOL, SK_JSON_NUMBER, SK_JSON_STRING, SK_JSON_ARRAY, SK_JSON_OBJECT };
enum sk_json_type sk_json_type(const struct cJSON *v);
const char *sk_json_typename(const struct cJSON *v); /* "null" (also for NULL), "boolean", ... */

/* Case-sensitive, O(members); NULL where it is absent or `obj` is no object. */
const struct cJSON *sk_json_get(const struct cJSON *obj, const char *key);
const struct cJSON *sk_json_at(const struct cJSON *v, const char *dotted); /* "text_config.rope_scaling.factor" */
size_t sk_json_len(const struct cJSON *v);                /* members of an array or object, else 0; O(n) */
const struct cJSON *sk_json_first(const struct cJSON *v); /* child iteration: first, then next */
const struct cJSON *sk_json_next(const struct cJSON *v);
const char *sk_json_key(const struct cJSON *v); /* member's key, NULL in an array */
const char *sk_json_str(const struct cJSON *v); /* NULL when not a string */
double sk_json_num(const struct cJSON *v);      /* NaN when not a number */
bool sk_json_is_true(const struct cJSON *v);
/* Any int64_t that is written as digits alone, exactly; with a point or an exponent, |x| < 2^53 only. */
bool sk_json_is_int(const struct cJSON *v, int64_t *ret);

/* Typed getters for request fields and files: an absent key or null leaves *ret untouched and returns 0; a wrong type
 * is -SK_ETYPE, out of [min, max] (or NaN/Inf) is -SK_ERANGE; err->param is the key and the message says the limits. */
int sk_json_get_int(const struct cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *ret,
                    struct sk_err *err);
int sk_json_get_num(const struct cJSON *obj, const char *key, double min, double max, double *ret, struct sk_err *err);
int sk_json_get_bool(const struct cJSON *obj, const char *key, bool *ret, struct sk_err *err);
int sk_json_get_str(const struct cJSON *obj, const char *key, const char **ret, struct sk_err *err); /* borrowed */

/* Writing: text straight into a buffer. */
int sk_json_quote(struct sk_buf *b, const char *s, size_t n); /* "..." with escapes; ill-formed UTF-8 becomes U+FFFD */
/* The shortest text that reads back equal, as a double or as a float (0.1f is 0.1). NaN, -Inf: -9999.0; Inf: 9999.0. */
int sk_json_put_num(struct sk_buf *b, double x);
int sk_json_put_float(struct sk_buf *b, float x);
int sk_json_print(struct sk_buf *b, const struct cJSON *v); /* compact; reads back equal */

#endif
