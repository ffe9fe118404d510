/* How the CPU backend cuts its work, found by timing it on the matrices of an engine directory, and kept there in a
 * file for each kind of machine: tuning-KEY.json, KEY from CPU model, ISA level, number of CPUs, the number of threads
 * that was asked for and version of this program. Speed depends on it, results never do. (FasterTransformer times its
 * GEMMs likewise.) */
#ifndef SK_TUNE_H
#define SK_TUNE_H
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "kernels/kernels.h"

struct sk_tuning {
    uint32_t n_thread;
    struct sk_tune tune;
};

/* The tuning of this machine for n_thread threads (0 = as many as are best), if DIR has one and it is whole: one that
 * was made for another number says nothing. -SK_ENOENT. */
int sk_tune_load(const char *dir, uint32_t n_thread, struct sk_tuning *ret);
/* Times block sizes and thread counts (n_thread other than 0: that one alone) on the matrices of DIR, which takes some
 * seconds, and writes the file. One line for each setting that is better than the default goes to `report`, which may
 * be fuller by nothing at all. -SK_EUNSUP: the CPU backend does not run here; what opening DIR says; -SK_EIO. */
int sk_tune_measure(const char *dir, uint32_t n_thread, struct sk_buf *report, struct sk_err *err);

#endif
