/* A directory that comes into being all at once: filled under another name next to it, then renamed. Only one process
 * at a time makes a given one; what a killed one left behind is removed by the next. */
#ifndef SK_BUILD_OUTDIR_H
#define SK_BUILD_OUTDIR_H
#include <stdbool.h>
#include "comm/base/err.h"

struct sk_outdir {
    char path[1024];
    char tmp[1088];  /* fill this one; "" = not made */
    char lock[1088]; /* a file; flock'ed while lock_fd >= 0 */
    int lock_fd;
};

/* Waits for the lock of `path`. -SK_EIO, -SK_EINVAL, -SK_ECANCEL (a signal was handled meanwhile). */
int sk_outdir_lock(struct sk_outdir *o, const char *path, struct sk_err *err);
/* Under the lock: removes leftovers and makes o->tmp. */
int sk_outdir_make(struct sk_outdir *o, struct sk_err *err);
/* Waits until all is on the disk and gives the directory its name. -SK_EIO, also when something of that name has
 * appeared. */
int sk_outdir_commit(struct sk_outdir *o, struct sk_err *err);
/* Removes what was not committed, and unlocks. To be called in any case after sk_outdir_lock succeeded. */
void sk_outdir_done(struct sk_outdir *o);

/* Removes a directory and the files in it (not directories). */
int sk_outdir_remove(const char *path, struct sk_err *err);

#endif
