/* API keys: who may call. Only SHA-256 digests are kept. */
#ifndef SK_AUTH_H
#define SK_AUTH_H
#include <stddef.h>
#include "comm/base/err.h"

struct sk_auth; /* the keys; immutable after open */

/* Reads a file of one key a line: `NAME sha256:HEX` (64 hex digits) or the bare key. Empty lines and lines that begin
 * with # are passed over. -SK_ENOENT, -SK_EIO, -SK_ETOOBIG, -SK_ENOMEM; -SK_EINVAL for a malformed line or a file
 * without a key. The message names file and line, never a key. */
int sk_auth_open(const char *path, struct sk_auth **ret, struct sk_err *err);
/* The same over text; `path` is only for messages. */
int sk_auth_parse(const char *path, const char *text, size_t n, struct sk_auth **ret, struct sk_err *err);
void sk_auth_free(struct sk_auth *a); /* NULL is allowed */

/* Checks the value of an Authorization header (NULL = absent): `Bearer KEY`. The time does not depend on which key it
 * is, nor on how much of one matches. 0 or -SK_EAUTH; *ret_name is the key's name ("" = bare) and lives as long as `a`.
 */
int sk_auth_check(const struct sk_auth *a, const char *authorization, const char **ret_name, struct sk_err *err);

#endif
