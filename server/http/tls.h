/* A certificate and its key for HTTPS (GnuTLS). The only file besides tls.c that knows of GnuTLS. */
#ifndef SK_TLS_H
#define SK_TLS_H
#include <stddef.h>
#include <sys/types.h>
#include "comm/base/err.h"

struct sk_tls;

/* Reads a PEM chain and key and checks that they belong together. -SK_ENOENT, -SK_EIO, -SK_EINVAL, -SK_ENOMEM; the
 * message names the file. */
int sk_tls_open(const char *cert, const char *key, struct sk_tls **ret, struct sk_err *err);
/* Reads them anew: connections that come from now on get the new ones; on an error the old ones stay. */
int sk_tls_reload(struct sk_tls *t, const char *cert, const char *key, struct sk_err *err);
void sk_tls_close(struct sk_tls *t); /* after the listeners that use it; NULL is allowed */

/* For server/http: what a daemon starts with, and what a connection uses. */
extern const char sk_tls_priorities[];
const char *sk_tls_cert_pem(const struct sk_tls *t);
const char *sk_tls_key_pem(const struct sk_tls *t);
struct gnutls_session_int; /* gnutls_session_t points to one */
struct sk_tls_pair;        /* a certificate and key, counted */
/* Before the handshake: the session uses the current pair, which lives at least until its release. */
struct sk_tls_pair *sk_tls_use(struct sk_tls *t, struct gnutls_session_int *session);
void sk_tls_release(struct sk_tls_pair *p); /* NULL is allowed */
/* As send(2) with MSG_DONTWAIT; -1 on any failure. */
ssize_t sk_tls_send(struct gnutls_session_int *session, const void *p, size_t n);

#endif
