/* Is there room for shared memory? Memory of a file that cannot be had when it is first touched ends a process by
 * SIGBUS, so it is asked for beforehand. */
#ifndef SK_ROOM_H
#define SK_ROOM_H
#include <stddef.h>
#include "comm/base/err.h"

const char *sk_room_folder(void); /* where Open MPI puts windows of shared memory */
/* Each is 0, or -SK_ENOMEM: says how much is needed, where, and how much is free. look: by what the file system says;
 * -SK_EIO: there is none. check: by asking for that much, too, and giving it back; for one process of a host, since
 * together they would ask for more than they need. */
int sk_room_look(size_t bytes, struct sk_err *err);
int sk_room_check(size_t bytes, struct sk_err *err);
/* Pages [p, p + n) of such memory are there and zero from here on. */
int sk_room_touch(void *p, size_t n, struct sk_err *err);

#endif
