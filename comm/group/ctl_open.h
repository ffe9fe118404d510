/* How world makes a control plane: from memory that the ranks of the leader's host share, and a connection to each
 * other rank. */
#ifndef SK_CTL_OPEN_H
#define SK_CTL_OPEN_H
#include "comm/group/ctl.h"

enum { SK_CTL_MAX_MESSAGE = 16 << 20 };

struct sk_ctl_conf {
    int rank, size;
    int reply_rank;     /* the first rank of the last stage; 0: there are no replies */
    size_t reply_bytes; /* most that all replies under way have together; the same on all ranks */
    const int *host;    /* [size]: whatever is the same for ranks of one host */
    void *mem;          /* zeroed, 64-byte aligned, sk_ctl_bytes long: shared by the ranks of rank 0's host where those
                           are several; NULL elsewhere */
    int *fd; /* taken, also on an error. [size]: the leader's connection to each rank of another host, that of
                such a rank to the leader in fd[0]; else -1 */
};
size_t sk_ctl_bytes(const struct sk_ctl_conf *conf); /* the same on all ranks of the leader's host; a multiple of 64 */
int sk_ctl_open(const struct sk_ctl_conf *conf, struct sk_ctl **ret, struct sk_err *err);

#endif
