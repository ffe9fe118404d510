/* From options to an open rank: engine directory, weights, backend, memory plan, self-test. */
#ifndef SK_LOAD_H
#define SK_LOAD_H
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "comm/wire/board.h"
#include "engine/batch/flight.h"
#include "engine/batch/loop.h"
#include "engine/batch/record.h"
#include "engine/model/crew.h"
#include "engine/model/step.h"

/* Told as loading goes on. */
typedef void sk_load_cb(void *arg, uint32_t permille, const char *text);

struct sk_load_conf {
    const struct sk_conf *options;
    const struct sk_record_head *replay; /* sizes as that recording has them, instead of the options'; NULL = none */
    struct sk_world *world;              /* borrowed; NULL = one rank */
    struct sk_timeline *timeline;        /* likewise; NULL = none */
    sk_load_cb *cb;
    void *arg;
};

struct sk_load {
    struct sk_dir dir;
    struct sk_weights weights;
    struct sk_backend *be;
    struct sk_world *world;
    struct sk_grid grid; /* of this rank */
    struct sk_rank *rank;
    struct sk_rank_conf rank_conf;
    struct sk_rank_need need;
    uint64_t selftest_us; /* that the self-test took */
    char isa[32];         /* "cpu/avx512-bf16" */
};

/* Opens everything and runs the self-test. Of several ranks collective: the world is connected, all have the same
 * context and as many KV blocks, and one rank's failure is everyone's. The memory plan goes to the log. -SK_ENOMEM with
 * the numbers where it exceeds what the machine or the cgroup has; -SK_EFORMAT for a self-test that does not match, and
 * for ranks of different engine directories; -SK_EUNSUP: ranks of different ISA levels. */
int sk_load_open(const struct sk_load_conf *conf, struct sk_load *ret, struct sk_err *err);
void sk_load_close(struct sk_load *l);
/* Those ranks as their leader sees them, and as the others follow. Collective. */
int sk_load_crew(const struct sk_load *l, struct sk_crew **ret, struct sk_err *err);
/* Every rank but the leader: runs what the leader plans, until it says QUIT: 0. What sk_crew_follow says. */
int sk_load_follow(const struct sk_load *l, struct sk_err *err);

/* The batch manager on those ranks, and what it writes on. */
struct sk_load_loop {
    struct sk_crew *crew;
    struct sk_loop *loop;
    struct sk_rank *rank;     /* this one, borrowed */
    struct sk_record *record; /* NULL = none was asked for, likewise below */
    struct sk_board board;
    struct sk_flight *flight;
};
/* The leader: as the options say. `l` outlives it; closing it ends the other ranks' following. Errors are those of what
 * is opened. */
int sk_load_loop_open(const struct sk_load *l, const struct sk_conf *conf, struct sk_load_loop *ret,
                      struct sk_err *err);
void sk_load_loop_close(struct sk_load_loop *l);

/* Bytes of this rank's weights that a decode step reads: all but an embedding table that is not the head. */
uint64_t sk_load_step_bytes(const struct sk_load *l);

/* Bytes that this process may still take: MemAvailable, and what is left under every memory limit of its cgroup. */
uint64_t sk_load_memory(void);

#endif
