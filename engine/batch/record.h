/* A recording of an engine: plans and their result rows, and what a replay needs to open the same ranks. All of them in
 * a file (--record), or the last ones in memory (flight.h). Little-endian:
 *
 *   struct sk_record_head, then records { uint32 kind, uint32 bytes } + body, bodies padded to 8:
 *   PLAN  the plan's bytes          ROWS  per row: id, logprob, rank, n_top, then n_top (id, logprob): 4 bytes each
 *
 * A plan is written before it runs, its rows after: a recording that ends with plans ends with what the engine was
 * doing. Where several plans were under way, rows follow in the order of their plans, each behind plans that were sent
 * before they came. */
#ifndef SK_RECORD_H
#define SK_RECORD_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/wire/plan.h"
#include "engine/model/crew.h"
#include "engine/model/step.h"

#define SK_RECORD_MAGIC "SKEINREC"
enum {
    SK_RECORD_VERSION = 2,
    SK_RECORD_MAX = 256 << 20, /* bytes of one record */
    SK_RECORD_MAX_AHEAD = 80   /* plans before the first one's rows */
};

struct sk_record_head {
    char magic[8];
    uint32_t version;
    uint16_t n_tp, n_pp; /* the grid of ranks; 0 counts as 1 */
    char digest[40];     /* of the engine directory */
    char isa[32];        /* backend/isa */
    struct sk_rank_conf conf;
    struct sk_plan_limits limits;
};

struct sk_record;
/* Creates the file (replacing one that is there). magic and version of `head` are filled in. -SK_EIO, -SK_ENOMEM. */
int sk_record_open(const char *path, const struct sk_record_head *head, uint32_t max_result, struct sk_record **ret,
                   struct sk_err *err);
/* One into memory, to which sk_record_begin gives a place. -SK_ENOMEM. */
int sk_record_new(const struct sk_record_head *head, uint32_t max_result, struct sk_record **ret, struct sk_err *err);
/* A recording begins at p: its head is written. */
void sk_record_begin(struct sk_record *r, char *p, size_t room);
size_t sk_record_size(const struct sk_record *r); /* bytes written in memory: whole records, after the head */
/* Bytes that the record of n_result rows takes at most. */
size_t sk_record_rows_bytes(uint32_t n_result);
/* A write that fails, or memory that does not suffice, ends the recording with one line in the log; the engine goes on.
 */
void sk_record_plan(struct sk_record *r, const void *plan, size_t n);
void sk_record_rows(struct sk_record *r, const struct sk_result_row *rows, uint32_t n);
void sk_record_close(struct sk_record *r);
/* Rows as they are in a record's body, appended to b. 0, -SK_ETOOBIG, -SK_ENOMEM. */
int sk_record_put_rows(struct sk_buf *b, const struct sk_result_row *rows, uint32_t n);

/* Reading. */
struct sk_player;
int sk_player_open(const char *path, struct sk_player **ret, struct sk_record_head *ret_head,
                   struct sk_err *err); /* -SK_EFORMAT, -SK_EIO, -SK_ENOENT */
/* The next plan, checked, and the rows that were recorded with it (NULL: the recording ends before them). 1, 0 at the
 * end, -SK_EFORMAT; valid until the next call. */
int sk_player_next(struct sk_player *p, const void **ret_plan, size_t *ret_n, const struct sk_buf **ret_rows,
                   struct sk_err *err);
const struct sk_plan_limits *sk_player_limits(const struct sk_player *p); /* of the head */
void sk_player_close(struct sk_player *p);

/* ---- replay.c ---- */

struct sk_replay_stats {
    uint64_t n_step, n_row;
    uint64_t n_bare; /* steps without recorded rows: where the recording breaks off in them, as when an engine dies */
    uint64_t n_row_differ, n_tok_differ; /* rows that are not the same; of these, rows of another token */
    double max_differ; /* the largest difference of a row's log-prob: each of the token that is in it */
};
/* Runs the rest of the recording on ranks opened as head says, and compares every row. exact: bit for bit, where ISA
 * and grid are those of the recording; -SK_EFORMAT: a difference, which err names. Else differences are counted, and
 * each plan goes on from the tokens that were recorded, whatever is drawn now: so one token that differs does not
 * change the text of those after it. */
int sk_replay(struct sk_player *p, struct sk_crew *crew, bool exact, struct sk_replay_stats *ret, struct sk_err *err);

#endif
