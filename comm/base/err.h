/* Error codes and error texts. A function returns 0 or -SK_Exxx (rows of conf/errors.def); where a person will read
 * the reason, the caller passes a struct sk_err that says what, where and what limit. Library code never logs. */
#ifndef SK_ERR_H
#define SK_ERR_H
#include <stdint.h>

enum sk_errcode {
    SK_OK = 0,
#define SK_ERR(name, http, type, code, retry, text) SK_E##name,
#include "conf/errors.def"
#undef SK_ERR
    SK_E_COUNT
};

struct sk_err {
    int code;          /* SK_Exxx, 0 = none */
    uint32_t retry_ms; /* when the same request may succeed; 0 = not known. Set it after sk_err_set, which clears it */
    char param[64];    /* request field, option or tensor name; "" = none */
    char msg[448];     /* one sentence, UTF-8, NUL-terminated, cut if longer */
};

/* Fills `err` (may be NULL; an error already in it is replaced) and returns -code. `param` may be NULL. */
int sk_err_set(struct sk_err *err, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* As sk_err_set, then appends ": " and strerror(errno as it was on entry). */
int sk_err_errno(struct sk_err *err, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Columns of conf/errors.def; `rc` may be given negative or positive. Never NULL. */
const char *sk_err_name(int rc); /* "CTX" */
const char *sk_err_text(int rc);
const char *sk_err_type(int rc);
const char *sk_err_code(int rc);
int sk_err_http(int rc);
int sk_err_retry(int rc);

/* Our own mistake: prints file, line and expression to stderr and aborts; always compiled in. */
#define sk_assert(x) ((x) ? (void)0 : sk_assert_fail(__FILE__, __LINE__, #x))
void sk_assert_fail(const char *file, int line, const char *expr) __attribute__((noreturn, cold));

#endif
