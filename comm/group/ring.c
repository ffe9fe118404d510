#define _GNU_SOURCE /* syscall */
#include "comm/group/ring.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/err.h"

enum { LINE = 64, SPIN_NS = 50000, SPINS_PER_LOOK = 32 };

/* Something that is waited for: an event count. Who changes the state bumps `number` if somebody is there to see it;
 * who waits announces itself, looks at the state once more, and sleeps while the number is still the same. Either the
 * one sees the waiter or the other sees the new state, since all of it is sequentially consistent. A waiter that died
 * costs a system call each time, and nothing else. */
struct event {
    _Alignas(LINE) _Atomic uint32_t number;
    _Atomic uint32_t n_waiter;
};
struct tail {
    _Alignas(LINE) _Atomic uint64_t at;
};
struct sk_ring_shared {
    _Alignas(LINE) _Atomic uint64_t head;
    _Alignas(LINE) _Atomic uint32_t closed;
    struct event filled, emptied;
    struct tail tail[];
};
_Static_assert(sizeof(struct sk_ring_shared) % LINE == 0, "tails have cache lines of their own");

static void event_signal(struct event *e)
{
    if (!atomic_load(&e->n_waiter))
        return;
    atomic_fetch_add(&e->number, 1);
    syscall(SYS_futex, &e->number, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* True: `ready` said so; false: max_us have passed (0: they never do). */
static bool event_wait(struct event *e, bool (*ready)(struct sk_ring *), struct sk_ring *r, uint32_t max_us)
{
    uint64_t start = sk_clock_ns();
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (ready(r))
                return true;
            __builtin_ia32_pause();
        }
    } while (sk_clock_ns() - start < SPIN_NS);
    bool yes;
    atomic_fetch_add(&e->n_waiter, 1);
    for (;;) {
        uint32_t number = atomic_load(&e->number);
        yes = ready(r);
        uint64_t waited_us = (sk_clock_ns() - start) / 1000;
        if (yes || (max_us && waited_us >= max_us))
            break;
        uint64_t left_us = max_us - waited_us;
        struct timespec t = {.tv_sec = (time_t)(left_us / 1000000), .tv_nsec = (long)(left_us % 1000000 * 1000)};
        syscall(SYS_futex, &e->number, FUTEX_WAIT, number, max_us ? &t : NULL, NULL, 0);
    }
    atomic_fetch_sub(&e->n_waiter, 1);
    return yes;
}

size_t sk_ring_bytes(size_t size, int n_reader)
{
    return sizeof(struct sk_ring_shared) + (size_t)n_reader * sizeof(struct tail) + size;
}

void sk_ring_init(struct sk_ring *r, void *mem, size_t size, int n_reader, int reader)
{
    sk_assert(size && size % LINE == 0 && (uintptr_t)mem % LINE == 0);
    sk_assert(n_reader > 0 && n_reader <= SK_RING_MAX_READERS && reader >= SK_RING_WRITER && reader < n_reader);
    struct sk_ring_shared *s = mem;
    *r = (struct sk_ring){
        .shared = s,
        .data = (uint8_t *)(s->tail + n_reader),
        .size = size,
        .n_reader = n_reader,
        .reader = reader,
    };
}

bool sk_ring_closed(const struct sk_ring *r)
{
    return atomic_load(&r->shared->closed);
}

static size_t room(struct sk_ring *r)
{
    uint64_t slowest = r->at;
    for (int i = 0; i < r->n_reader; i++) {
        uint64_t at = atomic_load(&r->shared->tail[i].at);
        if (at < slowest)
            slowest = at;
    }
    return r->size - (size_t)(r->at - slowest);
}

static bool has_room(struct sk_ring *r)
{
    return room(r) || sk_ring_closed(r);
}

static bool has_data(struct sk_ring *r)
{
    return atomic_load(&r->shared->head) != r->at || sk_ring_closed(r);
}

size_t sk_ring_write(struct sk_ring *r, const void *p, size_t n)
{
    size_t free = room(r), offset = (size_t)(r->at % r->size), first = r->size - offset;
    if (n > free)
        n = free;
    if (first > n)
        first = n;
    memcpy(r->data + offset, p, first);
    memcpy(r->data, (const uint8_t *)p + first, n - first);
    r->at += n;
    return n;
}

void sk_ring_post(struct sk_ring *r)
{
    atomic_store(&r->shared->head, r->at);
    event_signal(&r->shared->filled);
}

int sk_ring_wait_room(struct sk_ring *r, uint32_t max_us)
{
    if (!event_wait(&r->shared->emptied, has_room, r, max_us))
        return -SK_EAGAIN;
    return sk_ring_closed(r) ? -SK_EIO : 0;
}

size_t sk_ring_read(struct sk_ring *r, void *p, size_t n)
{
    size_t ready = (size_t)(atomic_load(&r->shared->head) - r->at), offset = (size_t)(r->at % r->size);
    size_t first = r->size - offset;
    if (n > ready)
        n = ready;
    if (first > n)
        first = n;
    memcpy(p, r->data + offset, first);
    memcpy((uint8_t *)p + first, r->data, n - first);
    if (n) {
        r->at += n;
        atomic_store(&r->shared->tail[r->reader].at, r->at);
        event_signal(&r->shared->emptied);
    }
    return n;
}

int sk_ring_wait(struct sk_ring *r)
{
    event_wait(&r->shared->filled, has_data, r, 0);
    return atomic_load(&r->shared->head) != r->at ? 0 : -SK_EIO;
}

void sk_ring_close(struct sk_ring *r)
{
    atomic_store(&r->shared->closed, 1);
    event_signal(&r->shared->filled);
    event_signal(&r->shared->emptied);
}
