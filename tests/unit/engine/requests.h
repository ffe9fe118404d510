/* Requests of every kind for a small model, the same ones each time. */
#ifndef SK_REQUESTS_H
#define SK_REQUESTS_H
#include "tests/unit/engine/batch/front.h"

enum { N_REQ = 64, MAX_PROMPT = 150, MAX_CHOICE = 3 };

struct request {
    struct front_req req;
    int32_t prompt[MAX_PROMPT], list[8], done[FRONT_MAX_ITEMS];
    struct front_seq want[MAX_CHOICE]; /* the answer to the request alone */
};

/* [N_REQ]: greedy, sampled with every filter, penalties, lists, log-probs, several choices; some prompts begin alike.
 */
void requests_make(struct request *reqs, uint32_t n_vocab);

#endif
