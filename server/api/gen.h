/* A generation request, the same for completions and chat: its fields, its prompts as tokens, a job for each prompt, n
 * choices of each (answer.h), and an answer that is collected or streamed.
 *
 *   PREPARING --sk_gen_start--> RUNNING --last choice finished--> OVER      any --failure, client gone--> OVER
 *
 * It exists from the first look at the request on, so that every request comes to exactly one end (account.h): whatever
 * goes wrong goes through sk_gen_fail. Owner: loop thread. It belongs to its HTTP request and is freed with it. */
#ifndef SK_GEN_H
#define SK_GEN_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/params.h"
#include "server/api/reply.h"
#include "server/job/job.h"

struct cJSON;
struct sk_answer;
struct sk_tmpl;

enum sk_gen_state { SK_GEN_PREPARING, SK_GEN_RUNNING, SK_GEN_OVER };
enum { SK_GEN_MAX_LOG_BYTES = 4096 }; /* of a prompt or answer with --log-prompts */

struct sk_gen_prompt {
    struct sk_gen *gen;
    int32_t *ids; /* malloced (sk_free), owned by the gen once in its table */
    size_t n_id;
    const char *text; /* echo, explain: what `ids` were encoded from; NULL = they came as ids, or were cut */
    size_t n_text;
    bool echo_hides_first; /* the first token was added to the text (BOS) and is no part of it */
    struct sk_job *job;    /* set by sk_gen_start */
    uint32_t n_cached;     /* tokens that came from the prefix cache */
    size_t n_cut;          /* tokens that truncation took away */
};

struct sk_gen { /* what each token looks at comes first: with thousands of streams, memory is what a token waits for */
    struct sk_call call; /* its server is NULL once detached */
    enum sk_api_kind kind;
    enum sk_gen_state state;
    bool entered;  /* sk_tenant_leave is due at the end */
    bool log_text; /* --log-prompts as it was at the start */
    uint32_t n_prompt;
    struct sk_gen_prompt *prompts; /* of the arena */
    struct sk_answer *answers;     /* n_prompt * params.best_of; choice k of prompt i is number i * best_of + k */
    uint32_t n_answers, n_open;    /* n_open: not finished */
    uint64_t n_answer;             /* tokens of all answers so far */
    uint64_t start_us, first_us;   /* first_us: when its first token came; 0 = none */
    const char *opening;           /* stream: what sk_reply_open says, the same in every event */
    size_t n_opening;
    struct sk_reply reply;
    struct sk_api_params params;
    struct sk_gen *prev, *next; /* in sk_api.gens */
    struct sk_model *model;
    struct sk_arena arena;
    struct sk_api_rules rules;
    struct sk_tmpl *tmpl;  /* chat: the template that renders */
    int render;            /* id of the rendering that goes on, -1 = none */
    uint64_t n_prompt_tok; /* of the prompts submitted */
};

/* Runs a request from the body on: reads it, finds the model, asks the tenant's limits, takes the fields besides prompt
 * and messages; then `take` sees to the prompts and calls sk_gen_start, at once or later. Answers every failure. With
 * sk_call.explain, `kind` is what the body is: a chat if it has messages. */
typedef int sk_gen_take(struct sk_gen *g, const struct cJSON *body, struct sk_err *err);
void sk_gen_run(const struct sk_call *c, enum sk_api_kind kind, sk_gen_take *take);
sk_gen_take sk_gen_take_completion, sk_gen_take_chat; /* completions.c, chat.c */

/* A table of n prompts for `take` to fill; -SK_ENOMEM. */
int sk_gen_prompts(struct sk_gen *g, uint32_t n, struct sk_err *err);
/* Encodes a text as prompt i. Texts that cannot fit the context are refused before. -SK_ECTX, -SK_ENOMEM. */
int sk_gen_encode(struct sk_gen *g, uint32_t i, const char *text, size_t n, struct sk_err *err);
/* All prompts are tokens: truncates them if that was asked for, checks lengths, submits the jobs and begins the stream.
 * -SK_ECTX, -SK_EQUEUE, -SK_EBEHIND, -SK_EUNAVAIL ...: then sk_gen_fail ends what has begun. */
int sk_gen_start(struct sk_gen *g, struct sk_err *err);
/* Ends the request with an error: a status before the answer began, an event in a stream after. Does nothing if it is
 * over. */
void sk_gen_fail(struct sk_gen *g, const struct sk_err *err);
/* It was answered by explain.c. */
void sk_gen_explained(struct sk_gen *g);
/* The API shuts down: ends the request if need be and forgets engine and server. */
void sk_gen_detach(struct sk_gen *g);

/* Of all its prompts together: sums. */
void sk_gen_bill(const struct sk_gen *g, struct sk_job_bill *ret);
struct sk_reply_usage sk_gen_usage(const struct sk_gen *g); /* without the bill */

#endif
