/* What we hold against a request's head before its body is read. libmicrohttpd 0.9.75 is lax where a proxy in front of
 * us may not be (it takes the first of two Content-Lengths, and chunked over Content-Length, and adds the continuation
 * of a line to the field's name), which is how requests are smuggled; so framing is judged here. RFC 9112,
 * sections 2.2, 3.2, 5.2, 6.1 and 6.3. Pure: no library, no state but the struct.
 */
#ifndef SK_HEAD_H
#define SK_HEAD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sk_head {
    bool http11;
    uint32_t n_host, n_length, n_coding; /* Host, Content-Length, Transfer-Encoding fields */
    bool bad_name;                       /* a field's name is no token, such as "Content-Length " */
    bool bad_value;                      /* a value has a CR in it, which others take for a line's end */
    bool folded;                         /* a field that frames the message goes on in the next line */
    bool bad_coding;                     /* a transfer coding other than chunked */
    bool bad_length;                     /* not a decimal number of at most 18 digits */
    bool encoded;                        /* Content-Encoding other than identity */
    uint64_t length;                     /* Content-Length, 0 without one */
    size_t bytes;                        /* of all fields */
};

/* `version` as on the request line, "HTTP/1.1". */
void sk_head_init(struct sk_head *h, const char *version);
/* One field; `value` may be NULL. */
void sk_head_add(struct sk_head *h, const char *name, const char *value);
/* 0 = go on, else -SK_Exxx: *ret_status is the HTTP status and *ret_why one sentence. The connection must then be
 * closed. */
int sk_head_check(const struct sk_head *h, size_t max_header, size_t max_body, int *ret_status, const char **ret_why);

#endif
