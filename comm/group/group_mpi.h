/* A group of ranks on several hosts, over MPI; their backends compute in host memory. */
#ifndef SK_GROUP_MPI_H
#define SK_GROUP_MPI_H
#include <mpi.h>
#include <stddef.h>

#include "comm/group/group.h"

/* The ranks of comm, which is duplicated, in its order. Sums are made in pieces of at most max_words: any n goes. send
 * waits for its recv where n is large. -SK_ENOMEM, -SK_EIO. */
int sk_group_mpi(MPI_Comm comm, size_t max_words, struct sk_group **ret);

#endif
