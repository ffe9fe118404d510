/* Makes the bytes of one tensor by its recipe. */
#ifndef SK_BUILD_BAKE_H
#define SK_BUILD_BAKE_H
#include "comm/base/err.h"
#include "comm/dir/pack.h"
#include "engine/build/quant.h"
#include "engine/build/recipe.h"

/* A vector: r->n_out floats; the padding that follows them in `data` is left alone. */
int sk_bake_vector(const struct sk_recipe *r, float *data, struct sk_err *err);

/* A matrix, packed as `p` into p->bytes of zeros, by n_thread threads (each does some of the panels). -SK_EFORMAT: a
 * value is not finite, or its scale is not in f16. */
int sk_bake_matrix(const struct sk_recipe *r, const struct sk_quant_choice *c, const struct sk_pack *p, void *data,
                   unsigned n_thread, struct sk_err *err);

#endif
