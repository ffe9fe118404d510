/* A generation request, the same for completions and chat once its prompts are tokens: a job for each prompt, n choices
 * of each, a detokenizer for each choice, and an answer that is collected or streamed.
 *
 *   PREPARING --sk_gen_start--> RUNNING --last choice finished--> OVER      any --failure, client gone--> OVER
 *
 * Owner: loop thread. It belongs to its HTTP request and is freed with it. */
#ifndef SK_GEN_H
#define SK_GEN_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/mem.h"
#include "server/api/params.h"
#include "server/api/reply.h"
#include "server/job/job.h"

struct cJSON;
struct sk_http_req;
struct sk_model;
struct sk_server;
struct sk_tmpl;

enum sk_gen_state { SK_GEN_PREPARING, SK_GEN_RUNNING, SK_GEN_OVER };

struct sk_gen_prompt {
    struct sk_gen *gen;
    int32_t *ids; /* malloced (sk_free), owned by the gen once in its table */
    size_t n_id;
    const char *echo; /* echo: the text that comes before the answer */
    size_t n_echo;
    bool echo_hides_first; /* the first token was added to the text (BOS) and is no part of `echo` */
    struct sk_job *job;    /* set by sk_gen_start */
    uint32_t n_cached;     /* tokens that came from the prefix cache */
};

struct sk_gen {
    struct sk_gen *prev, *next; /* in sk_api.gens */
    struct sk_server *server;
    struct sk_model *model;
    struct sk_http_req *http;
    enum sk_api_kind kind;
    enum sk_gen_state state;
    struct sk_arena arena;
    struct sk_api_rules rules;
    struct sk_api_params params;
    struct sk_reply reply;
    struct sk_tmpl *tmpl;          /* chat: the template that renders */
    int render;                    /* id of the rendering that goes on, -1 = none */
    struct sk_gen_prompt *prompts; /* of the arena */
    uint32_t n_prompt;
    struct sk_gen_choice *choices; /* n_prompt * params.n; choice k of prompt i is number i * n + k */
    uint32_t n_choice, n_open;     /* n_open: not finished */
    uint64_t n_answer;             /* tokens of all answers so far */
    uint64_t start_us;
};

/* Takes the fields besides prompt and messages, and ties the gen to `r` (sk_http_set): from here on a failure is
 * answered with sk_gen_fail. */
int sk_gen_new(struct sk_server *s, struct sk_model *m, struct sk_http_req *r, enum sk_api_kind kind,
               const struct cJSON *body, struct sk_gen **ret, struct sk_err *err);
/* A table of n prompts for the caller to fill; -SK_ENOMEM. */
int sk_gen_prompts(struct sk_gen *g, uint32_t n, struct sk_err *err);
/* Encodes a text as prompt i. Texts that cannot fit the context are refused before. -SK_ECTX, -SK_ENOMEM. */
int sk_gen_encode(struct sk_gen *g, uint32_t i, const char *text, size_t n, struct sk_err *err);
/* All prompts are tokens: truncates them if that was asked for, checks lengths, submits the jobs and begins the stream.
 * -SK_ECTX, -SK_EQUEUE, -SK_EUNAVAIL ...: then sk_gen_fail ends what has begun. */
int sk_gen_start(struct sk_gen *g, struct sk_err *err);
/* Ends the request with an error: a status before the answer began, an event in a stream after. Does nothing if it is
 * over. */
void sk_gen_fail(struct sk_gen *g, const struct sk_err *err);
/* The API shuts down: ends the request if need be and forgets engine and server. */
void sk_gen_detach(struct sk_gen *g);

#endif
