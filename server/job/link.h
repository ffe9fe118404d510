/* The channel to an engine on the loop: frames out, frames in. Owner: loop thread. */
#ifndef SK_LINK_H
#define SK_LINK_H
#include <stddef.h>
#include "comm/wire/wire.h"

struct uv_loop_s;
struct sk_link;

struct sk_link_conf {
    void *arg;
    void (*on_frame)(void *arg, const struct sk_frame *f); /* checked; borrowed for the call */
    void (*on_down)(void *arg,
                    const char *why); /* once: the peer closed, or broke the protocol; nothing comes after it */
};

/* Takes the descriptor (also on failure). -SK_ENOMEM, -SK_EIO. */
int sk_link_open(struct uv_loop_s *loop, int fd, const struct sk_link_conf *conf, struct sk_link **ret);
struct sk_buf *sk_link_out(struct sk_link *l); /* append frames with sk_wire_put_*, then flush */
void sk_link_flush(struct sk_link *l);
size_t sk_link_pending(const struct sk_link *l); /* bytes that the socket did not take yet */
void sk_link_drain(
    struct sk_link *l); /* takes in what has come, without waiting for the loop: a dead peer's last words */
/* No callback after this one; may be called inside on_frame and on_down. Memory goes when the loop has closed the
 * handle. */
void sk_link_close(struct sk_link *l);

#endif
