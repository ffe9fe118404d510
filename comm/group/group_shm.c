#define _GNU_SOURCE 1 /* syscall */
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "comm/group/group.h"

/* A wait spins while the others are likely at work on CPUs of their own, then lets others run, then sleeps. */
enum { MAX_SPIN_NS = 50 * 1000, YIELD_NS = 2000 * 1000, MIN_SPIN_NS = 1000, SPINS = 32, SLEEP_NS = 1000 * 1000 };
/* Copied collectives go through the window in pieces: the next one is moved before one is waited for, and all of them
 * stay in a core's cache. Below PAIR_MIN and SLICE_MIN floats what is saved by adding each float on one rank only is
 * less than another wait. */
enum { DEPTH = 4, AHEAD = 2, MIN_PART = 1024, PIECE = 16384, PAIR_MIN = 512, SLICE_MIN = 4096 };
enum { LINE = 64, LINE_WORDS = LINE / 4, FETCH_WORDS = 1024, FETCH_AHEAD = 8 * LINE_WORDS };

/* On a cache line of its own: written by one rank, read by others. */
struct counter {
    _Atomic uint64_t n;
    char apart[LINE - sizeof(uint64_t)];
};

/* Of a rank: rounds whose part is made, rounds whose slice it has summed, rounds that it has read. */
struct progress {
    struct counter posted, summed, done;
};

/* From one rank to a neighbour: words put in and taken out since the start. */
struct ring {
    struct counter put, taken;
};

/* The memory that all ranks map: this, then progress[size], ring[size - 1][2] (up, down), the parts
 * [size][DEPTH][part_words], the rings' words. */
struct shared {
    _Atomic uint32_t n_sleeping; /* ranks that may have to be woken */
    char apart[LINE - sizeof(uint32_t)];
    _Atomic uint32_t bell; /* counts what sleeping ranks may have waited for */
    char apart_too[LINE - sizeof(uint32_t)];
};

struct shm {
    struct sk_group group;
    struct sk_group_window window;
    struct shared *shared;
    struct progress *progress;
    struct ring *ring;
    float *part;
    uint32_t *room;
    size_t part_words, ring_words;
    uint64_t n_begun, n_posted, n_ended; /* rounds, of this rank */
    uint64_t n_summed;                   /* likewise; only those that are summed in slices */
    uint64_t all_ended;                  /* rounds that all ranks have ended, as far as seen */
    size_t n_word;                       /* of the last round begun */
    uint64_t spin_ns, busy_ns;
};

static size_t round_up(size_t n)
{
    return (n + LINE_WORDS - 1) / LINE_WORDS * LINE_WORDS;
}

/* Parts lie apart by more than they hold, so that the same places of two do not meet in the same set of a cache. */
static size_t part_words(const struct sk_group_shm_conf *c)
{
    return round_up(c->window_words > MIN_PART ? c->window_words : MIN_PART) + 33 * LINE_WORDS;
}

static size_t n_ring(const struct sk_group_shm_conf *c)
{
    return 2 * (size_t)(c->size - 1);
}

size_t sk_group_shm_bytes(const struct sk_group_shm_conf *c)
{
    return sizeof(struct shared) + (size_t)c->size * sizeof(struct progress) + n_ring(c) * sizeof(struct ring) +
           ((size_t)c->size * DEPTH * part_words(c) + n_ring(c) * round_up(c->room_words)) * sizeof(float);
}

static struct shm *of(struct sk_group *g)
{
    return g->ctx;
}

/* ---- waiting ---- */

static void add_time(struct shm *s, uint64_t from_ns)
{
    s->busy_ns += sk_clock_ns() - from_ns;
    s->group.collective_us = s->busy_ns / 1000;
}

static uint64_t look(struct counter *c)
{
    return atomic_load_explicit(&c->n, memory_order_acquire);
}

/* No fence between the two: it would cost more than a part's way to another core. So a rank that goes to sleep just now
 * may be missed, and no sleep is longer than SLEEP_NS. */
static void advance(struct shm *s, struct counter *c, uint64_t n)
{
    atomic_store_explicit(&c->n, n, memory_order_release);
    if (atomic_load_explicit(&s->shared->n_sleeping, memory_order_relaxed) == 0)
        return;
    atomic_fetch_add(&s->shared->bell, 1);
    syscall(SYS_futex, &s->shared->bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void sleep_until(struct shm *s, struct counter *c, uint64_t least)
{
    const struct timespec most = {.tv_nsec = SLEEP_NS};
    atomic_fetch_add(&s->shared->n_sleeping, 1);
    for (;;) {
        const uint32_t bell = atomic_load(&s->shared->bell);
        if (look(c) >= least)
            break;
        syscall(SYS_futex, &s->shared->bell, FUTEX_WAIT, bell, &most, NULL, 0);
    }
    atomic_fetch_sub(&s->shared->n_sleeping, 1);
}

static bool spin_until(struct counter *c, uint64_t least)
{
    for (int i = 0; i < SPINS; i++) {
        if (look(c) >= least)
            return true;
        __builtin_ia32_pause();
    }
    return false;
}

static bool yield_until(struct counter *c, uint64_t least, uint64_t until_ns)
{
    while (sk_clock_ns() < until_ns) {
        sched_yield();
        if (look(c) >= least)
            return true;
    }
    return false;
}

/* Ranks that share CPUs learn not to spin: what is waited for may need this CPU. */
static void wait_long(struct shm *s, struct counter *c, uint64_t least)
{
    const uint64_t start = sk_clock_ns();
    uint64_t now = start;
    while (now < start + s->spin_ns && !spin_until(c, least))
        now = sk_clock_ns();
    if (now < start + s->spin_ns) {
        s->spin_ns = s->spin_ns < MAX_SPIN_NS ? s->spin_ns * 2 : MAX_SPIN_NS;
    } else {
        s->spin_ns = s->spin_ns > MIN_SPIN_NS ? s->spin_ns / 2 : MIN_SPIN_NS;
        if (!yield_until(c, least, now + YIELD_NS))
            sleep_until(s, c, least);
    }
    add_time(s, start);
}

/* What the counter stands at, at least `least`. */
static uint64_t wait_for(struct shm *s, struct counter *c, uint64_t least)
{
    if (!spin_until(c, least))
        wait_long(s, c, least);
    return look(c);
}

/* ---- rounds ---- */

static float *part_of(const struct shm *s, int rank, uint64_t round)
{
    return s->part + ((size_t)rank * DEPTH + round % DEPTH) * s->part_words;
}

/* Rounds that all ranks must have ended before the next one begins; they are looked at only when it is not known. */
static uint64_t must_have_ended(const struct shm *s)
{
    return s->n_begun + 1 > DEPTH ? s->n_begun + 1 - DEPTH : 0;
}

static float *round_begin(struct shm *s, size_t n)
{
    s->n_word = n;
    const uint64_t least = must_have_ended(s);
    if (s->all_ended < least) {
        uint64_t all = UINT64_MAX;
        for (int r = 0; r < s->group.size; r++) {
            const uint64_t ended = wait_for(s, &s->progress[r].done, least);
            all = ended < all ? ended : all;
        }
        s->all_ended = all;
    }
    return part_of(s, s->group.rank, s->n_begun++);
}

/* Asks for a line that other ranks have, to be written: it is no wait. Does nothing on a CPU without the instruction.
 */
static void fetch_line(const float *x)
{
    __asm__ volatile("prefetchw %0" : : "m"(*x));
}

/* The lines of the next part, which others have read, come back while this rank waits for this one's sum. */
static void fetch_next(const struct shm *s, size_t n)
{
    const float *next = part_of(s, s->group.rank, s->n_begun);
    for (size_t i = 0; i < n && i < FETCH_WORDS; i += LINE_WORDS)
        fetch_line(next + i);
}

static void round_post(struct shm *s)
{
    advance(s, &s->progress[s->group.rank].posted, ++s->n_posted);
    fetch_next(s, s->n_word);
}

static void round_wait(struct shm *s, const float **ret_part)
{
    for (int r = 0; r < s->group.size; r++) {
        wait_for(s, &s->progress[r].posted, s->n_ended + 1);
        ret_part[r] = part_of(s, r, s->n_ended);
    }
}

static void round_end(struct shm *s)
{
    advance(s, &s->progress[s->group.rank].done, ++s->n_ended);
}

/* ---- the window ---- */

static float *window_begin(struct sk_group *g, size_t n)
{
    sk_assert(n <= of(g)->window.max && of(g)->n_begun - of(g)->n_ended < DEPTH);
    return round_begin(of(g), n);
}

static void window_post(struct sk_group *g)
{
    sk_assert(of(g)->n_posted < of(g)->n_begun);
    round_post(of(g));
}

static void window_wait(struct sk_group *g, const float **ret_part)
{
    sk_assert(of(g)->n_ended < of(g)->n_posted);
    round_wait(of(g), ret_part);
}

static void window_end(struct sk_group *g)
{
    sk_assert(of(g)->n_ended < of(g)->n_posted);
    round_end(of(g));
}

/* ---- collectives ---- */

/* At any float's address. */
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

static void add(float *out, const float *a, const float *b, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        *(eight *)(out + i) = *(const eight *)(a + i) + *(const eight *)(b + i);
    for (; i < n; i++)
        out[i] = a[i] + b[i];
}

/* In the order of the ranks. */
static void sum(float *out, const float *const *part, int size, size_t from, size_t n)
{
    enum { BLOCK = 1024 }; /* stays in the first cache */
    for (size_t i = from; i < from + n; i += BLOCK) {
        const size_t m = from + n - i < BLOCK ? from + n - i : BLOCK;
        add(out + i, part[0] + i, part[1] + i, m);
        for (int r = 2; r < size; r++)
            add(out + i, out + i, part[r] + i, m);
    }
}

static size_t piece_words(const struct shm *s)
{
    return s->part_words < PIECE ? s->part_words : PIECE;
}

static void put_piece(struct shm *s, const void *src, size_t n)
{
    memcpy(round_begin(s, n), src, n * sizeof(float));
    round_post(s);
}

/* Each rank adds up a slice of all parts, and shows it in its own, where nobody else reads that slice before. */
static void sum_slices(struct shm *s, float *out, const float **part, size_t n)
{
    const int size = s->group.size, rank = s->group.rank;
    const size_t slice = round_up((n + (size_t)size - 1) / (size_t)size);
    for (int i = 0; i < size; i++) {
        const int r = (rank + i) % size; /* the own one first */
        const size_t at = (size_t)r * slice < n ? (size_t)r * slice : n;
        const size_t m = slice < n - at ? slice : n - at;
        if (i == 0) {
            sum(out, part, size, at, m);
            memcpy(part_of(s, rank, s->n_ended) + at, out + at, m * sizeof(float));
            advance(s, &s->progress[rank].summed, ++s->n_summed);
        } else {
            wait_for(s, &s->progress[r].summed, s->n_summed);
            memcpy(out + at, part[r] + at, m * sizeof(float));
        }
    }
}

static void end_piece(struct shm *s, float *out, size_t n)
{
    const float *part[SK_GROUP_MAX];
    round_wait(s, part);
    if (s->group.size > 2 && n >= SLICE_MIN)
        sum_slices(s, out, part, n);
    else
        sum(out, part, s->group.size, 0, n);
    round_end(s);
}

/* A call that counts as a whole, the waits in it once. */
struct call {
    uint64_t from_ns, busy_ns;
};

static struct call enter(const struct shm *s)
{
    return (struct call){sk_clock_ns(), s->busy_ns};
}

static int leave(struct shm *s, struct call c)
{
    s->busy_ns = c.busy_ns;
    add_time(s, c.from_ns);
    return 0;
}

/* Those below go through the window's rounds: none of them is open. */
static struct call enter_rounds(const struct shm *s)
{
    sk_assert(s->n_begun == s->n_ended);
    return enter(s);
}

/* ---- two ranks, many floats ---- */

/* Each rank puts the half that the other one adds up into its own part; the other one leaves the sum there. What takes
 * time is how often a line goes from core to core: here twice, and who reads it takes it over for writing, so that
 * nobody has to be asked again. */
struct pair {
    struct shm *s;
    float *x;
    size_t n, piece;
    uint64_t round, n_summed; /* of the first piece; sums before it */
};

struct half {
    float *x, *part; /* in the buffer and in the part of who gives it */
    size_t n;
};

/* Of piece k, that which `rank` adds up. */
static struct half half_of(const struct pair *p, size_t k, int rank)
{
    const size_t at = k * p->piece, n = p->n - at < p->piece ? p->n - at : p->piece;
    const size_t low = round_up(n / 2) < n ? round_up(n / 2) : n, from = rank ? low : 0;
    return (struct half){p->x + at + from, part_of(p->s, !rank, p->round + k) + from, rank ? n - low : low};
}

static void give(const struct pair *p, size_t k)
{
    const struct half h = half_of(p, k, !p->s->group.rank);
    round_begin(p->s, 0);
    memcpy(h.part, h.x, h.n * sizeof(float));
    round_post(p->s);
}

/* x and part: the sum of both. It has the same bits in either order. */
static void add_here(float *x, float *part, size_t n)
{
    size_t i = 0;
    for (; i + LINE_WORDS <= n; i += LINE_WORDS) {
        const eight low = *(eight *)(x + i) + *(eight *)(part + i);
        const eight high = *(eight *)(x + i + 8) + *(eight *)(part + i + 8);
        fetch_line(part + i + FETCH_AHEAD);
        *(eight *)(x + i) = *(eight *)(part + i) = low;
        *(eight *)(x + i + 8) = *(eight *)(part + i + 8) = high;
    }
    add(x + i, x + i, part + i, n - i);
    memcpy(part + i, x + i, (n - i) * sizeof(float));
}

static void take_over(float *x, const float *part, size_t n)
{
    size_t i = 0;
    for (; i + LINE_WORDS <= n; i += LINE_WORDS) {
        fetch_line(part + i + FETCH_AHEAD);
        *(eight *)(x + i) = *(const eight *)(part + i);
        *(eight *)(x + i + 8) = *(const eight *)(part + i + 8);
    }
    memcpy(x + i, part + i, (n - i) * sizeof(float));
}

static void sum_half(const struct pair *p, size_t k)
{
    const struct half h = half_of(p, k, p->s->group.rank);
    struct progress *own = &p->s->progress[p->s->group.rank], *other = &p->s->progress[!p->s->group.rank];
    wait_for(p->s, &other->posted, p->round + k + 1);
    add_here(h.x, h.part, h.n);
    advance(p->s, &own->summed, ++p->s->n_summed);
}

static void take(const struct pair *p, size_t k)
{
    const struct half h = half_of(p, k, !p->s->group.rank);
    wait_for(p->s, &p->s->progress[!p->s->group.rank].summed, p->n_summed + k + 1);
    take_over(h.x, h.part, h.n);
    round_end(p->s);
}

static void reduce_pair(struct shm *s, float *x, size_t n)
{
    const struct pair p = {s, x, n, piece_words(s), s->n_begun, s->n_summed};
    const size_t n_piece = (n + p.piece - 1) / p.piece;
    for (size_t k = 0; k < n_piece + 2; k++) {
        if (k < n_piece)
            give(&p, k);
        if (k >= 1 && k <= n_piece)
            sum_half(&p, k - 1);
        if (k >= 2)
            take(&p, k - 2);
    }
}

/* ---- any number ---- */

static void reduce_pieces(struct shm *s, float *x, size_t n)
{
    const size_t piece = piece_words(s);
    for (size_t in = 0, out = 0, m; out < n;) {
        if (in < n && s->n_begun - s->n_ended < AHEAD) {
            m = n - in < piece ? n - in : piece;
            put_piece(s, x + in, m);
            in += m;
            continue;
        }
        m = n - out < piece ? n - out : piece;
        end_piece(s, x + out, m);
        out += m;
    }
}

static int all_reduce(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    float *x = (float *)(uintptr_t)buf;
    struct shm *s = of(g);
    const struct call call = enter_rounds(s);
    if (g->size == 2 && n >= PAIR_MIN)
        reduce_pair(s, x, n);
    else if (g->size > 1)
        reduce_pieces(s, x, n);
    return leave(s, call);
}

static int all_gather(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    float *to = (float *)(uintptr_t)dst;
    const float *own = (const float *)(uintptr_t)src;
    const float *part[SK_GROUP_MAX];
    struct shm *s = of(g);
    const struct call call = enter_rounds(s);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < piece_words(s) ? n - at : piece_words(s);
        put_piece(s, own + at, m);
        round_wait(s, part);
        for (int r = 0; r < g->size; r++)
            if (r != g->rank || to + (size_t)r * n != own)
                memcpy(to + (size_t)r * n + at, part[r], m * sizeof(float));
        round_end(s);
    }
    return leave(s, call);
}

static int bcast(struct sk_group *g, void *host, size_t bytes, int root)
{
    const float *part[SK_GROUP_MAX];
    struct shm *s = of(g);
    const struct call call = enter_rounds(s);
    const size_t piece = piece_words(s) * sizeof(float);
    for (size_t at = 0, m; at < bytes; at += m) {
        m = bytes - at < piece ? bytes - at : piece;
        float *own = round_begin(s, m / sizeof(float));
        if (g->rank == root)
            memcpy(own, (char *)host + at, m);
        round_post(s);
        round_wait(s, part);
        if (g->rank != root)
            memcpy((char *)host + at, part[root], m);
        round_end(s);
    }
    return leave(s, call);
}

static int barrier(struct sk_group *g)
{
    const float *part[SK_GROUP_MAX];
    struct shm *s = of(g);
    const struct call call = enter_rounds(s);
    round_begin(s, 0);
    round_post(s);
    round_wait(s, part);
    round_end(s);
    return leave(s, call);
}

/* ---- neighbours ---- */

/* The ring from `from` to `to`: for each neighbouring pair one up, one down. */
static struct ring *ring_of(struct shm *s, int from, int to, uint32_t **ret_words)
{
    sk_assert(s->ring_words > 0 && (to == from + 1 || from == to + 1));
    const size_t i = 2 * (size_t)(from < to ? from : to) + (from > to);
    *ret_words = s->room + i * s->ring_words;
    return &s->ring[i];
}

/* Words from `at` up to where the ring begins anew, at most n. */
static size_t until_turn(const struct shm *s, uint64_t at, size_t n)
{
    const size_t left = s->ring_words - at % s->ring_words;
    return left < n ? left : n;
}

static int send(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to)
{
    const uint32_t *x = (const uint32_t *)(uintptr_t)src;
    struct shm *s = of(g);
    const struct call call = enter(s);
    uint32_t *words;
    struct ring *ring = ring_of(s, g->rank, to, &words);
    uint64_t put = atomic_load_explicit(&ring->put.n, memory_order_relaxed);
    while (n > 0) {
        size_t m = until_turn(s, put, n < s->ring_words / 4 ? n : s->ring_words / 4);
        wait_for(s, &ring->taken, put + m > s->ring_words ? put + m - s->ring_words : 0);
        memcpy(words + put % s->ring_words, x, m * sizeof *x);
        put += m;
        advance(s, &ring->put, put);
        x += m;
        n -= m;
    }
    return leave(s, call);
}

static int recv(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from)
{
    uint32_t *x = (uint32_t *)(uintptr_t)dst;
    struct shm *s = of(g);
    const struct call call = enter(s);
    uint32_t *words;
    struct ring *ring = ring_of(s, from, g->rank, &words);
    uint64_t taken = atomic_load_explicit(&ring->taken.n, memory_order_relaxed);
    while (n > 0) {
        wait_for(s, &ring->put, taken + 1);
        const uint64_t there = atomic_load_explicit(&ring->put.n, memory_order_acquire) - taken;
        const size_t m = until_turn(s, taken, there < n ? (size_t)there : n);
        memcpy(x, words + taken % s->ring_words, m * sizeof *x);
        taken += m;
        advance(s, &ring->taken, taken);
        x += m;
        n -= m;
    }
    return leave(s, call);
}

/* ---- opening ---- */

static void group_close(struct sk_group *g)
{
    sk_free(of(g));
}

static void place(struct shm *s, const struct sk_group_shm_conf *c, void *mem)
{
    s->shared = mem;
    s->progress = (struct progress *)(s->shared + 1);
    s->ring = (struct ring *)(s->progress + c->size);
    s->part = (float *)(s->ring + n_ring(c));
    s->part_words = part_words(c);
    s->room = (uint32_t *)(s->part + (size_t)c->size * DEPTH * s->part_words);
    s->ring_words = round_up(c->room_words);
}

int sk_group_shm(const struct sk_group_shm_conf *conf, void *mem, struct sk_group **ret)
{
    sk_assert(conf->size >= 1 && conf->size <= SK_GROUP_MAX && conf->rank >= 0 && conf->rank < conf->size);
    struct shm *s = sk_malloc(sizeof *s);
    if (!s)
        return -SK_ENOMEM;
    *s = (struct shm){
        .window = {.max = conf->window_words,
                   .depth = DEPTH,
                   .begin = window_begin,
                   .post = window_post,
                   .wait = window_wait,
                   .end = window_end},
        .group = {.rank = conf->rank,
                  .size = conf->size,
                  .ctx = s,
                  .window = conf->window_words ? &s->window : NULL,
                  .all_reduce = all_reduce,
                  .all_gather = all_gather,
                  .send = send,
                  .recv = recv,
                  .bcast = bcast,
                  .barrier = barrier,
                  .close = group_close},
        .spin_ns = MAX_SPIN_NS,
    };
    place(s, conf, mem);
    *ret = &s->group;
    return 0;
}
