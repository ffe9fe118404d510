/* A batch manager over a pretended rank, and the daemon in miniature before it. Asserts through cmocka. */
#ifndef SK_RIG_H
#define SK_RIG_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include "tests/unit/engine/batch/front.h"
#include "tests/unit/engine/batch/pretend.h"

struct rig {
    struct sk_loop_conf conf;
    struct sk_crew *crew;
    struct sk_loop *loop;
    struct front front;
};

struct sk_loop_conf rig_conf(void); /* 8 sequences, steps of 32 rows, 64 blocks of 4 tokens, context of 128 */
void rig_open(struct rig *r, const struct sk_loop_conf *c);
void rig_open_stages(struct rig *r, const struct sk_loop_conf *c, uint32_t n_stage, uint64_t seed);
void rig_close(struct rig *r);
/* One greedy choice of max_tokens tokens, whatever they are. */
struct front_req rig_greedy(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens);
void rig_ramp(int32_t *tok, uint32_t n, int32_t first);
void rig_run(struct rig *r); /* to the end, the invariants checked after each step */
/* The answer, its end and its log-probs are what the request gives alone. What q->done gave is not delivered again. */
void rig_expect(const struct rig *r, uint32_t seq, const struct front_req *q);

#endif
