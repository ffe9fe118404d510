#define _GNU_SOURCE /* memfd_create */
#include "comm/wire/board.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct sk_board_seat) == 16 && sizeof(struct sk_board_head) == 80,
               "two processes of one build share these, and segments begin 8-byte aligned");

static size_t seats_bytes(uint32_t max_seat)
{
    return (size_t)max_seat * sizeof(struct sk_board_seat);
}

static size_t board_bytes(uint32_t max_seat, size_t segment_bytes)
{
    return sizeof(struct sk_board_head) + seats_bytes(max_seat) + SK_BOARD_SEGMENTS * segment_bytes;
}

static int map(int fd, size_t bytes, struct sk_board *ret, struct sk_err *err)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return sk_err_errno(err, SK_ENOMEM, NULL, "cannot map the board of %zu bytes", bytes);
    *ret = (struct sk_board){.head = p, .seat = (void *)((struct sk_board_head *)p + 1), .bytes = bytes};
    return 0;
}

int sk_board_make(uint32_t max_seat, uint32_t max_plan, size_t segment_bytes, int *ret_fd, struct sk_board *ret,
                  struct sk_err *err)
{
    segment_bytes = max_plan ? segment_bytes & ~(size_t)7 : 0;
    size_t bytes = board_bytes(max_seat, segment_bytes);
    struct sk_board b;
    int rc, fd = memfd_create("skein-board", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot make the board that is shared with the engine");
    else
        rc = map(fd, bytes, &b, err);
    if (rc) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    b.max_seat = b.head->max_seat = max_seat;
    b.max_plan = b.head->max_plan = max_plan;
    b.segment_bytes = b.head->segment_bytes = segment_bytes;
    b.head->magic = SK_BOARD_MAGIC;
    b.head->version = SK_BOARD_VERSION;
    *ret = b;
    *ret_fd = fd;
    return 0;
}

int sk_board_map(int fd, struct sk_board *ret, struct sk_err *err)
{
    struct stat st;
    struct sk_board b;
    if (fstat(fd, &st) != 0)
        return sk_err_errno(err, SK_EIO, "board-fd", "--board-fd %d", fd);
    if (st.st_size < (off_t)sizeof(struct sk_board_head))
        return sk_err_set(err, SK_EPROTO, "board-fd", "--board-fd %d: too short for a board", fd);
    int rc = map(fd, (size_t)st.st_size, &b, err);
    if (rc)
        return rc;
    const struct sk_board_head *h = b.head;
    if (h->magic != SK_BOARD_MAGIC || h->version != SK_BOARD_VERSION || h->segment_bytes > b.bytes ||
        h->segment_bytes % 8 || b.bytes != board_bytes(h->max_seat, h->segment_bytes)) {
        sk_board_unmap(&b);
        return sk_err_set(err, SK_EPROTO, "board-fd", "--board-fd %d is no board of this version", fd);
    }
    b.max_seat = h->max_seat;
    b.max_plan = h->max_plan;
    b.segment_bytes = h->segment_bytes;
    *ret = b;
    return 0;
}

void sk_board_unmap(struct sk_board *b)
{
    if (b->head)
        munmap(b->head, b->bytes);
    *b = (struct sk_board){0};
}

void sk_board_clear(struct sk_board *b)
{
    sk_board_end(b);
    b->head->step = 0;
    b->head->progress = 0;
    for (int i = 0; i < SK_BOARD_SEGMENTS; i++)
        sk_board_segment_begin(b, i);
}

/* ---- seats ---- */

/* Stores of one thread reach memory in their order even when the process ends in between; what the compiler must not do
 * is exchange them, hence release. */
static void store(_Atomic uint32_t *to, uint32_t x)
{
    atomic_store_explicit(to, x, memory_order_release);
}

void sk_board_begin(struct sk_board *b, uint64_t step, bool is_step)
{
    if (!b)
        return;
    store(&b->head->n_seat, 0);
    atomic_store_explicit(&b->head->step, step, memory_order_release);
    store(&b->head->is_in_step, is_step);
}

void sk_board_add(struct sk_board *b, uint64_t job, uint32_t choice)
{
    if (!b || b->head->n_seat >= b->max_seat)
        return;
    uint32_t n = b->head->n_seat;
    b->seat[n] = (struct sk_board_seat){.job = job, .choice = choice};
    store(&b->head->n_seat, n + 1);
}

void sk_board_end(struct sk_board *b)
{
    if (!b)
        return;
    store(&b->head->is_in_step, 0);
    store(&b->head->n_seat, 0);
}

uint32_t sk_board_seats(const struct sk_board *b)
{
    uint32_t n = b->head->n_seat;
    return n < b->max_seat ? n : b->max_seat;
}

bool sk_board_in_step(const struct sk_board *b)
{
    return b->head->is_in_step;
}

uint64_t sk_board_progress(const struct sk_board *b)
{
    return atomic_load_explicit(&b->head->progress, memory_order_relaxed);
}

/* ---- segments ---- */

char *sk_board_segment_data(const struct sk_board *b, int which)
{
    return (char *)b->seat + seats_bytes(b->max_seat) + (size_t)which * b->segment_bytes;
}

void sk_board_segment_begin(struct sk_board *b, int which)
{
    atomic_store_explicit(&b->head->segment[which].number, 0, memory_order_seq_cst);
    atomic_store_explicit(&b->head->segment[which].n_byte, 0, memory_order_seq_cst);
}

void sk_board_segment_grow(struct sk_board *b, int which, size_t n)
{
    atomic_store_explicit(&b->head->segment[which].n_byte, n, memory_order_release);
}

void sk_board_segment_open(struct sk_board *b, int which, size_t n)
{
    sk_board_segment_grow(b, which, n);
    atomic_store_explicit(&b->head->segment[which].number, ++b->last_number, memory_order_seq_cst);
}

int sk_board_copy_segment(const struct sk_board *b, int index, struct sk_buf *out, uint64_t *ret_number)
{
    uint64_t number[SK_BOARD_SEGMENTS] = {0};
    for (int i = 0; i < SK_BOARD_SEGMENTS && b->segment_bytes; i++)
        number[i] = atomic_load_explicit(&b->head->segment[i].number, memory_order_acquire);
    int newer = number[1] > number[0], which = index ? newer : !newer;
    if (number[which] == 0)
        return 0;
    const struct sk_board_segment *s = &b->head->segment[which];
    uint64_t n = atomic_load_explicit(&s->n_byte, memory_order_acquire);
    size_t before = out->n;
    int rc = sk_buf_add(out, sk_board_segment_data(b, which), n < b->segment_bytes ? n : b->segment_bytes);
    if (rc)
        return rc;
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&s->number, memory_order_relaxed) != number[which]) {
        out->n = before;
        return -SK_EAGAIN;
    }
    *ret_number = number[which];
    return 1;
}
