#include "server/listeners.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "comm/base/log.h"
#include "server/api/route.h"
#include "server/options.h"

/* Names in the manager's store: this, then the address as the options write it, its colons (which the protocol does not
 * allow) as semicolons. */
static const char KEPT[] = "addr=";

struct passed { /* what the manager gave us */
    struct sk_notify_socket list[2 * SK_SERVER_MAX_LISTENERS];
    uint32_t n;
};

static void kept_name(const char *addr, char *ret, size_t n)
{
    snprintf(ret, n, "%s%.*s", KEPT, (int)(n - sizeof KEPT), addr);
    for (char *p = ret; *p; p++) {
        if (*p == ':')
            *p = ';';
    }
}

static bool is_kept(const struct sk_notify_socket *p)
{
    return strncmp(p->name, KEPT, strlen(KEPT)) == 0;
}

/* --- opening --- */

/* Serves `listen`, which is taken over. */
static int serve(struct sk_server *s, const struct sk_listen *listen, bool admin, struct sk_err *err)
{
    if (s->n_listener == SK_SERVER_MAX_LISTENERS) {
        close(listen->fd);
        return sk_err_set(err, SK_ERANGE, "listen", "more than %d addresses to listen on", SK_SERVER_MAX_LISTENERS);
    }
    struct sk_listener *l = &s->listeners[s->n_listener];
    *l = (struct sk_listener){.server = s, .listen = *listen, .admin = admin};
    l->listen.fd = -1; /* sk_http_open takes it over */
    const struct sk_http_conf hc = {.fd = listen->fd,
                                    .is_unix = listen->is_unix,
                                    .limits = &s->limits,
                                    .tls = listen->is_unix ? NULL : s->tls,
                                    .cors = &s->cors,
                                    .arg = l,
                                    .on_request = sk_api_request,
                                    .on_answer = sk_api_answered};
    int rc = sk_http_open(s->loop, &hc, &l->http, err);
    s->n_listener += rc == 0;
    return rc;
}

/* Socket units. */
static int serve_passed(struct sk_server *s, const struct passed *p, struct sk_err *err)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < p->n; i++) {
        struct sk_listen l;
        if (is_kept(&p->list[i]))
            continue;
        rc = sk_listen_take(p->list[i].fd, &l, err);
        if (rc == 0)
            rc = serve(s, &l, strcmp(p->list[i].name, "admin") == 0, err);
    }
    return rc;
}

/* From the manager's store if it is there, and leaves `p` then. */
static bool take_kept(struct passed *p, const char *name, struct sk_listen *ret)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (strcmp(p->list[i].name, name) == 0 && sk_listen_take(p->list[i].fd, ret, NULL) == 0) {
            p->list[i] = p->list[--p->n];
            return true;
        }
    }
    return false;
}

/* NULL = no listener has the address. */
static const struct sk_listener *served(const struct sk_server *s, const char *addr)
{
    for (uint32_t i = 0; i < s->n_listener; i++) {
        if (strcmp(s->listeners[i].listen.name, addr) == 0)
            return &s->listeners[i];
    }
    return NULL;
}

static int serve_address(struct sk_server *s, const struct sk_notify *n, struct passed *p, const char *addr, bool admin,
                         struct sk_err *err)
{
    char name[SK_NOTIFY_MAX_NAME];
    struct sk_listen l;
    unsigned mode = 0;
    const struct sk_listener *there = served(s, addr); /* by a socket unit, or --listen */
    if (there && admin && !there->admin)
        return sk_err_set(err, SK_EINVAL, "admin-listen",
                          "admin-listen: %s is served without the /admin routes already", addr);
    if (there)
        return 0;
    kept_name(addr, name, sizeof name);
    bool is_stored = take_kept(p, name, &l);
    int rc = is_stored ? 0 : sk_options_mode(s->conf, &mode, err);
    if (rc == 0 && !is_stored)
        rc = sk_listen_open(addr, mode, &l, err);
    if (rc != 0)
        return rc;
    is_stored = is_stored || sk_notify_store(n, l.fd, name);
    rc = serve(s, &l, admin, err);
    if (rc == 0)
        s->listeners[s->n_listener - 1].is_stored = is_stored;
    return rc;
}

static int serve_option(struct sk_server *s, const struct sk_notify *n, struct passed *p, bool admin,
                        struct sk_err *err)
{
    const char *at = admin ? s->conf->admin_listen : s->conf->listen;
    char addr[SK_CONF_STR_MAX];
    int rc = 0;
    while (rc == 0 && sk_options_next(&at, addr, sizeof addr))
        rc = serve_address(s, n, p, addr, admin, err);
    return rc;
}

/* Addresses that the options no longer name. */
static void give_back(const struct sk_notify *n, const struct passed *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (is_kept(&p->list[i])) {
            sk_notify_unstore(n, p->list[i].name);
            close(p->list[i].fd);
        }
    }
}

int sk_listeners_open(struct sk_server *s, const struct sk_notify *n, struct sk_err *err)
{
    struct passed p;
    p.n = sk_notify_sockets(p.list, sizeof p.list / sizeof p.list[0]);
    int rc = serve_passed(s, &p, err);
    bool in_place = false;
    for (uint32_t i = 0; i < s->n_listener; i++)
        in_place |= !s->listeners[i].admin;
    if (rc == 0 && (!in_place || sk_conf_given(s->conf, "listen")))
        rc = serve_option(s, n, &p, false, err);
    if (rc == 0)
        rc = serve_option(s, n, &p, true, err);
    if (rc == 0 && s->n_listener == 0)
        rc = sk_err_set(err, SK_EMISSING, "listen", "there is no address to listen on: --listen names none");
    if (rc == 0)
        give_back(n, &p);
    return rc;
}

/* --- what people are told --- */

static bool is_loopback(const char *name)
{
    return strncmp(name, "127.", 4) == 0 || strncmp(name, "[::1]:", 6) == 0 || strncmp(name, "[::ffff:127.", 12) == 0;
}

void sk_listeners_announce(const struct sk_server *s)
{
    const bool keys = s->conf->api_key_file[0];
    for (uint32_t i = 0; i < s->n_listener; i++) {
        const struct sk_listener *l = &s->listeners[i];
        printf("skeind: listening on %s%s%s\n",
               l->listen.is_unix ? ""
               : s->tls          ? "https://"
                                 : "http://",
               l->listen.name, l->admin ? " (admin)" : "");
        if (l->listen.is_unix || is_loopback(l->listen.name))
            continue;
        if (!keys)
            sk_log(SK_LOG_WARN, "%s: whoever reaches this address may use it; --api-key-file would ask for a key",
                   l->listen.name);
        else if (!s->tls)
            sk_log(SK_LOG_WARN, "%s: API keys cross the network unencrypted; --tls-cert would change that",
                   l->listen.name);
    }
    fflush(stdout);
}

/* --- ending --- */

static void on_http_closed(void *arg)
{
    struct sk_listener *l = arg;
    struct sk_server *s = l->server;
    l->http = NULL;
    for (uint32_t i = 0; i < s->n_listener; i++) {
        if (s->listeners[i].http)
            return;
    }
    s->on_closed(s->on_closed_arg);
}

void sk_listeners_quiesce(struct sk_server *s, bool all)
{
    for (uint32_t i = 0; i < s->n_listener; i++) {
        struct sk_listener *l = &s->listeners[i];
        if (l->admin && !all)
            continue;
        sk_http_quiesce(l->http);
        sk_listen_close(&l->listen, !l->is_stored);
    }
}

void sk_listeners_close(struct sk_server *s, void (*done)(void *arg), void *arg)
{
    sk_listeners_quiesce(s, true);
    s->on_closed = done;
    s->on_closed_arg = arg;
    for (uint32_t i = 0; i < s->n_listener; i++)
        sk_http_close(s->listeners[i].http, on_http_closed, &s->listeners[i]);
}
