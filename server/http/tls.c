#include "server/http/tls.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include "comm/base/buf.h"
#include "comm/base/mem.h"

enum { MAX_PEM_BYTES = 1 << 20 };

/* Key exchanges with forward secrecy only, in TLS 1.2 and 1.3. */
const char sk_tls_priorities[] = "PFS:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

struct sk_tls_pair {
    int refs; /* of the sk_tls and of each connection */
    gnutls_certificate_credentials_t cred;
    struct sk_buf cert, key; /* PEM */
};

struct sk_tls {
    struct sk_tls_pair *pair;
};

static int bad_file(struct sk_err *err, const char *what, const char *path, int rc)
{
    return sk_err_set(err, rc == GNUTLS_E_MEMORY_ERROR ? SK_ENOMEM : SK_EINVAL, NULL, "%s: no %s in PEM format: %s",
                      path, what, gnutls_strerror(rc));
}

static gnutls_datum_t datum(const struct sk_buf *b)
{
    return (gnutls_datum_t){.data = (unsigned char *)b->p, .size = (unsigned)b->n};
}

/* Each file by itself, so that an error names the right one. */
static int check_cert(const struct sk_buf *pem, const char *path, struct sk_err *err)
{
    gnutls_x509_crt_t *list = NULL;
    unsigned n = 0;
    gnutls_datum_t d = datum(pem);
    int rc = gnutls_x509_crt_list_import2(&list, &n, &d, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0)
        return bad_file(err, "certificate", path, rc);
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(list[i]);
    gnutls_free(list);
    return 0;
}

static int check_key(const struct sk_buf *pem, const char *path, struct sk_err *err)
{
    gnutls_x509_privkey_t key;
    gnutls_datum_t d = datum(pem);
    int rc = gnutls_x509_privkey_init(&key);
    if (rc < 0)
        return bad_file(err, "private key", path, rc);
    rc = gnutls_x509_privkey_import2(key, &d, GNUTLS_X509_FMT_PEM, NULL, 0);
    gnutls_x509_privkey_deinit(key);
    return rc < 0 ? bad_file(err, "private key", path, rc) : 0;
}

static int make_cred(struct sk_tls_pair *p, const char *cert, const char *key, struct sk_err *err)
{
    gnutls_datum_t c = datum(&p->cert), k = datum(&p->key);
    int rc = gnutls_certificate_allocate_credentials(&p->cred);
    if (rc < 0)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s: %s", cert, gnutls_strerror(rc));
    rc = gnutls_certificate_set_x509_key_mem2(p->cred, &c, &k, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (rc == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
        return sk_err_set(err, SK_EINVAL, NULL, "the private key in %s is not that of the certificate in %s", key,
                          cert);
    return rc < 0 ? sk_err_set(err, SK_EINVAL, NULL, "%s and %s: %s", cert, key, gnutls_strerror(rc)) : 0;
}

static int read_pair(const char *cert, const char *key, struct sk_tls_pair **ret, struct sk_err *err)
{
    struct sk_tls_pair *p = sk_calloc(1, sizeof *p);
    if (!p)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    p->refs = 1;
    sk_buf_init(&p->cert, MAX_PEM_BYTES);
    sk_buf_init(&p->key, MAX_PEM_BYTES);
    int rc = sk_buf_file(&p->cert, cert, err);
    if (rc == 0)
        rc = check_cert(&p->cert, cert, err);
    if (rc == 0)
        rc = sk_buf_file(&p->key, key, err);
    if (rc == 0)
        rc = check_key(&p->key, key, err);
    if (rc == 0)
        rc = make_cred(p, cert, key, err);
    if (rc == 0)
        *ret = p;
    else
        sk_tls_release(p);
    return rc;
}

int sk_tls_open(const char *cert, const char *key, struct sk_tls **ret, struct sk_err *err)
{
    struct sk_tls *t = sk_calloc(1, sizeof *t);
    if (!t)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    int rc = read_pair(cert, key, &t->pair, err);
    if (rc == 0)
        *ret = t;
    else
        sk_free(t);
    return rc;
}

int sk_tls_reload(struct sk_tls *t, const char *cert, const char *key, struct sk_err *err)
{
    struct sk_tls_pair *p;
    int rc = read_pair(cert, key, &p, err);
    if (rc != 0)
        return rc;
    sk_tls_release(t->pair);
    t->pair = p;
    return 0;
}

void sk_tls_close(struct sk_tls *t)
{
    if (!t)
        return;
    sk_tls_release(t->pair);
    sk_free(t);
}

const char *sk_tls_cert_pem(const struct sk_tls *t)
{
    return t->pair->cert.p;
}

const char *sk_tls_key_pem(const struct sk_tls *t)
{
    return t->pair->key.p;
}

struct sk_tls_pair *sk_tls_use(struct sk_tls *t, struct gnutls_session_int *session)
{
    if (gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, t->pair->cred) < 0)
        return NULL;
    t->pair->refs++;
    return t->pair;
}

void sk_tls_release(struct sk_tls_pair *p)
{
    if (!p || --p->refs > 0)
        return;
    if (p->cred)
        gnutls_certificate_free_credentials(p->cred);
    if (p->key.p)
        gnutls_memset(p->key.p, 0, p->key.cap);
    sk_buf_done(&p->key);
    sk_buf_done(&p->cert);
    sk_free(p);
}

ssize_t sk_tls_send(struct gnutls_session_int *session, const void *p, size_t n)
{
    ssize_t rc = gnutls_record_send(session, p, n);
    return rc < 0 ? -1 : rc;
}
