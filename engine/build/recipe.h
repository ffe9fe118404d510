/* A recipe says how one tensor of the engine directory is made of tensors of the checkpoint. Vectors are matrices with
 * one column. */
#ifndef SK_BUILD_RECIPE_H
#define SK_BUILD_RECIPE_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/dir/dir.h"
#include "engine/build/src.h"

enum { SK_RECIPE_PARTS = 3 };

/* n_row rows of `t`, from row `first`. In the target they begin at row out_at, and every `run` of them at a multiple of
 * `stride` rows further (a head and its padding). */
struct sk_recipe_part {
    const struct sk_src_tensor *t;
    uint32_t first, n_row, out_at, run, stride;
    bool transposed; /* stored as [in, out] */
    bool rotary;     /* the rows of a run are in the order of interleaved rotary: 0, half, 1, half + 1 ... */
};

struct sk_recipe {
    char name[SK_DIR_NAME_MAX];
    bool vector;
    bool lookup; /* embedding or head: keeps more bits */
    bool exact;  /* f32 whatever was asked for */
    enum sk_split split;
    uint32_t cut_unit; /* as in sk_dir_entry; SPLIT_IN: the least, before the dtype's block */
    uint32_t n_cut;    /* SPLIT_IN: ranks that there may be */
    uint32_t n_out, n_in;
    uint32_t src_in, in_run, in_stride; /* columns in the source; runs of in_run come to lie in_stride apart */
    uint32_t n_part;
    struct sk_recipe_part parts[SK_RECIPE_PARTS];
    const float *values; /* no parts: these n_out numbers (owned by sk_recipes) */
};

struct sk_recipes {
    struct sk_recipe *list;
    uint32_t n, cap;
    float *inv_freq;
};

void sk_recipes_done(struct sk_recipes *r);

/* The part and its row that become row `out`; NULL = padding. */
const struct sk_recipe_part *sk_recipe_row(const struct sk_recipe *r, uint32_t out, uint32_t *ret_row);

#endif
