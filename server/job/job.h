/* A job: one request of a client on its way through an engine, with its journal. One job has one prompt; a request with
 * several prompts makes several jobs. Each of its n choices is one sequence on the wire. Owner: loop thread.
 *
 *   QUEUED --place--> RUNNING --all choices finished--> DONE          QUEUED, RUNNING --cancel, deadline--> DONE
 *   RUNNING --engine lost, makes room--> QUEUED (goes on from the journal, which has every token delivered)
 *
 * The journal is the prompt, the params and per choice the tokens delivered so far; after a restart of the engine the
 * job goes on as if nothing had happened: no token lost, none doubled, none delivered before is delivered again.
 *
 * What waits, waits here and not in the engine: which sequence goes next (fair.h: the tenant that got least, then
 * priority, then nearest its end after a restart, then age), what is dropped because its time is over, and what must
 * give its place to another tenant's are the daemon's decisions. */
#ifndef SK_JOB_H
#define SK_JOB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/wire/params.h"
#include "comm/wire/wire.h"
#include "server/job/tenant.h"

struct sk_engine; /* the queue of a model, and the replicas that serve it (server/job/engine.c) */
struct sk_job;

struct sk_job_event { /* what a choice got in one step */
    uint32_t choice;
    const struct sk_wire_entry *entry; /* items, finish, counts: borrowed for the call */
};
/* Called on the loop once per choice with news in a TOKENS frame. After all of a frame's, the engine calls conf.on_step
 * once. */
typedef void sk_job_cb(void *arg, struct sk_job *job, const struct sk_job_event *ev);

struct sk_job_req {
    const int32_t *prompt; /* copied */
    uint32_t n_prompt, n_choice;
    const struct sk_params *params; /* seed set; each choice k draws with counter `choice` = k */
    const int32_t *list;            /* copied */
    struct sk_tenant *tenant;       /* never NULL */
    const char *id;                 /* of the HTTP request, for people; copied, cut at 63 bytes */
    /* On sk_clock_us; 0 = none. A choice without a token by `first_us`, or not ended by `end_us`, ends with
     * SK_FINISH_ERROR and SK_EDEADLINE; one that waits is never sent then. */
    uint64_t first_us, end_us;
    sk_job_cb *cb;
    void *arg;
};

/* Whether a request of n_seq sequences in one or more jobs, whose prompts have n_tok tokens together, could be let in
 * when nothing else is there. -SK_ERANGE: never, and err says the limit. 0 too while no engine was READY. */
int sk_job_fits(const struct sk_engine *e, uint64_t n_seq, uint64_t n_tok, struct sk_err *err);
/* Admits a job. -SK_ERANGE as sk_job_fits, -SK_EQUEUE (429) when max_queue sequences or max_queue_tokens prompt tokens
 * wait or the journal is full, -SK_EBEHIND (429) when by the measured rate its deadlines cannot be met (of an answer
 * that may end by itself, one token counts; for these, err->retry_ms says when to come again), -SK_EUNAVAIL (503: no
 * engine yet; err says "loading ..."), -SK_ECTX. */
int sk_job_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret, struct sk_err *err);
/* One choice (a stop string matched, say) or all: no more callbacks for it; blocks are freed at the next step. */
void sk_job_cancel(struct sk_job *j, uint32_t choice); /* SK_WIRE_ALL */
/* After the last finish or cancel of every choice: gives the job back. Must be called exactly once. Cancels what still
 * runs. */
void sk_job_free(struct sk_job *j);

/* What a job has cost so far, over all its choices and engines. */
struct sk_job_bill {
    uint64_t queue_us, prefill_us, decode_us; /* wall time of the job: until it was sent first, to its first token, to
                                                 its last */
    uint64_t cpu_us, blk_us;                  /* as in struct sk_wire_entry */
    uint32_t n_preempt, n_readmit;            /* most of any choice */
};
void sk_job_bill(const struct sk_job *j, struct sk_job_bill *ret);

/* When a request that came now would be served, by the rates measured so far; all 0 while nothing was measured. */
struct sk_engine_estimate {
    uint64_t queue_us; /* until the engine takes it */
    uint64_t first_us; /* until its first token */
    uint64_t end_us;   /* until its last */
};
void sk_engine_estimate(const struct sk_engine *e, const struct sk_tenant *t, uint32_t n_prompt, uint32_t n_answer,
                        struct sk_engine_estimate *ret);

/* One choice of a job, for people. */
enum sk_job_state { SK_JOB_WAITING, SK_JOB_SENT, SK_JOB_OVER };
struct sk_job_view {
    const char *id, *tenant;
    uint64_t wire; /* its id in frames, 0 unless SENT */
    uint32_t choice, n_prompt, n_done, max_tokens;
    int32_t priority;
    enum sk_job_state state;
    bool suspect;
    uint64_t age_us;
};
/* All unfinished choices, oldest job first. */
void sk_engine_each(const struct sk_engine *e, void (*each)(void *arg, const struct sk_job_view *v), void *arg);
/* Asks the replica to which such a request would go what it holds and how many of `tok` its prefix cache has; without
 * tokens all replicas, whose views then come as one. `done` is called once, later, with NULL when those asked are lost
 * before they answer. Not when this fails: -SK_EUNAVAIL (there is no engine now), -SK_EBUSY (more than
 * SK_ENGINE_MAX_PEEKS at once, or much waits to be sent), -SK_ENOMEM, -SK_ETOOBIG. */
enum { SK_ENGINE_MAX_PEEKS = 64 };
int sk_engine_peek(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt,
                   void (*done)(void *arg, const struct sk_wire_view *v), void *arg);
/* Forgets the peeks of this `arg`: their `done` will not be called. */
void sk_engine_unpeek(struct sk_engine *e, void *arg);

/* The engine as the daemon sees it: of several replicas it is READY while one is. */
enum sk_engine_state {
    SK_ENGINE_BUILDING,
    SK_ENGINE_STARTING,
    SK_ENGINE_READY,
    SK_ENGINE_BACKOFF,
    SK_ENGINE_FAILED,
    SK_ENGINE_STOPPING,
    SK_ENGINE_STOPPED
};
struct sk_engine_status {
    enum sk_engine_state state;
    uint32_t permille; /* of building or loading */
    char text[512];    /* why it is not ready: "building 43 %", "engine exited with signal 9, starting again in 2 s" */
    uint32_t restarts, n_waiting, n_running;
    int pid;              /* 0 = none */
    bool making_progress; /* it is READY, and when it has work its last step is not long ago */
    uint64_t journal_tok;
    struct sk_wire_hello hello; /* valid once READY */
    struct sk_wire_stats stats; /* counters of all engines since the daemon started, levels of this one */
};

struct uv_loop_s;
struct sk_conf;
struct sk_metrics;
struct sk_engine_conf {
    const struct sk_conf *conf; /* borrowed, alive as long as the engine */
    const char *dir;            /* engine directory; NULL: that of conf->model. Borrowed for the call */
    bool is_vacant;             /* no replica is started until sk_engine_put_on */
    const char *bin_dir;        /* where skein-engine and skein-build are */
    struct sk_metrics *metrics; /* borrowed; NULL = none */
    void *arg;
    void (*on_dir)(
        void *arg,
        const char *path); /* the engine directory is there (built, or given): tokenizer and templates may be loaded */
    void (*on_state)(void *arg); /* state changed */
    void (*on_step)(void *arg);  /* all callbacks of a TOKENS frame have run */
};
/* Starts: build if --model is not an engine directory, then the engine; watches it, ends it, restarts it with back-off,
 * admits jobs again. */
int sk_engine_open(struct uv_loop_s *loop, const struct sk_engine_conf *conf, struct sk_engine **ret,
                   struct sk_err *err);
/* The configuration has changed: new limits hold for what waits already, from the loop's next turn on. */
void sk_engine_reloaded(struct sk_engine *e);
void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret);
/* Writes the flight recorder's segments into files of --flight-dir; *ret_path (at least 1,024 bytes) is the newest.
 * -SK_ENOENT: nothing was recorded; -SK_EIO. A crash does so by itself. */
int sk_engine_dump_flight(struct sk_engine *e, const char *why, char *ret_path, struct sk_err *err);
/* --- replicas, numbered from 0 --- */

enum { SK_ENGINE_MAX_REPLICAS = 16, SK_ENGINE_ALL = SK_ENGINE_MAX_REPLICAS };
struct sk_replica_view {
    struct sk_engine_status status; /* of this one; SK_ENGINE_STOPPED where there is none */
    bool is_drained;
    bool is_hopeless;            /* it was tried in vain, often */
    uint64_t todo_tok, n_routed; /* outstanding tokens; sequences sent for their prefix */
};
uint32_t sk_engine_n_replica(const struct sk_engine *e);
/* The replica's ranks as its leader told of them last; NULL and *ret_n = 0: it is not READY. Borrowed, until the loop
 * goes on. */
const struct sk_wire_rank *sk_engine_ranks(const struct sk_engine *e, uint32_t i, uint32_t *ret_n);
void sk_engine_replica(const struct sk_engine *e, uint32_t i, struct sk_replica_view *ret);
/* The replica takes nothing more, and what it has goes on elsewhere at once; until sk_engine_restart. -SK_ERANGE,
 * -SK_EBUSY: no other could take it, or one is just being replaced. */
int sk_engine_drain(struct sk_engine *e, uint32_t i, struct sk_err *err);
/* Replaces the replica, or SK_ENGINE_ALL one after the other, those that do not serve first, each when another one
 * serves or none can; what they have goes on elsewhere at once, with no other one when it is back. -SK_ERANGE,
 * -SK_EBUSY: one is just being replaced. */
int sk_engine_restart(struct sk_engine *e, uint32_t i, struct sk_err *err);
/* Is one being replaced? Else *ret_why says how the last time failed; "" = it did not. Borrowed. */
bool sk_engine_is_rolling(const struct sk_engine *e, const char **ret_why);
/* From now on replicas start on this engine directory, which has the same digest. */
void sk_engine_move(struct sk_engine *e, const char *dir);
const char *sk_engine_dir(const struct sk_engine *e); /* "" = not known yet */
/* The replica's place is given up, or taken: its state in the view tells how that goes, and on_state when it changes.
 * put_on: -SK_ENOMEM ...; the place must be free. */
void sk_engine_take_off(struct sk_engine *e, uint32_t i);
int sk_engine_put_on(struct sk_engine *e, uint32_t i, struct sk_err *err);
/* Every open choice ends with SK_FINISH_ERROR and this code, and nothing is let in any more. */
void sk_engine_end_all(struct sk_engine *e, int code);
uint32_t sk_engine_n_job(const struct sk_engine *e); /* unfinished */
/* Of two engines in one process only one sets the levels of the metrics (what is counted is counted by both). */
void sk_engine_set_levels(struct sk_engine *e, bool does);

/* QUIT, then SIGKILL after a grace; `done` when the child is reaped and all handles are closed. */
void sk_engine_close(struct sk_engine *e, void (*done)(void *arg), void *arg);

#endif
