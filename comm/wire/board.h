/* The board: memory that the daemon and the leader of an engine on its host share (a memfd that the daemon makes and
 * the leader inherits), so that it outlives the leader. The leader writes on it what it is about to do; when it has
 * crashed, the daemon reads from it who was on board, and what the last steps were.
 *
 *   struct sk_board_head | seat [max_seat] | segment 0 | segment 1
 *
 * Seats: while the leader decides what runs, the list is all that may; then those that run in the step, until it is
 * over; while a frame of one job is taken in, that job alone; else it is empty. So after a crash the list is whom to
 * suspect, and an empty one blames nobody.
 *
 * Progress: a number that the leader counts up while it works inside a step, so that a long step is not taken for one
 * that hangs. What it counts is the leader's matter (engine/model/step.h); that it moves is all that it says.
 *
 * Segments: the flight recorder. Each is a recording as engine/batch/record.h defines it, head included, that can be
 * replayed alone: it begins with what rebuilds the sequences and the cached blocks that its plans go on from. The
 * leader fills the current one, and when it is full or has as many plans as it may begins the other anew; so the last
 * N to 2 N plans are there. `n_byte` moves on after a whole record was written; `number` is 0 while a segment is
 * begun. The reader is another process, which may look at any time: it copies what is there and then looks whether
 * `number` is still the same. It takes no number on the board on trust: a leader that went wild may have written
 * anywhere. */
#ifndef SK_BOARD_H
#define SK_BOARD_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

#define SK_BOARD_MAGIC   0x44524f42u /* "BORD" */
#define SK_BOARD_VERSION 2
enum { SK_BOARD_SEGMENTS = 2 };

struct sk_board_seat {
    uint64_t job;          /* as in PROMPT */
    uint32_t choice, zero; /* choice: SK_WIRE_ALL while PROMPT, or a CANCEL of all, is taken in */
};
struct sk_board_segment {
    _Atomic uint64_t number; /* 1, 2, ... in the order they were begun; 0 = empty */
    _Atomic uint64_t n_byte;
};
struct sk_board_head {
    uint32_t magic, version;
    uint32_t max_seat, max_plan;
    uint64_t segment_bytes;    /* room of each segment; 0 = no flight recorder */
    _Atomic uint64_t step;     /* that runs, or ran last */
    _Atomic uint64_t progress; /* moves while a step runs */
    _Atomic uint32_t n_seat, is_in_step;
    struct sk_board_segment segment[SK_BOARD_SEGMENTS];
};

struct sk_board { /* a mapping of it */
    struct sk_board_head *head;
    struct sk_board_seat *seat;
    size_t bytes;
    uint32_t max_seat, max_plan; /* as in the head when it was made or mapped */
    size_t segment_bytes;
    uint64_t last_number; /* of a segment that was opened through this mapping */
};

/* The daemon's side: makes the memory; *ret_fd is the caller's, close-on-exec. max_plan = 0: no flight recorder. Pages
 * of segments are taken as they are written. -SK_EIO, -SK_ENOMEM. */
int sk_board_make(uint32_t max_seat, uint32_t max_plan, size_t segment_bytes, int *ret_fd, struct sk_board *ret,
                  struct sk_err *err);
/* The leader's: maps an inherited one, whose sizes are checked against its length. -SK_EPROTO, -SK_EIO. */
int sk_board_map(int fd, struct sk_board *ret, struct sk_err *err);
void sk_board_unmap(struct sk_board *b); /* of a zeroed one: nothing */
/* For the next engine: nobody is on board, and the segments are empty. */
void sk_board_clear(struct sk_board *b);

/* The leader: who is on board. Beyond max_seat the list is cut. A frame is taken in with the number of the last step,
 * and is no step. Without a board (NULL) nothing happens. */
void sk_board_begin(struct sk_board *b, uint64_t step, bool is_step);
void sk_board_add(struct sk_board *b, uint64_t job, uint32_t choice);
void sk_board_end(struct sk_board *b);
/* The daemon: how many are listed, at most max_seat; and whether a step was running. */
uint32_t sk_board_seats(const struct sk_board *b);
bool sk_board_in_step(const struct sk_board *b);
/* The daemon: where it differs from the last look, the leader is at work. 0 after clear. */
uint64_t sk_board_progress(const struct sk_board *b);

/* The leader: room of a segment, 8-byte aligned. From begin to open the segment is empty to readers; open gives it the
 * next number, grow says how many of its bytes are there. */
char *sk_board_segment_data(const struct sk_board *b, int which);
void sk_board_segment_begin(struct sk_board *b, int which);
void sk_board_segment_open(struct sk_board *b, int which, size_t n);
void sk_board_segment_grow(struct sk_board *b, int which, size_t n);

/* The daemon: the last segments, oldest first, as one file's bytes each; *ret_number tells them apart. 1 = appended to
 * `out`, 0 = there is none with that index (0 = older, 1 = newer), -SK_ETOOBIG, -SK_ENOMEM, -SK_EAGAIN: begun anew
 * while it was copied. */
int sk_board_copy_segment(const struct sk_board *b, int index, struct sk_buf *out, uint64_t *ret_number);

#endif
