/* The worlds of ranks that are threads of one process (crowd.h has their groups), with a real control plane. Linked in
 * place of comm/group/world.c: there is no MPI. Asserts on failure. */
#ifndef SK_CREWED_H
#define SK_CREWED_H
#include <pthread.h>
#include "comm/group/world.h"
#include "comm/wire/wire.h"

enum { CREWED_MAX = 8 };

struct crewed {
    struct sk_world world[CREWED_MAX]; /* rank = stage * tp + tp rank; without groups */
    struct sk_wire_rank gathered[CREWED_MAX];
    pthread_barrier_t all;
    void *mem;
};
void crewed_open(struct crewed *c, int tp, int pp); /* of one rank: nothing but its size */
void crewed_close(struct crewed *c);

#endif
