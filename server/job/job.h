/* A job: one request of a client on its way through an engine, with its journal. One job has one prompt; a request with
 * several prompts makes several jobs. Each of its n choices is one sequence on the wire. Owner: loop thread.
 *
 *   QUEUED --credit--> RUNNING --all choices finished--> DONE          QUEUED, RUNNING --cancel--> DONE
 *   RUNNING --engine lost--> QUEUED (admitted again from the journal, which has every token delivered)
 *
 * The journal is the prompt, the params and per choice the tokens delivered so far; after a restart of the engine the
 * job goes on as if nothing had happened: no token lost, none doubled, none delivered before is delivered again. */
#ifndef SK_JOB_H
#define SK_JOB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/wire/params.h"
#include "comm/wire/wire.h"

struct sk_engine; /* link + supervisor + jobs of one engine (server/job/engine.c) */
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
    sk_job_cb *cb;
    void *arg;
};

/* Admits a job. -SK_EQUEUE (429) when max_queue sequences wait or the journal is full, -SK_EUNAVAIL (503: no engine
 * yet; err says "loading ..."), -SK_ECTX. */
int sk_job_submit(struct sk_engine *e, const struct sk_job_req *req, struct sk_job **ret, struct sk_err *err);
/* One choice (a stop string matched, say) or all: no more callbacks for it; blocks are freed at the next step. */
void sk_job_cancel(struct sk_job *j, uint32_t choice); /* SK_WIRE_ALL */
/* After the last finish or cancel of every choice: gives the job back. Must be called exactly once. Cancels what still
 * runs. */
void sk_job_free(struct sk_job *j);

/* The engine as the daemon sees it. */
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
    struct sk_wire_hello hello; /* valid once READY */
    struct sk_wire_stats stats;
};

struct uv_loop_s;
struct sk_conf;
struct sk_dir;
struct sk_engine_conf {
    const struct sk_conf *conf; /* borrowed, alive as long as the engine */
    const char *bin_dir;        /* where skein-engine and skein-build are */
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
void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret);
/* QUIT, then SIGKILL after a grace; `done` when the child is reaped and all handles are closed. */
void sk_engine_close(struct sk_engine *e, void (*done)(void *arg), void *arg);

#endif
