/* The root of skeind: what a request can reach. Owner: loop thread. One model with one engine for now; both are arrays,
 * because a later daemon has more of each and nothing but main.c may assume otherwise. While a model is replaced by
 * another one (replace.h) there are two engines: that of the model that new requests get is the first. */
#ifndef SK_SERVER_H
#define SK_SERVER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/dir/dir.h"
#include "comm/dir/vocab.h"
#include "server/http/cors.h"
#include "server/http/http.h"
#include "server/http/listen.h"
#include "server/http/tls.h"
#include "server/job/job.h"
#include "server/metrics/metrics.h"
#include "server/text/tmpl.h"
#include "server/text/token.h"

enum {
    SK_SERVER_MAX_MODELS = 1,
    SK_SERVER_MAX_ENGINES = 2,
    SK_SERVER_MAX_LISTENERS = 16,
    SK_SERVER_MAX_TEMPLATE_BYTES = 1 << 20,
    SK_MODEL_MAX_ALIASES = 8
};

struct sk_model {
    bool loaded;                /* everything below `n_alias` is set; before that, nothing */
    bool opened;                /* `dir` is */
    char name[SK_CONF_STR_MAX]; /* "id" in the API; "" until loaded unless --model-name says it */
    char aliases[SK_MODEL_MAX_ALIASES][SK_CONF_STR_MAX]; /* other names it answers to */
    uint32_t n_alias;
    struct sk_dir dir;
    struct sk_vocab *vocab;
    struct sk_token *token;
    struct sk_tmpl *tmpl;       /* dir.chat_template, or --chat-template */
    struct sk_tmpl *tools_tmpl; /* dir.tools_template; NULL = tmpl serves requests with tools too */
    uint32_t
        max_len; /* prompt + answer of one sequence; what the engine said once it is ready, before that the model's */
    struct sk_engine *engine; /* borrowed from sk_server.engines */
    uint32_t n_user;          /* requests that hold it: it stays while there are any */
};

struct sk_listener {
    struct sk_server *server;
    struct sk_http *http; /* NULL = closed */
    struct sk_listen listen;
    bool admin;     /* serves the /admin routes */
    bool is_stored; /* the service manager keeps the socket: it outlives us */
};

struct sk_server {
    struct uv_loop_s *loop;
    const struct sk_conf *conf;
    struct sk_http_limits limits;
    struct sk_cors cors;
    struct sk_tls *tls; /* NULL = no HTTPS */
    struct sk_listener listeners[SK_SERVER_MAX_LISTENERS];
    uint32_t n_listener;
    void (*on_closed)(void *arg); /* all listeners are */
    void *on_closed_arg;
    struct sk_metrics *metrics;
    struct sk_tenants *tenants;
    struct sk_engine *engines[SK_SERVER_MAX_ENGINES];
    uint32_t n_engine;
    struct sk_model *models[SK_SERVER_MAX_MODELS]; /* of sk_server_model_new */
    uint32_t n_model;
    void *api;       /* what server/api keeps (keys, streams); made by sk_api_open */
    bool draining;   /* stopping: new requests are 503 */
    int64_t started; /* unix seconds */
};

/* Makes what needs no open socket: metrics, tenants, origins, certificate, limits. `s` is zeroed; `conf` is borrowed.
 * -SK_ENOMEM and the errors of cors.h and tls.h. */
int sk_server_open(struct sk_server *s, struct uv_loop_s *loop, const struct sk_conf *conf, struct sk_err *err);
void sk_server_done(struct sk_server *s); /* after the listeners, the engines and the API */
/* Each listener's library runs once: after a batch of replies and wakes made outside of a request's handler. */
void sk_server_run_http(struct sk_server *s);
size_t sk_server_active(const struct sk_server *s); /* exchanges that are not over, of all listeners */

struct sk_model *sk_server_model_new(void);    /* NULL = out of memory */
void sk_server_model_free(struct sk_model *m); /* unloads it; nobody holds it. NULL: nothing happens */
/* NULL = unknown. An empty or NULL name is the first model. */
struct sk_model *sk_server_model(struct sk_server *s, const char *name);
/* New requests get this one from now on, and the metrics its name; its engine becomes the first. */
void sk_server_serve(struct sk_server *s, struct sk_model *m);
/* Opens the engine directory's tokenizer and templates. Errors are those of what is opened; sk_server_unload cleans up
 * after them too. */
int sk_server_load(struct sk_server *s, struct sk_model *m, const char *path, struct sk_err *err);
/* The templates' handles close with the loop's next turns. */
void sk_server_unload(struct sk_model *m);

#endif
