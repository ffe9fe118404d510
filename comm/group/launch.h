/* How an engine of several ranks is started: Open MPI's mpirun, its options, and the folders that it leaves things in.
 * Used by skeind, and by skein-engine when a person starts it with --tp or --pp. Sources: mpirun(1), `ompi_info --all`
 * of Open MPI 4.1; what each option is for stands in launch.c. */
#ifndef SK_LAUNCH_H
#define SK_LAUNCH_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

#define SK_LAUNCH_TOKEN "SKEIN_ENGINE_TOKEN" /* environment: what rank 0 says to the daemon to be let in */
enum { SK_LAUNCH_MAX_ARGS = 512, SK_LAUNCH_MAX_HOST = 64, SK_LAUNCH_PATH = 100 };

struct sk_launch_host {
    char name[256];
    uint32_t slots;
};
struct sk_launch_hosts {
    uint32_t n, n_slot; /* n_slot: of all */
    struct sk_launch_host host[SK_LAUNCH_MAX_HOST];
};
/* Reads a hostfile: a line a host, `NAME [slots=N]`, # comments. -SK_ENOENT, -SK_EINVAL (file and line), and where a
 * name cannot be resolved. */
int sk_launch_read_hosts(const char *path, struct sk_launch_hosts *ret, struct sk_err *err);
/* The same of s[0..n), without resolving names; `path` is only for messages. */
int sk_launch_parse_hosts(const char *path, const char *s, size_t n, struct sk_launch_hosts *ret, struct sk_err *err);
/* May n_rank ranks start there, the first of them beside this process? -SK_ERANGE: too few slots; -SK_EINVAL: the first
 * host is another one; -SK_EUNSUP: there is nothing to reach the others with. hosts NULL = this host. */
int sk_launch_check_hosts(const struct sk_launch_hosts *hosts, uint32_t n_rank, struct sk_err *err);
/* The program, and arguments before the host's name, that runs a command on another host: Open MPI's own choice
 * ($OMPI_MCA_plm_rsh_agent, else ssh). The first `max` words in `ret`, which point into `mem`; their count, 0 where
 * there is no such program or `mem` is too small. */
int sk_launch_agent(char **ret, int max, char *mem, size_t n_mem);

/* Is mpirun there, and of a version that is known to work (4.x)? -SK_EUNSUP: says what to install. Waits for it. */
int sk_launch_check(struct sk_err *err);

/* The folder of one job, wiped and made anew: `dir` below $RUNTIME_DIRECTORY (systemd), else $XDG_RUNTIME_DIR/skein,
 * else /tmp/skein-UID, mode 0700; `shm` the same where that is a tmpfs, else below /dev/shm. Names carry the pid of who
 * made them: those of processes that are gone are removed, too. -SK_EIO. */
struct sk_launch_dirs {
    char dir[SK_LAUNCH_PATH], shm[SK_LAUNCH_PATH];
};
int sk_launch_make_dirs(uint32_t number, struct sk_launch_dirs *ret, struct sk_err *err);
void sk_launch_wipe(const struct sk_launch_dirs *d);

struct sk_launch_conf {
    uint32_t n_rank;
    const struct sk_launch_hosts *hosts; /* NULL: this host */
    const struct sk_launch_dirs *dirs;
    char *const *rank_argv; /* program and arguments of each rank; NULL-terminated */
};
/* mpirun's argv, NULL-terminated, with rank_argv at its end, in `ret`; strings that were made are in `mem`, owned by
 * the caller's sk_launch_argv_done. -SK_ETOOBIG, -SK_ENOMEM, -SK_EIO (the hostfile that mpirun reads cannot be written
 * to dirs->dir). */
struct sk_launch_argv {
    char *argv[SK_LAUNCH_MAX_ARGS + 1];
    int n;
    char *mem;
};
int sk_launch_argv(const struct sk_launch_conf *conf, struct sk_launch_argv *ret, struct sk_err *err);
void sk_launch_argv_done(struct sk_launch_argv *a);
/* Variables, each "NAME=value", that mpirun itself wants in its environment where the user has not set them;
 * NULL-terminated. With several hosts also $TMPDIR = dirs->dir, whatever it was. */
extern const char *const sk_launch_env[];
/* The ranks' wait status from mpirun's: which ends with 128 + N where a rank ended by signal N. */
int sk_launch_status(int wait_status);

#endif
