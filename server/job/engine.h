/* Inside of an engine as the daemon has it. Private to server/job. Owner: loop thread.
 *
 *   job.c      the owner's side: submit, cancel, free, what it cost
 *   admit.c    who is let in, and what it may expect
 *   choice.c   the states of a choice
 *   fair.c     whose turn it is
 *   send.c     out: what waits goes on board, others make room
 *   take.c     in: TOKENS, the journal
 *   suspect.c  a replica's end: what it had waits again, who is to blame
 *   replica.c  one of the engines that serve the queue
 *   route.c    which of them a sequence goes to
 *   roll.c     replicas are replaced, one after the other
 *   due.c      deadlines
 *   peek.c     questions to the engine
 *   pace.c     how fast it is
 *
 * A job goes over the wire as one or more *sendings*: one PROMPT and the SEQs of some of its choices under a wire id of
 * their own, so that frames about a job that is gone, about a sequence that made room, or of an engine before can never
 * be taken for another's. There is one queue, and each sending goes to one replica, chosen when its turn comes. */
#ifndef SK_ENGINE_H
#define SK_ENGINE_H
#include <sys/queue.h>
#include <uv.h>
#include "server/job/fair.h"
#include "server/job/job.h"
#include "server/job/pace.h"
#include "server/job/replica.h"
#include "server/job/super.h"
#include "server/metrics/metrics.h"

enum choice_state { CHOICE_NEW, CHOICE_WAITING, CHOICE_SENT, CHOICE_OVER };

struct cost { /* as in struct sk_wire_entry */
    uint64_t cpu_us, blk_us;
    uint32_t n_preempt;
};

struct choice {
    struct sk_fair_seq fair; /* first: a sequence of the queue is a choice */
    struct sk_job *job;
    enum choice_state state;
    uint32_t index;
    uint32_t sending; /* SENT: index into sk_engine.sendings */
    int32_t *tok;     /* the journal: tokens delivered */
    uint32_t n_tok, cap;
    uint32_t n_prompt_items; /* prompt log-probs delivered */
    uint32_t skip;           /* of these, how many the engine will make again */
    bool was_sent;
    uint32_t n_crash; /* engines that crashed with it in the step */
    uint32_t n_readmit;
    struct cost before, now; /* of sendings before this one; of this one */
    uint32_t todo_tok;       /* on board: its part of the replica's */
};

struct sk_job {
    struct sk_engine *engine;
    TAILQ_ENTRY(sk_job) link; /* engine->jobs, while a choice is not OVER */
    sk_job_cb *cb;
    void *arg;
    struct sk_fair_share *share;
    char id[64];
    int32_t *prompt, *list;
    uint32_t n_prompt, n_list;
    uint64_t *chain; /* of the prompt (prefix.h); NULL where there is one replica */
    uint32_t n_chain;
    struct sk_params params;
    uint64_t due_first_us, due_end_us;                       /* 0 = none */
    uint64_t submit_us, sent_us, first_us, last_us, over_us; /* when; 0 = not yet. first, last: tokens */
    uint32_t n_sending;                                      /* that name it */
    bool blamed, poison;                                     /* blamed: for the crash that is just being dealt with */
    uint32_t n_choice, n_open;                               /* n_open: not OVER */
    struct choice choice[];
};
TAILQ_HEAD(sk_job_list, sk_job);

struct sending {
    uint32_t generation; /* high half of the wire id; the low half is the index */
    uint32_t n_seq;      /* sequences that the engine has not finished; 0 = free */
    struct sk_job *job;  /* NULL: given back meanwhile */
    struct replica *replica;
};

struct peek {
    uint64_t number; /* 0 = free */
    struct replica *replica;
    struct survey *survey; /* of which it is a part; NULL = it is a question by itself */
    void (*done)(void *arg, const struct sk_wire_view *v);
    void *arg;
};

enum roll_state { ROLL_NONE, ROLL_WAITING, ROLL_CLOSING, ROLL_STARTING };
struct roll { /* replicas are replaced, one after the other */
    enum roll_state state;
    uint32_t at;                         /* the one whose turn it is */
    bool is_due[SK_ENGINE_MAX_REPLICAS]; /* it is still to be replaced */
    char why[512];                       /* how the last one failed; "" = it went well */
};

struct sk_engine {
    struct sk_engine_conf conf;
    struct uv_loop_s *loop;
    char dir[1024]; /* engine directory, once it is known */
    struct replica replicas[SK_ENGINE_MAX_REPLICAS];
    uint32_t n_replica;
    struct roll roll;
    struct sk_job_list jobs; /* in the order of their submission */
    struct sk_fair fair;
    struct sk_pace pace;
    struct sending *sendings;
    uint32_t n_sending, sending_hint;
    bool in_callbacks; /* what they free is given out after the last */
    bool is_started;   /* hello is set: all that were to start were READY once */
    bool is_hopeless;  /* none can be started, since one was READY last */
    bool is_over;      /* nothing is let in any more */
    bool is_closing;
    bool is_silent;             /* another engine sets the levels of the metrics */
    struct sk_wire_stats told;  /* counters that the metrics have */
    uint64_t journal_tok;       /* prompt and answer tokens of all jobs */
    uint64_t n_submit, n_taken; /* choices; prompts that went to a replica */
    struct sk_wire_hello hello; /* of those that are READY together; while none is, of those that were */
    struct peek peeks[SK_ENGINE_MAX_PEEKS];
    uint64_t peek_number;
    uv_timer_t due;
    uint64_t due_us; /* when the timer looks again; 0 = it is off */
    struct sk_buf scratch;
    int n_closing; /* replicas and timer */
    void (*done)(void *arg);
    void *done_arg;
};

/* admit.c: may it be submitted? Errors of sk_job_submit. */
int sk_admit_check(struct sk_engine *e, const struct sk_job_req *req, struct sk_err *err);

/* choice.c. sk_choice_end gives the choice's owner an error as its end, and may free the job. */
void sk_choice_wait(struct choice *c);
void sk_choice_wait_again(struct choice *c, bool lost);
void sk_choice_sent(struct choice *c, uint32_t sending);
void sk_choice_over(struct choice *c);
void sk_choice_end(struct choice *c, int code);
void sk_choice_end_any(struct sk_job *j, int code); /* one that is not OVER: there is one */

/* send.c, peek.c: frames wait on this side of the channel once so many bytes are in it: a cancel must not queue behind
 * them, and what the channel's buffer may hold is not reached. */
enum { ENGINE_MAX_PENDING_BYTES = 1 << 20 };

/* send.c */
void sk_send_pump(struct sk_engine *e);                               /* as far as places, credit and channels allow */
void sk_send_cancel(const struct choice *c);                          /* SENT: CANCEL goes out with the next flush */
uint64_t sk_send_id(const struct sk_engine *e, uint32_t sending);     /* on the wire */
struct sending *sk_send_find(const struct sk_engine *e, uint64_t id); /* NULL: nothing of this engine's, or finished */
void sk_send_finished(struct sending *s);                             /* one sequence of it */
void sk_send_forget(struct sk_engine *e, const struct sk_job *j); /* it is given back: its sequences end in silence */
void sk_send_forget_replica(struct replica *r);                   /* it is gone */
struct replica *sk_send_replica(const struct choice *c);          /* SENT: where to */

/* take.c: one TOKENS frame. */
void sk_take_tokens(struct replica *r, const struct sk_wire_tokens *t);

/* suspect.c: the replica is gone, and what it had waits again. Those on the seats are to blame: they become suspects,
 * and one that was a suspect already and sat alone ends with SK_EPOISON. */
void sk_suspect_requeue(struct replica *r, const struct sk_board_seat *seat, uint32_t n_seat);
/* There is no engine for them: every open choice ends with an error. */
void sk_suspect_end_all(struct sk_engine *e, int code);

/* due.c */
void sk_due_watch(struct sk_engine *e, const struct sk_job *j); /* a new one */
void sk_due_run(struct sk_engine *e);                           /* ends what is over its time; the timer's work */
void sk_due_again(struct sk_engine *e);                         /* that, in the loop's next turn */

/* peek.c */
void sk_peek_take(struct sk_engine *e, const struct sk_wire_view *v);
void sk_peek_lost(const struct replica *r);

/* roll.c: something happened to a replica that the roll may wait for. */
void sk_roll_go_on(struct sk_engine *e);

/* engine.c: the levels that change with the queue; with STATS; what a replica says. */
void sk_engine_publish(const struct sk_engine *e);
void sk_engine_publish_stats(struct sk_engine *e);
void sk_engine_replica_changed(struct replica *r); /* state, or hello */
void sk_engine_replica_found(struct replica *r, const char *dir);
void sk_engine_replica_lost(struct replica *r, const struct sk_board_seat *seat, uint32_t n_seat);
void sk_engine_replica_closed(struct replica *r);
/* Sums over the replicas: sequences that were sent and have not finished, of these those that wait there; and how many
 * replicas are READY, how many of these not drained. */
uint32_t sk_engine_n_sent(const struct sk_engine *e);
uint32_t sk_engine_n_held(const struct sk_engine *e);
uint32_t sk_engine_n_ready(const struct sk_engine *e);
uint32_t sk_engine_n_serving(const struct sk_engine *e);

#endif
