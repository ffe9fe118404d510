/* A framed, non-blocking channel over a stream socket. The caller polls the descriptor; chan never blocks or sleeps. */
#ifndef SK_CHAN_H
#define SK_CHAN_H
#include <stdbool.h>
#include "comm/wire/wire.h"

struct sk_chan {
    int fd;
    struct sk_buf in, out; /* out: frames not yet sent; append with sk_wire_put_*, then flush */
    size_t read_at;        /* bytes of `in` already handed out */
};

/* Takes fd, makes it non-blocking and close-on-exec. max_out: bytes of `out`. */
void sk_chan_init(struct sk_chan *c, int fd, size_t max_out);
void sk_chan_done(struct sk_chan *c); /* closes fd */
/* Reads what is there, up to a bound. 0; -SK_EIO: closed by the peer, broken, or no memory. */
int sk_chan_fill(struct sk_chan *c);
/* Next whole frame, checked; valid until the next fill. 1 = *ret_f set, 0 = none yet, -SK_EPROTO. */
int sk_chan_next(struct sk_chan *c, const struct sk_frame **ret_f);
/* Sends what the socket takes. 0 = all sent, 1 = some left (poll for writing), -SK_EIO. */
int sk_chan_flush(struct sk_chan *c);
bool sk_chan_pending(const struct sk_chan *c); /* is there something left to send? */

#endif
