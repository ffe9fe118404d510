/* Processes of this host, as /proc shows them: those of a job that a launcher started are no children of ours. */
#ifndef SK_PROCS_H
#define SK_PROCS_H
#include <stdbool.h>

/* Those of this user, other than ourselves, that have `text` in their arguments; at most `max` of them go to `ret`.
 * Their number. Zombies do not count. */
int sk_procs_find(const char *text, int *ret, int max);
/* Does it stand still because somebody stopped it (SIGSTOP, a debugger)? */
bool sk_procs_is_stopped(int pid);

#endif
