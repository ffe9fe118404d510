/* A pretended http, engine and template helper: a request goes in, its answer comes out, without a socket or a process.
 */
#ifndef SK_TESTS_API_PRETEND_H
#define SK_TESTS_API_PRETEND_H
#include <stdbool.h>
#include "server/server.h"

enum { PRETEND_MAX_JOBS = 16 };

struct sk_http_req { /* one exchange */
    const char *method, *path, *body, *authorization, *traceparent, *x_api_key;
    const char *preflight; /* Access-Control-Request-Method */
    bool is_unix;
    uint32_t uid;
    struct sk_buf queue, reply;
    int status; /* 0 = no answer yet */
    bool stream, ended;
    char content_type[64];
    uint32_t n_header;
    struct {
        char name[40], value[200];
    } headers[SK_HTTP_MAX_HEADERS];
    void *user;
    void (*on_gone)(void *user);
    void (*on_free)(void *user);
};

struct sk_job { /* what was asked of the engine */
    struct sk_job_req req;
    struct sk_params params;
    int32_t prompt[256];
    uint32_t cancelled; /* bit k: choice k */
    bool freed;
};

extern struct pretend {
    struct sk_server server;
    struct sk_model model;
    struct sk_listener listener;
    struct sk_conf conf;
    struct sk_job jobs[PRETEND_MAX_JOBS];
    uint32_t n_job;
    int submit_fails; /* sk_job_submit's result from job number `fail_at` on; 0 = none */
    uint32_t fail_at;
    uint64_t max_fit; /* sk_job_fits refuses more sequences; 0 = none */
    enum sk_engine_state engine;
    bool stuck;                                               /* it makes no progress */
    void (*peek_cb)(void *arg, const struct sk_wire_view *v); /* of the peek that goes on; NULL = none */
    void *peek_arg;
    uint64_t peek_salt;
    uint32_t n_peek_tok;
    uint32_t drained, restarted;  /* the replica that was asked to, last */
    int peek_fails, flight_fails; /* results; 0 = it goes well */
    char rendered[4096];          /* the last JSON for the template */
    sk_tmpl_cb *render_cb;        /* of the rendering that goes on; NULL = none */
    void *render_arg;
    int cancelled_render;
    struct sk_buf frame; /* of the engine */
    float logprob;       /* of its tokens, -0.5 */
} pretend;

void pretend_open(void);
void pretend_close(void);
int pretend_set_up(void **state); /* the same as a test's set-up and tear-down */
int pretend_tear_down(void **state);
/* An exchange for sk_api_request, ended by pretend_end. From here on nothing that is pretended allocates. */
void pretend_begin(struct sk_http_req *r, const char *method, const char *path);
/* Begins one and POSTs. */
void pretend_post(struct sk_http_req *r, const char *path, const char *body);
void pretend_end(struct sk_http_req *r);   /* the last byte is out: on_free */
void pretend_leave(struct sk_http_req *r); /* the client goes away: on_gone, then on_free */
/* The engine says: choice `choice` of the job got `n` tokens, then `finish` (NONE = goes on). Each token has the
 * log-prob pretend.logprob and the alternatives asked for: itself, then ids 40, 41 ... at -1, -2 ... */
void pretend_tokens(struct sk_job *j, uint32_t choice, const int32_t *ids, uint32_t n, enum sk_finish finish,
                    int32_t reason);
/* Prompt log-probs of all but the first prompt token. */
void pretend_prompt(struct sk_job *j, uint32_t choice);
/* The engine answers the peek: it has `n_cached` of the tokens, and a running sequence for each job. */
void pretend_view(uint32_t n_cached);
/* Asks again and again, each time with the next allocation failing, until the answer is 200; it is 500 before that. No
 * more than `max` times. Peeks are answered. */
void pretend_short_of_memory(const char *method, const char *path, const char *body, uint64_t max);
/* The template is rendered. */
void pretend_render(const char *text);

int32_t pretend_id(const char *word);                                      /* of the model's vocabulary */
void pretend_has(const struct sk_buf *b, const char *text);                /* or the test fails */
const char *pretend_header(const struct sk_http_req *r, const char *name); /* of the answer; NULL = absent */

#endif
