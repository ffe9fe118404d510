/* Writes weights.skw (comm/dir/dir.h): tensors in the order in which they are given, then the table in front of them.
 */
#ifndef SK_BUILD_SKW_H
#define SK_BUILD_SKW_H
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"

struct sk_skw {
    int fd;
    uint32_t n, cap;
    struct sk_dir_entry *entries; /* cap of them */
    uint64_t offset;              /* where the next tensor goes */
    char path[1152];
};

/* Bytes of the file for n_tensor tensors whose sizes, each rounded up to 4096, sum up to n_bytes. */
uint64_t sk_skw_size(uint32_t n_tensor, uint64_t n_bytes);

/* Creates dir/weights.skw for n_tensor tensors; `size` is what it will take: -SK_EIO with the numbers if there is less
 * space. The caller ends it with sk_skw_close, also after a failure of what follows. */
int sk_skw_open(struct sk_skw *w, const char *dir, uint32_t n_tensor, uint64_t size, struct sk_err *err);
/* `e` has all but offset and sum. */
int sk_skw_add(struct sk_skw *w, const struct sk_dir_entry *e, const void *data, struct sk_err *err);
/* All n_tensor were added: writes header and table, and waits until everything is on the disk. */
int sk_skw_finish(struct sk_skw *w, struct sk_err *err);
void sk_skw_close(struct sk_skw *w);

#endif
