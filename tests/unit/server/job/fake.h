/* Made-up supervisors with a made-up engine each, in this process: frames go in when the daemon flushes them, and each
 * step that a test asks for gives the TOKENS frame of one iteration. The clock stands still but for the steps.
 *
 * Token i of choice k of a job whose prompt begins with p is 10000 p + 1000 k + i, whatever was done before: one that
 * is lost or doubled shows. The engine checks what it is sent: places, credit, one suspect at a time, tokens done. */
#ifndef SK_TESTS_JOB_FAKE_H
#define SK_TESTS_JOB_FAKE_H
#include <stdbool.h>
#include <uv.h>
#include "comm/base/conf.h"
#include "comm/wire/board.h"
#include "server/job/job.h"
#include "server/job/tenant.h"

enum {
    FAKE_MAX_REPLICAS = 4,
    FAKE_MAX_SEQS = 256,
    FAKE_CHOICES = 8,
    FAKE_POISON = 9999 /* prompts that begin so end the engine in their step */
};

struct fake_seq { /* in the engine, oldest first */
    uint64_t job;
    uint32_t replica;
    uint32_t choice, n_done, n_prompt, n_fill, n_probation, n_items; /* n_fill: prompt tokens to compute still */
    int32_t first;
    struct sk_params params;
    bool suspect, urgent, cancelled;
    uint32_t n_step; /* it ran in */
};

struct answer { /* of one job */
    struct sk_job *job;
    uint32_t n_tok[FAKE_CHOICES], n_prompt_items[FAKE_CHOICES], n_over, n_choice;
    int32_t first;
    enum sk_finish finish[FAKE_CHOICES];
    int32_t reason;
    uint64_t submit_us, first_us, over_us;
    bool wrong;
    void (*on_tok)(struct answer *a, uint32_t choice); /* NULL = nothing */
};

extern struct fake {
    struct sk_conf conf;
    uv_loop_t loop;
    struct sk_engine *engine;
    struct sk_metrics *metrics;
    struct sk_tenants *tenants;
    /* What a test may set. */
    uint32_t max_seqs, max_running; /* max_running: the rest waits in the engine */
    uint64_t base_us, row_us;       /* a step's time */
    uint32_t n_cached;              /* of each prompt, said with its first token */
    bool stats;                     /* STATS after each step */
    const char *isa[FAKE_MAX_REPLICAS];
    const char *digest; /* of the engine directory; NULL = "" */
    uint64_t now_us;
    /* What it saw. */
    struct fake_seq seq[FAKE_MAX_SEQS];
    uint32_t n_seq, n_frame_prompt, n_cancel, n_peek, n_step_cb;
    int32_t sent[4096]; /* first prompt tokens, in the order of their SEQs */
    uint32_t n_sent, n_crash;
    uint32_t n_peeked[FAKE_MAX_REPLICAS], n_open[FAKE_MAX_REPLICAS]; /* supervisors that were opened */
} fake;

int fake_open(void **state);     /* of each test: a READY engine of 4 places; set max_seqs and fake_up() for others */
int fake_open_two(void **state); /* two such replicas */
int fake_close(void **state);    /* all jobs must be free */
/* Of replica `i`; those without a number of the first. */
void fake_up_at(uint32_t i);
void fake_down_at(uint32_t i, const struct sk_board_seat *seat, uint32_t n_seat); /* lost; not up again */
void fake_hopeless_at(uint32_t i);
void fake_up(void);
void fake_down(const struct sk_board_seat *seat, uint32_t n_seat);
void fake_hopeless(void);
/* One iteration of each replica that is up. It ends with a crash when a poisoned one runs in it; then false. */
bool fake_step(void);
void fake_view_at(uint32_t i, uint64_t number, uint32_t n_cached);
void fake_view(uint64_t number, uint32_t n_cached);
void fake_pass(uint64_t us); /* time */
void fake_run_loop(void);    /* timers that are due by the real clock, once */
struct sk_tenant *fake_tenant(const char *name, double weight);
uint32_t fake_on_board(int32_t first); /* sequences, not cancelled */
uint32_t fake_at(uint32_t i);          /* the same of a replica, whatever they are */
uint32_t fake_urgent(int32_t first);   /* of these, how many came as urgent */

/* A request of n_prompt tokens, the first of which is `first`. p.ignore_eos: its answer has max_tokens tokens. */
struct sk_job_req fake_req(struct answer *a, struct sk_params *p, int32_t first, uint32_t n_prompt,
                           uint32_t max_tokens);
int fake_submit(struct answer *a, const struct sk_job_req *req, struct sk_err *err);
/* fake_req and fake_submit, which must go well. */
void fake_ask(struct answer *a, const char *tenant, int32_t first, uint32_t n_prompt, uint32_t max_tokens);
void fake_check_whole(const struct answer *a, uint32_t n_tok); /* each choice has n_tok right tokens; frees the job */
void fake_run_out(void);                                       /* steps, and engines, until nothing is left */

#endif
