/* A stream of bytes from one writer to readers that share its memory, processes or threads: each reader gets every
 * byte. Nobody polls: who waits spins for about 50 us, then sleeps on a futex. Owner of a handle: one thread. */
#ifndef SK_RING_H
#define SK_RING_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sk_ring_shared;
struct sk_ring {
    struct sk_ring_shared *shared;
    uint8_t *data;
    size_t size; /* bytes that the writer may be ahead of the slowest reader */
    int n_reader, reader;
    uint64_t at; /* of this handle: bytes written, or read, so far */
};

enum { SK_RING_MAX_READERS = 255, SK_RING_WRITER = -1 };
size_t sk_ring_bytes(size_t size, int n_reader); /* a multiple of 64; size is one */
/* mem: zeroed when the first of them comes, 64-byte aligned, sk_ring_bytes long, the same size and n_reader for all.
 * reader: 0 .. n_reader - 1, or SK_RING_WRITER. */
void sk_ring_init(struct sk_ring *r, void *mem, size_t size, int n_reader, int reader);

/* The writer: copies what there is room for and returns how much that was; readers see it after a post. */
size_t sk_ring_write(struct sk_ring *r, const void *p, size_t n);
void sk_ring_post(struct sk_ring *r);
/* Waits for room, at most max_us where that is not 0. -SK_EIO: the ring was closed; -SK_EAGAIN: none in that time. */
int sk_ring_wait_room(struct sk_ring *r, uint32_t max_us);

/* A reader: up to n bytes, 0 where there are none yet. wait: until there are some. -SK_EIO: closed, and all is read. */
size_t sk_ring_read(struct sk_ring *r, void *p, size_t n);
int sk_ring_wait(struct sk_ring *r);

void sk_ring_close(struct sk_ring *r); /* by anybody; all who wait, or will, return */
bool sk_ring_closed(const struct sk_ring *r);

#endif
