#include "clients/skein/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int event_fd = -1;

static void on_signal(int sig)
{
    const int saved = errno;
    const uint64_t one = 1;
    if (write(event_fd, &one, sizeof one) < 0) {
        /* it can only be full, so readable */
    }
    errno = saved;
}

int sk_interrupt_open(struct sk_err *err)
{
    struct sigaction sa = {.sa_handler = on_signal};
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (event_fd < 0 || sigaction(SIGINT, &sa, NULL) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "signals cannot be taken");
    return 0;
}

int sk_interrupt_fd(void)
{
    return event_fd;
}

bool sk_interrupt_take(void)
{
    uint64_t n;
    return event_fd >= 0 && read(event_fd, &n, sizeof n) == (ssize_t)sizeof n;
}
