/* ^C as something to wait for: SIGINT makes a descriptor readable. One per process. */
#ifndef SK_INTERRUPT_H
#define SK_INTERRUPT_H
#include <stdbool.h>
#include "comm/base/err.h"

/* Takes SIGINT from now on; system calls that it meets fail with EINTR. -SK_EIO. */
int sk_interrupt_open(struct sk_err *err);
int sk_interrupt_fd(void);    /* readable: one is waiting; -1: not open */
bool sk_interrupt_take(void); /* one was waiting, and waits no more */

#endif
