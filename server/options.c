#include "server/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "comm/base/log.h"
#include "server/api/auth.h"
#include "server/http/cors.h"
#include "server/http/http.h"
#include "server/http/listen.h"
#include "server/http/tls.h"
#include "server/server.h"

enum { MAX_HEADER_BYTES = 8192, MAX_STREAM_QUEUE_BYTES = 1 << 20 };

/* --- reading --- */

/* LoadCredential= of a directory puts the unit's own name in front. */
static void find_credential(struct sk_conf *c)
{
    static const char *const names[] = {"api-keys", "skein_api-keys"};
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    char path[SK_CONF_STR_MAX];
    for (size_t i = 0; dir && !c->api_key_file[0] && i < sizeof names / sizeof names[0]; i++) {
        int n = snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (n < (int)sizeof path && access(path, F_OK) == 0)
            memcpy(c->api_key_file, path, (size_t)n + 1);
    }
}

int sk_options_read(struct sk_conf *ret, int argc, char **argv, struct sk_err *err)
{
    sk_conf_defaults(ret);
    int rc = sk_conf_args(ret, SK_PROG_DAEMON, argc, argv, NULL, 0, NULL, err);
    if (rc == 0)
        find_credential(ret);
    return rc;
}

bool sk_options_next(const char **at, char *ret, size_t n)
{
    const char *s = *at + strspn(*at, ", ");
    size_t len = strcspn(s, ",");
    *at = s + len;
    while (len > 0 && s[len - 1] == ' ')
        len--;
    snprintf(ret, n, "%.*s", (int)len, s);
    return len > 0;
}

int sk_options_mode(const struct sk_conf *c, unsigned *ret, struct sk_err *err)
{
    char *end;
    unsigned long mode = strtoul(c->socket_mode, &end, 8);
    if (!isdigit((unsigned char)c->socket_mode[0]) || *end)
        return sk_err_set(err, SK_EINVAL, "socket-mode", "socket-mode must be an octal number such as 0660, not '%s'",
                          c->socket_mode);
    if (mode > 0777)
        return sk_err_set(err, SK_ERANGE, "socket-mode", "socket-mode must be from 0 to 0777, not '%s'",
                          c->socket_mode);
    *ret = (unsigned)mode;
    return 0;
}

void sk_options_log(const struct sk_conf *c)
{
    sk_log_level_set(sk_log_level_of(c->log_level));
    sk_log_json_set(strcmp(c->log_format, "json") == 0);
}

void sk_options_limits(const struct sk_conf *c, struct sk_http_limits *ret)
{
    *ret = (struct sk_http_limits){.max_body = (size_t)c->max_body,
                                   .max_header = MAX_HEADER_BYTES,
                                   .max_connections = (int)c->max_connections,
                                   .request_timeout_ms = (int)c->request_timeout,
                                   .keepalive_ms = (int)c->keepalive,
                                   .max_stream_queue = MAX_STREAM_QUEUE_BYTES};
}

/* --- checking --- */

static bool takes_any_port(const char *addr)
{
    const char *colon = strrchr(addr, ':');
    return strncmp(addr, "unix:", 5) != 0 && colon && strtol(colon + 1, NULL, 10) == 0;
}

/* How often the list has the address. */
static int n_times(const char *list, const char *addr)
{
    char other[SK_CONF_STR_MAX];
    int n = 0;
    while (sk_options_next(&list, other, sizeof other))
        n += strcmp(addr, other) == 0;
    return n;
}

/* `taken`: another option's list. */
static int check_addresses(const char *list, const char *option, const char *taken, struct sk_err *err)
{
    char addr[SK_CONF_STR_MAX];
    struct sk_err why;
    const char *at = list;
    int rc = 0, n = 0;
    while (rc == 0 && sk_options_next(&at, addr, sizeof addr)) {
        rc = sk_listen_check(addr, &why);
        if (rc != 0)
            return sk_err_set(err, -rc, option, "%s: %s", option, why.msg);
        if (++n > SK_SERVER_MAX_LISTENERS)
            return sk_err_set(err, SK_ERANGE, option, "%s: at most %d addresses can be named", option,
                              SK_SERVER_MAX_LISTENERS);
        if (!takes_any_port(addr) && n_times(list, addr) + n_times(taken, addr) > 1)
            return sk_err_set(err, SK_EINVAL, option, "%s: %s is named twice", option, addr);
    }
    return rc;
}

static int check_listen(const struct sk_conf *c, struct sk_err *err)
{
    return check_addresses(c->listen, "listen", "", err);
}

/* The default of --listen is not used where socket units are. */
static int check_admin_listen(const struct sk_conf *c, struct sk_err *err)
{
    return check_addresses(c->admin_listen, "admin-listen", sk_conf_given(c, "listen") ? c->listen : "", err);
}

static int check_mode(const struct sk_conf *c, struct sk_err *err)
{
    unsigned mode;
    return sk_options_mode(c, &mode, err);
}

static int check_tls(const struct sk_conf *c, struct sk_err *err)
{
    struct sk_tls *tls;
    if (!c->tls_cert[0] && !c->tls_key[0])
        return 0;
    if (!c->tls_cert[0] || !c->tls_key[0])
        return sk_err_set(err, SK_EMISSING, c->tls_cert[0] ? "tls-key" : "tls-cert",
                          "tls-cert and tls-key are needed together");
    int rc = sk_tls_open(c->tls_cert, c->tls_key, &tls, err);
    if (rc == 0)
        sk_tls_close(tls);
    return rc;
}

static int check_origins(const struct sk_conf *c, struct sk_err *err)
{
    struct sk_cors cors;
    int rc = sk_cors_parse(c->cors_origins, &cors, err);
    if (rc == 0)
        sk_cors_done(&cors);
    return rc;
}

static int check_keys(const struct sk_conf *c, struct sk_err *err)
{
    struct sk_auth *auth;
    int rc = sk_auth_open(c->api_key_file, c->trust_users, &auth, err);
    if (rc == 0)
        sk_auth_free(auth);
    return rc;
}

static int check_template(const struct sk_conf *c, struct sk_err *err)
{
    struct sk_buf text;
    sk_buf_init(&text, SK_SERVER_MAX_TEMPLATE_BYTES);
    int rc = c->chat_template[0] ? sk_buf_file(&text, c->chat_template, err) : 0;
    sk_buf_done(&text);
    return rc;
}

static int check_model(const struct sk_conf *c, struct sk_err *err)
{
    struct stat st;
    if (!c->model[0])
        return sk_err_set(err, SK_EMISSING, "model",
                          "--model is missing: a GGUF file, a Hugging Face directory or an engine directory");
    if (stat(c->model, &st) != 0 || access(c->model, R_OK) != 0)
        return sk_err_errno(err, SK_ENOENT, "model", "cannot read the model %s", c->model);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return sk_err_set(err, SK_EINVAL, "model", "the model %s is neither a file nor a directory", c->model);
    return 0;
}

/* One that is not there is made when it is needed. */
static int check_dir(const char *path, const char *option, struct sk_err *err)
{
    struct stat st;
    if (!path[0] || (stat(path, &st) != 0 && errno == ENOENT))
        return 0;
    if (stat(path, &st) != 0)
        return sk_err_errno(err, SK_EIO, option, "%s: %s", option, path);
    if (!S_ISDIR(st.st_mode))
        return sk_err_set(err, SK_EINVAL, option, "%s: %s is not a directory", option, path);
    return 0;
}

static int check_cache_dir(const struct sk_conf *c, struct sk_err *err)
{
    return check_dir(c->cache_dir, "cache-dir", err);
}

static int check_flight_dir(const struct sk_conf *c, struct sk_err *err)
{
    return check_dir(c->flight_dir, "flight-dir", err);
}

static int check_record(const struct sk_conf *c, struct sk_err *err)
{
    char folder[SK_CONF_STR_MAX];
    struct stat st;
    const char *slash = strrchr(c->engine_record, '/');
    if (!slash)
        return 0;
    snprintf(folder, sizeof folder, "%.*s/", (int)(slash - c->engine_record), c->engine_record);
    if (stat(folder, &st) != 0)
        return sk_err_errno(err, SK_ENOENT, "engine-record", "engine-record: the folder of %s", c->engine_record);
    return 0;
}

int sk_options_check(const struct sk_conf *c, void (*complain)(void *arg, const struct sk_err *why), void *arg)
{
    static int (*const checks[])(const struct sk_conf *c, struct sk_err *err) = {
        check_listen,   check_admin_listen, check_mode,      check_tls,        check_origins, check_keys,
        check_template, check_model,        check_cache_dir, check_flight_dir, check_record};
    struct sk_err err;
    int n = 0;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i](c, &err) != 0) {
            complain(arg, &err);
            n++;
        }
    }
    return n;
}
