#include "server/reload.h"

#include <string.h>
#include "comm/base/log.h"
#include "server/api/route.h"
#include "server/options.h"

enum { MAX_NAMES_BYTES = 4096 };

static void complain(void *arg, const struct sk_err *why)
{
    sk_log(SK_LOG_ERROR, "the configuration stays as it was: %s", why->msg);
}

static int read_anew(struct sk_server *s, int argc, char **argv, struct sk_conf *ret)
{
    struct sk_err err;
    int rc = sk_options_read(ret, argc, argv, &err);
    if (rc == 0 && sk_options_check(ret, complain, NULL) > 0)
        return -SK_EINVAL;
    if (rc == 0)
        rc = sk_api_reload(s, ret, true, &err);
    if (rc != 0)
        complain(NULL, &err);
    return rc;
}

/* Listeners speak HTTPS or not for as long as they are open. */
static void keep_tls(const struct sk_server *s, const struct sk_conf *conf, struct sk_conf *fresh,
                     struct sk_buf *ret_names)
{
    if (!s->tls == !fresh->tls_cert[0])
        return;
    memcpy(fresh->tls_cert, conf->tls_cert, sizeof fresh->tls_cert);
    memcpy(fresh->tls_key, conf->tls_key, sizeof fresh->tls_key);
    sk_buf_str(ret_names, "tls-cert");
}

/* First what reads files once more, and so could still fail. */
static int switch_over(struct sk_server *s, struct sk_conf *conf, struct sk_conf *fresh, struct sk_buf *ret_names)
{
    struct sk_err err;
    struct sk_cors cors;
    keep_tls(s, conf, fresh, ret_names);
    int rc = sk_cors_parse(fresh->cors_origins, &cors, &err);
    if (rc != 0) {
        complain(NULL, &err);
        return rc;
    }
    if (s->tls)
        rc = sk_tls_reload(s->tls, fresh->tls_cert, fresh->tls_key, &err);
    if (rc == 0)
        rc = sk_api_reload(s, fresh, false, &err);
    if (rc != 0) {
        complain(NULL, &err);
        sk_cors_done(&cors);
        return rc;
    }
    sk_cors_done(&s->cors);
    s->cors = cors;
    sk_conf_reload(conf, fresh, SK_PROG_DAEMON, ret_names);
    sk_options_limits(conf, &s->limits);
    sk_options_log(conf);
    for (uint32_t i = 0; i < s->n_engine; i++)
        sk_engine_reloaded(s->engines[i]);
    return 0;
}

bool sk_reload(struct sk_server *s, struct sk_conf *conf, int argc, char **argv)
{
    struct sk_conf fresh;
    struct sk_buf names;
    sk_buf_init(&names, MAX_NAMES_BYTES);
    int rc = read_anew(s, argc, argv, &fresh);
    if (rc == 0)
        rc = switch_over(s, conf, &fresh, &names);
    if (rc == 0)
        sk_log(SK_LOG_INFO, "the configuration was read anew");
    if (rc == 0 && names.n > 0)
        sk_log(SK_LOG_WARN, "changed, but in force only after a restart: %s", names.p);
    sk_metric_add(s->metrics, SK_METRIC_RELOADS, 1, rc == 0 ? "ok" : "refused", NULL);
    sk_buf_done(&names);
    return rc == 0;
}
