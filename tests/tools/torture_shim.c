/* LD_PRELOAD: system calls that fail or do less than they were asked for, as the kernel may. SKEIN_TORTURE is a list of
 * NAME=N, separated by commas; N is how many of 1,000 calls are hit:
 *
 *   seed     of the random numbers (1)
 *   short    reads and writes of sockets that move only a part
 *   eintr    reads, writes and waits that say EINTR
 *   eagain   reads and writes of non-blocking sockets that say EAGAIN although they could go on
 *   accept   accept4 that says ECONNABORTED or EMFILE
 *   emfile   open, socket, pipe and memfd_create that say EMFILE
 *   enospc   writes to regular files that say ENOSPC
 *   alloc    allocations of the program itself, not of its libraries, that give NULL
 *   clock    CLOCK_REALTIME that jumps by up to a day, either way
 *
 * It acts in the program that SKEIN_TORTURE_PROGRAM names (skeind), while the file exists that SKEIN_TORTURE_ON names:
 * it looks whenever a connection is accepted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, SMALL_BYTES = 16, MAX_IOV = 64, MAX_SET = 2, DAY_S = 86400 };
enum rate { SEED, SHORT, EINTR_RATE, EAGAIN_RATE, ACCEPT, EMFILE_RATE, ENOSPC_RATE, ALLOC, CLOCK, N_RATE };

static const char *const rate_names[N_RATE] = {"seed",   "short",  "eintr", "eagain", "accept",
                                               "emfile", "enospc", "alloc", "clock"};
static long rates[N_RATE] = {[SEED] = 1};
static _Atomic uint64_t state;
static _Atomic bool is_on;  /* false: not this program, or not yet */
static const char *on_path; /* NULL: not this program */
static _Atomic long clock_jump_s;
static uintptr_t code_begin, code_end; /* of the program */

/* The library polls edge-triggered: there, data that a call left behind is news only when something happens again. So
 * for a call that is cut short, the descriptor is put anew into the epoll sets that it is in, which tell of it then. */
static struct polled {
    int epoll; /* + 1; 0 = none */
    struct epoll_event event;
} polled[MAX_FD][MAX_SET];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* The first object is the program. */
static int find_code(struct dl_phdr_info *o, size_t n, void *arg)
{
    (void)n, (void)arg;
    for (int i = 0; i < o->dlpi_phnum; i++) {
        if (o->dlpi_phdr[i].p_type == PT_LOAD && o->dlpi_phdr[i].p_flags & PF_X) {
            code_begin = o->dlpi_addr + o->dlpi_phdr[i].p_vaddr;
            code_end = code_begin + o->dlpi_phdr[i].p_memsz;
        }
    }
    return 1;
}

__attribute__((constructor)) static void init(void)
{
    dl_iterate_phdr(find_code, NULL);
    const char *list = getenv("SKEIN_TORTURE"), *program = getenv("SKEIN_TORTURE_PROGRAM");
    if (list && strcmp(program_invocation_short_name, program ? program : "skeind") == 0)
        on_path = getenv("SKEIN_TORTURE_ON");
    for (int i = 0; on_path && i < N_RATE; i++) {
        const char *at = strstr(list, rate_names[i]);
        if (at && at[strlen(rate_names[i])] == '=')
            rates[i] = strtol(at + strlen(rate_names[i]) + 1, NULL, 10);
    }
    state = (uint64_t)rates[SEED] * 0x9e3779b97f4a7c15u;
}

static uint64_t draw(void) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = atomic_fetch_add(&state, 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool hit(enum rate r)
{
    return is_on && (long)(draw() % 1000) < rates[r];
}

static bool fails(enum rate r, int e)
{
    if (!hit(r))
        return false;
    errno = e;
    return true;
}

static bool is_kind(int fd, mode_t kind)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == kind;
}

static void wake(int fd)
{
    for (int i = 0; fd >= 0 && fd < MAX_FD && i < MAX_SET; i++) {
        struct polled *p = &polled[fd][i];
        if (p->epoll > 0)
            REAL(epoll_ctl)(p->epoll - 1, EPOLL_CTL_MOD, fd, &p->event);
    }
}

static bool is_interrupted(int fd)
{
    if (!is_on || !is_kind(fd, S_IFSOCK))
        return false;
    if (fails(EINTR_RATE, EINTR))
        return true;
    if (!(fcntl(fd, F_GETFL) & O_NONBLOCK) || !fails(EAGAIN_RATE, EAGAIN))
        return false;
    wake(fd);
    errno = EAGAIN;
    return true;
}

/* How many of n bytes to move. Not of a pipe: what is written there at once comes out at once, and libuv's signals rely
 * on it; nor of a few words, which are such messages too. */
static size_t cut(int fd, size_t n)
{
    if (n <= SMALL_BYTES || !hit(SHORT) || !is_kind(fd, S_IFSOCK))
        return n;
    wake(fd);
    return 1 + draw() % (n < 64 ? n : 64);
}

static int cut_iov(int fd, const struct iovec *iov, int n_iov, struct iovec *ret)
{
    size_t sum = 0;
    int n = 0;
    for (int i = 0; i < n_iov; i++)
        sum += iov[i].iov_len;
    size_t left = cut(fd, sum);
    for (; n < n_iov && n < MAX_IOV && left > 0; n++) {
        ret[n] = iov[n];
        if (ret[n].iov_len > left)
            ret[n].iov_len = left;
        left -= ret[n].iov_len;
    }
    return n;
}

/* ---- reading and writing ---- */

ssize_t read(int fd, void *p, size_t n)
{
    return is_interrupted(fd) ? -1 : REAL(read)(fd, p, cut(fd, n));
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
    return is_interrupted(fd) ? -1 : REAL(recv)(fd, p, cut(fd, n), flags);
}

ssize_t recvfrom(int fd, void *restrict p, size_t n, int flags, struct sockaddr *restrict a, socklen_t *restrict len)
{
    return is_interrupted(fd) ? -1 : REAL(recvfrom)(fd, p, cut(fd, n), flags, a, len);
}

ssize_t write(int fd, const void *p, size_t n)
{
    if (is_on && is_kind(fd, S_IFREG) && fails(ENOSPC_RATE, ENOSPC))
        return -1;
    return is_interrupted(fd) ? -1 : REAL(write)(fd, p, cut(fd, n));
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    struct iovec part[MAX_IOV];
    int n_part = cut_iov(fd, iov, n, part);
    return is_interrupted(fd) ? -1 : REAL(writev)(fd, part, n_part);
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
    return is_interrupted(fd) ? -1 : REAL(send)(fd, p, cut(fd, n), flags);
}

ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *a, socklen_t len)
{
    return is_interrupted(fd) ? -1 : REAL(sendto)(fd, p, cut(fd, n), flags, a, len);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct iovec part[MAX_IOV];
    struct msghdr copy = *m;
    copy.msg_iov = part;
    copy.msg_iovlen = (size_t)cut_iov(fd, m->msg_iov, (int)m->msg_iovlen, part);
    return is_interrupted(fd) ? -1 : REAL(sendmsg)(fd, &copy, flags);
}

/* ---- waiting ---- */

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    int rc = REAL(epoll_ctl)(epoll, op, fd, event);
    if (rc != 0 || fd < 0 || fd >= MAX_FD)
        return rc;
    struct polled *p = &polled[fd][polled[fd][0].epoll != epoll + 1 && polled[fd][0].epoll != 0];
    p->epoll = op == EPOLL_CTL_DEL ? 0 : epoll + 1;
    if (event)
        p->event = *event;
    return rc;
}

int close(int fd)
{
    if (fd >= 0 && fd < MAX_FD)
        memset(polled[fd], 0, sizeof polled[fd]);
    return REAL(close)(fd);
}

int epoll_wait(int epoll, struct epoll_event *events, int n, int ms)
{
    return fails(EINTR_RATE, EINTR) ? -1 : REAL(epoll_wait)(epoll, events, n, ms);
}

int epoll_pwait(int epoll, struct epoll_event *events, int n, int ms, const sigset_t *set)
{
    return fails(EINTR_RATE, EINTR) ? -1 : REAL(epoll_pwait)(epoll, events, n, ms, set);
}

/* ---- descriptors ---- */

int accept4(int fd, struct sockaddr *restrict a, socklen_t *restrict len, int flags)
{
    if (fails(ACCEPT, draw() % 2 ? ECONNABORTED : EMFILE)) {
        int e = errno;
        wake(fd);
        errno = e;
        return -1;
    }
    int got = REAL(accept4)(fd, a, len, flags);
    if (got >= 0 && on_path)
        is_on = access(on_path, F_OK) == 0;
    return got;
}

int socket(int domain, int type, int protocol)
{
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(socket)(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int ret[2])
{
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(socketpair)(domain, type, protocol, ret);
}

int pipe2(int ret[2], int flags)
{
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(pipe2)(ret, flags);
}

int memfd_create(const char *name, unsigned flags)
{
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(memfd_create)(name, flags);
}

int open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return fails(EMFILE_RATE, EMFILE) ? -1 : REAL(open)(path, flags, mode);
}

/* ---- memory ---- */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

static bool is_refused(void *caller)
{
    return is_on && (uintptr_t)caller >= code_begin && (uintptr_t)caller < code_end && fails(ALLOC, ENOMEM);
}

void *malloc(size_t n)
{
    return is_refused(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return is_refused(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return is_refused(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n);
}

/* ---- time ---- */

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int rc = REAL(clock_gettime)(clock, ret);
    if (rc != 0 || clock != CLOCK_REALTIME)
        return rc;
    if (hit(CLOCK))
        clock_jump_s = (long)(draw() % (2 * DAY_S)) - DAY_S;
    ret->tv_sec += clock_jump_s;
    return rc;
}
