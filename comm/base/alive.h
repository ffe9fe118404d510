/* TCP connections between our own processes, which a lost host or a cut link must not leave hanging. */
#ifndef SK_ALIVE_H
#define SK_ALIVE_H
#include <stdbool.h>

/* Small frames go out at once; an idle connection is asked every second from the third on, and one that does not
 * answer, or does not take what was sent, for 5 seconds is dead: as mpirun's own links (comm/group/launch.c). false:
 * not all of it could be set. */
bool sk_alive_set(int fd);

#endif
