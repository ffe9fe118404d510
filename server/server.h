/* The root of skeind: what a request can reach. Owner: loop thread. One model with one engine for now; both are arrays,
 * because a later daemon has more of each and nothing but main.c may assume otherwise. */
#ifndef SK_SERVER_H
#define SK_SERVER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/dir/dir.h"
#include "comm/dir/vocab.h"
#include "server/http/http.h"
#include "server/job/job.h"
#include "server/text/tmpl.h"
#include "server/text/token.h"

enum { SK_SERVER_MAX_MODELS = 1, SK_SERVER_MAX_ENGINES = 1, SK_MODEL_MAX_ALIASES = 8 };

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
};

struct sk_server {
    struct uv_loop_s *loop;
    const struct sk_conf *conf;
    struct sk_http *http;
    struct sk_engine *engines[SK_SERVER_MAX_ENGINES];
    uint32_t n_engine;
    struct sk_model models[SK_SERVER_MAX_MODELS];
    uint32_t n_model;
    void *api;       /* what server/api keeps (keys, streams); made by sk_api_open */
    bool draining;   /* stopping: new requests are 503 */
    int64_t started; /* unix seconds */
};

/* NULL = unknown. An empty or NULL name is the first model. */
struct sk_model *sk_server_model(struct sk_server *s, const char *name);
/* Opens the engine directory's tokenizer and templates. Errors are those of what is opened; sk_server_unload cleans up
 * after them too. */
int sk_server_load(struct sk_server *s, struct sk_model *m, const char *path, struct sk_err *err);
/* The templates' handles close with the loop's next turns. */
void sk_server_unload(struct sk_model *m);

#endif
