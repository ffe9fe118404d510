/* Inside of an engine as the daemon has it: the jobs, the sequences that were sent, the credits. Private to server/job.
 * Owner: loop thread.
 *
 * A job goes over the wire as one or more *sendings*: one PROMPT and the SEQs of some of its choices under a wire id of
 * their own, so that frames about a job that is gone, or that was sent to an engine before, can never be taken for
 * another's. */
#ifndef SK_ENGINE_H
#define SK_ENGINE_H
#include <sys/queue.h>
#include "server/job/job.h"
#include "server/job/super.h"

enum choice_state { CHOICE_WAITING, CHOICE_SENT, CHOICE_OVER };

struct choice {
    enum choice_state state;
    uint32_t sending; /* SENT: index into sk_engine.sendings */
    int32_t *tok;     /* the journal: tokens delivered */
    uint32_t n_tok, cap;
    uint32_t n_prompt_items; /* prompt log-probs delivered */
    uint32_t skip;           /* of these, how many the engine will make again */
};

struct sk_job {
    struct sk_engine *engine;
    TAILQ_ENTRY(sk_job) link;  /* engine->jobs, while a choice is not OVER */
    TAILQ_ENTRY(sk_job) queue; /* engine->queue, while a choice is WAITING */
    sk_job_cb *cb;
    void *arg;
    int32_t *prompt, *list;
    uint32_t n_prompt, n_list;
    struct sk_params params;
    uint32_t n_choice, n_open, n_waiting; /* choices that are not OVER; of these, WAITING */
    uint32_t n_crash;                     /* engines that crashed with it on board */
    struct choice choice[];
};
TAILQ_HEAD(sk_job_list, sk_job);

struct sending {
    uint32_t generation; /* high half of the wire id; the low half is the index */
    uint32_t n_seq;      /* sequences that the engine has not finished; 0 = free */
    struct sk_job *job;  /* NULL: given back meanwhile */
};

struct sk_engine {
    struct sk_engine_conf conf;
    struct sk_super *super;
    struct sk_job_list jobs;  /* in the order of their submission */
    struct sk_job_list queue; /* likewise */
    struct sending *sendings;
    uint32_t n_sending, sending_hint;
    uint32_t n_sent, n_waiting; /* sequences */
    uint64_t journal_tok;       /* prompt and answer tokens of all jobs */
    bool is_known;              /* hello is set: an engine was READY once */
    struct sk_wire_hello hello;
    struct sk_wire_stats stats;
    struct sk_buf scratch;
    void (*done)(void *arg);
    void *done_arg;
};

/* Sends what waits, as far as credits and the channel allow. */
void sk_job_pump(struct sk_engine *e);
/* One TOKENS frame: journal, callbacks, credits. */
void sk_job_take(struct sk_engine *e, const struct sk_wire_tokens *t);
/* The engine is gone: what it had waits again. `own_fault`: it crashed, so jobs that were in it too often end with an
 * error. */
void sk_job_requeue(struct sk_engine *e, bool own_fault);
/* There will be no engine: every open choice ends with an error. */
void sk_job_fail_all(struct sk_engine *e, int code);

#endif
