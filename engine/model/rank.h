/* The inside of struct sk_rank (step.h): for rank.c, step.c and selftest.c only. */
#ifndef SK_RANK_H
#define SK_RANK_H
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/model/scratch.h"
#include "engine/model/slot.h"
#include "engine/model/step.h"
#include "engine/model/vote.h"

/* Index arrays of a step: filled on the host, sent in one upload. */
struct sk_rank_staging {
    char *host;
    struct sk_dev dev;
    uint64_t used, size;
};

struct sk_rank {
    struct sk_rank_conf conf;
    const struct sk_dir *dir;
    const struct sk_weights *w;
    struct sk_backend *be;
    struct sk_grid grid;   /* as given; one stage where it has no pp */
    struct sk_group *self; /* owned; NULL where the caller gave a group */
    struct sk_model model;
    struct sk_kv kv;
    struct sk_slots slots;
    struct sk_scratch scratch;
    struct sk_vote vote; /* of ranks that have a part of the logits each */
    struct sk_rank_staging staging;
    struct sk_dev result_dev;     /* struct sk_result_row [max_result], and room for a checksum */
    struct sk_result_row *result; /* the same on the host */
    uint32_t n_result;            /* of the last step */
    bool sum_due;                 /* a checksum of sum_step is behind these */
    uint64_t sum_step;
    struct sk_rank_times times;
    _Atomic uint64_t *progress; /* borrowed; NULL = nobody looks */
};

uint64_t sk_rank_staging_bytes(const struct sk_rank_conf *c); /* of the largest step */

#endif
