/* What the files of server/api share. */
#ifndef SK_API_H
#define SK_API_H
#include "comm/base/err.h"
#include "server/server.h"

struct cJSON;

struct sk_api {
    struct sk_auth *auth; /* NULL = everybody may call */
    struct sk_gen *gens;  /* requests that generate, newest first */
    struct sk_buf event;  /* scratch: the text of one event */
};

/* The handlers of route.c's table. Each answers its request, at once or later. */
void sk_api_completions(struct sk_server *s, struct sk_http_req *r);
void sk_api_chat(struct sk_server *s, struct sk_http_req *r);
void sk_api_tokenize(struct sk_server *s, struct sk_http_req *r);
void sk_api_detokenize(struct sk_server *s, struct sk_http_req *r);
void sk_api_models(struct sk_server *s, struct sk_http_req *r);
void sk_api_model(struct sk_server *s, struct sk_http_req *r); /* /v1/models/{id} */
void sk_api_health(struct sk_server *s, struct sk_http_req *r);
void sk_api_ready(struct sk_server *s, struct sk_http_req *r);
void sk_api_version(struct sk_server *s, struct sk_http_req *r);
void sk_api_not_there(struct sk_server *s, struct sk_http_req *r); /* 501 */

/* The body as a JSON object (sk_json_free) and the model that it names. -SK_EJSON, -SK_EUTF8, -SK_ETYPE; -SK_EINVAL for
 * a U+FDD0 in a string (it marks the spellings of control tokens in prompts); -SK_EMODEL; -SK_EUNAVAIL while the model
 * is not loaded, or when the server stops. */
int sk_api_body(struct sk_server *s, struct sk_http_req *r, struct cJSON **ret_body, struct sk_model **ret_model,
                struct sk_err *err);

/* Why the model's engine cannot answer now; 0 = it can. -SK_EUNAVAIL. */
int sk_api_engine_ready(const struct sk_model *m, struct sk_err *err);

#endif
