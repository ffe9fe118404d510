#include "engine/build/recipe.h"
#include "comm/base/mem.h"

void sk_recipes_done(struct sk_recipes *r)
{
    sk_free(r->list);
    sk_free(r->inv_freq);
    *r = (struct sk_recipes){0};
}

const struct sk_recipe_part *sk_recipe_row(const struct sk_recipe *r, uint32_t out, uint32_t *ret_row)
{
    for (uint32_t i = 0; i < r->n_part; i++) {
        const struct sk_recipe_part *p = &r->parts[i];
        if (out < p->out_at || (out - p->out_at) / p->stride >= p->n_row / p->run)
            continue;
        uint32_t run = (out - p->out_at) / p->stride, k = (out - p->out_at) % p->stride, half = p->run / 2;
        if (k >= p->run)
            return NULL;
        if (p->rotary)
            k = 2 * (k % half) + k / half;
        *ret_row = p->first + run * p->run + k;
        return p;
    }
    return NULL;
}
