/* What the files of server/api share. */
#ifndef SK_API_H
#define SK_API_H
#include "comm/base/err.h"
#include "server/server.h"

struct cJSON;
struct sk_gen;

struct sk_api {
    struct sk_auth *auth; /* never NULL */
    struct sk_gen *gens;  /* requests that generate, newest first */
    struct sk_buf event;  /* scratch: the text of one event */
};

struct sk_call { /* a request that may come in, on its way to a handler; whoever answers later keeps a copy */
    struct sk_server *server;
    const struct sk_listener *listener;
    struct sk_http_req *req;
    struct sk_tenant *tenant; /* whose it is, NULL on open routes; lives as long as the server */
    unsigned scopes;          /* keyfile.h */
    bool explain;             /* a generation request that is explained instead of run (POST /explain) */
};

/* The handlers of route.c's table. Each answers its request, at once or later; `c` is borrowed for the call. */
void sk_api_completions(const struct sk_call *c);
void sk_api_chat(const struct sk_call *c);
void sk_api_tokenize(const struct sk_call *c);
void sk_api_detokenize(const struct sk_call *c);
void sk_api_explain(const struct sk_call *c);
void sk_api_models(const struct sk_call *c);
void sk_api_model(const struct sk_call *c); /* /v1/models/{id} */
void sk_api_health(const struct sk_call *c);
void sk_api_ready(const struct sk_call *c);
void sk_api_live(const struct sk_call *c);
void sk_api_version(const struct sk_call *c);
void sk_api_metrics(const struct sk_call *c);
void sk_api_stats(const struct sk_call *c);
void sk_api_admin_state(const struct sk_call *c);
void sk_api_admin_ranks(const struct sk_call *c);
void sk_api_admin_flight(const struct sk_call *c);
void sk_api_admin_log(const struct sk_call *c);
void sk_api_admin_replicas(const struct sk_call *c);
void sk_api_admin_replica(const struct sk_call *c); /* /admin/replicas/... */

/* The body as a JSON object (sk_json_free) and the model that it names. -SK_EJSON, -SK_EUTF8, -SK_ETYPE; -SK_EINVAL for
 * a U+FDD0 in a string (it marks the spellings of control tokens in prompts); -SK_EMODEL; -SK_EUNAVAIL while the model
 * is not loaded, or when the server stops. */
int sk_api_body(struct sk_server *s, struct sk_http_req *r, struct cJSON **ret_body, struct sk_model **ret_model,
                struct sk_err *err);

uint32_t sk_api_n_connection(const struct sk_server *s); /* open ones, of all listeners */

/* Why the model's engine cannot answer now; 0 = it can. -SK_EUNAVAIL. */
int sk_api_engine_ready(const struct sk_model *m, struct sk_err *err);

/* POST /explain is a generation request (sk_call.explain) that goes the way of all others until its prompts are tokens,
 * with their texts kept (sk_gen_prompt.text); there, sk_gen_start hands it over to explain_start, which answers, at
 * once or later, and then calls sk_gen_explained; or it fails as sk_gen_start does. It does not generate: nothing is
 * logged, counted or charged for it. */
int sk_explain_start(struct sk_gen *g, struct sk_err *err);
void sk_explain_stop(struct sk_gen *g); /* the client is gone, or it failed: sk_gen_explained must not come any more */

#endif
