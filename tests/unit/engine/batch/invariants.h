/* What must hold of the batch manager's state between any two steps. Asserts on failure. */
#ifndef SK_INVARIANTS_H
#define SK_INVARIANTS_H
#include "engine/batch/loop.h"

void invariants_check(const struct sk_loop *l);
void invariants_idle(const struct sk_loop *l); /* nothing runs: and nothing is held */
/* The pool alone: free, idle and held blocks, and the tree, agree. */
void invariants_pool(const struct sk_kvpool *p);

#endif
