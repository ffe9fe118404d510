#define _GNU_SOURCE /* O_TMPFILE, fallocate, MADV_POPULATE_WRITE */
#include "comm/group/room.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

const char *sk_room_folder(void)
{
    const char *folder = getenv("OMPI_MCA_osc_sm_backing_directory");
    return folder ? folder : "/dev/shm";
}

static int too_small(size_t bytes, struct sk_err *err)
{
    struct statvfs fs = {0};
    statvfs(sk_room_folder(), &fs);
    return sk_err_set(err, SK_ENOMEM, NULL,
                      "the ranks of this host need %zu MiB of shared memory, but %s has %zu MiB free: give that file "
                      "system more room (mount -o remount,size=..., or a container's --shm-size)",
                      (bytes + MIB - 1) / MIB, sk_room_folder(), (size_t)fs.f_bavail * fs.f_frsize / MIB);
}

int sk_room_look(size_t bytes, struct sk_err *err)
{
    struct statvfs fs;
    if (statvfs(sk_room_folder(), &fs))
        return sk_err_errno(err, SK_EIO, NULL, "shared memory cannot be made in %s", sk_room_folder());
    return (uint64_t)fs.f_bavail * fs.f_frsize < bytes ? too_small(bytes, err) : 0;
}

int sk_room_check(size_t bytes, struct sk_err *err)
{
    int rc = sk_room_look(bytes, err);
    if (rc)
        return rc;
    int fd = open(sk_room_folder(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) /* not every file system can; what it says of its room must do */
        return 0;
    if (fallocate(fd, 0, 0, (off_t)bytes) && errno == ENOSPC)
        rc = too_small(bytes, err);
    close(fd);
    return rc;
}

/* Should others have taken the room meanwhile, that is an error here and not a signal later; kernels before 5.14 cannot
 * tell. The pages then stay in the file alone, so that each rank's memory use shows what it uses. */
int sk_room_touch(void *p, size_t n, struct sk_err *err)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p / page * page;
    const size_t bytes = (uintptr_t)p + n - from;
    if (madvise((void *)from, bytes, MADV_POPULATE_WRITE) && errno != EINVAL)
        return too_small(n, err);
    memset(p, 0, n);
    madvise((void *)from, bytes, MADV_DONTNEED);
    return 0;
}
