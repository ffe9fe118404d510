/* The flight recorder: the last plans and their rows, in the board's segments, each of which replays alone.
 *
 * A segment begins with what its plans go on from: for each running sequence the keys and values of what it has
 * computed, then its slot; a slot that the next plan closes is opened, empty. And before an admission that hits cached
 * blocks which no plan of this segment has computed come plans that compute those. Recomputed positions have the bits
 * that they had (design: same request, same bits), as long as each is computed in its class.
 *
 * What computes cached blocks runs in a slot that the engine does not have, the last one of the replay's rank; and
 * where a group has a window, blocks that were given up behind it are played by blocks that the engine does not have
 * either. So the head of a segment asks for a rank with one slot more, and with windows for more blocks.
 *
 * Plans may be under way together: rows follow in the order of their plans. A segment begins when none is.
 *
 * Owner: leader control thread. A step is some memcpy into shared memory: no allocation, no system call. */
#ifndef SK_FLIGHT_H
#define SK_FLIGHT_H
#include "comm/wire/board.h"
#include "engine/batch/loop.h"
#include "engine/batch/record.h"

struct sk_flight;

/* Blocks that a replay's rank needs besides the engine's kv.n_blk[g]. */
uint32_t sk_flight_spare(const struct sk_kvpool_conf *kv, uint32_t g, uint32_t max_len, uint32_t max_row);
/* board: mapped, with segments; borrowed. head: of the replay, with max_seqs + 1 slots and the spare blocks. loop: what
 * the batch manager is opened with. -SK_EINVAL: a segment does not even hold a head, or head has too few blocks;
 * -SK_ENOMEM. */
int sk_flight_open(struct sk_board *board, const struct sk_record_head *head, const struct sk_loop_conf *loop,
                   struct sk_flight **ret, struct sk_err *err);
void sk_flight_close(struct sk_flight *f);

/* While plans are under way, when a step is decided and nothing is done yet: does it need plans of the recorder's own
 * before it? Those go on from a state in which nothing is under way, so the step waits till then. */
bool sk_flight_waits(struct sk_flight *f, const struct sk_loop *l);
/* In each step, when it is decided and nothing is done yet: makes room for the plan to come, begins a new segment where
 * there is none, and writes what the admissions' hits need. Where a segment does not hold even that, nothing is
 * recorded until it does, which is said once. */
void sk_flight_prepare(struct sk_flight *f, const struct sk_loop *l);
/* l->plan, before it runs. */
void sk_flight_plan(struct sk_flight *f, const struct sk_loop *l);
void sk_flight_rows(struct sk_flight *f, const struct sk_result_row *rows, uint32_t n);

#endif
