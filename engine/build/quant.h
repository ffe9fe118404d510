/* Values of a checkpoint's number types, and which type each tensor of the engine directory gets. */
#ifndef SK_BUILD_QUANT_H
#define SK_BUILD_QUANT_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/dir/pack.h"
#include "engine/build/recipe.h"

/* n values of a readable type as f32, exactly as ggml-quants.c defines them; n is whole blocks. `data` need not be
 * aligned. */
void sk_quant_read(uint32_t type, const uint8_t *data, uint64_t n, float *ret);

/* The pack dtype that holds every value of a readable type exactly. */
enum sk_dtype sk_quant_exact(uint32_t type);

/* n blocks of Q4_0, Q4_1 or Q8_0 as blocks of the pack dtype that holds them exactly, or Q4_0 as q4: its d * (q - 8)
 * becomes d * q + m with m = -8 d, exact in f16 unless it overflows. */
void sk_quant_blocks(uint32_t type, enum sk_dtype dtype, const uint8_t *data, uint64_t n, struct sk_block *ret);

/* What becomes of a tensor. */
struct sk_quant_choice {
    enum sk_dtype dtype;
    bool blocks;   /* source blocks are taken over as they are */
    char note[96]; /* why it is not the type that was asked for; "" = it is */
};
/* `mode` is a value of option dtype: "keep" or a dtype's name. Vectors become f32. */
void sk_quant_choose(const struct sk_recipe *r, const char *mode, struct sk_quant_choice *ret);

/* The slab of a matrix of that dtype: all of n_in, or, where ranks cut the inputs, equal ones that begin at multiples
 * of the recipe's cut unit and of the dtype's block: enough for each of n_cut ranks to have one, up to 16 or as many
 * where that gives more, and multiples of 64, or else of a panel's 16, where these are enough. */
uint32_t sk_quant_slab(const struct sk_recipe *r, enum sk_dtype dtype);

#endif
