/* weights.skw -> table, rows. The table's checksum is set right first: else nothing behind it would ever be reached. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "comm/dir/dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

volatile float sk_fuzz_sink; /* what is read must not be optimised away */

/* Reads the first and the last row of a matrix. */
static float touch(const struct sk_weights *w, const struct sk_dir_entry *e)
{
    struct sk_pack p;
    float sum = 0;

    if (e->pack == SK_PACK_PLAIN)
        return ((const float *)sk_weights_data(w, e))[e->n_out - 1];
    if (e->n_in > 1 << 20 || sk_pack_layout(&p, (enum sk_dtype)e->dtype, e->n_out, e->n_in, e->slab_k))
        return 0;
    float *row = malloc(e->n_in * sizeof *row);
    if (row) {
        sk_pack_get_row(&p, sk_weights_data(w, e), 0, row);
        sk_pack_get_row(&p, sk_weights_data(w, e), e->n_out - 1, row);
        sum = row[e->n_in - 1];
    }
    free(row);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_weights w;
    struct sk_err err;
    uint8_t *copy = aligned_alloc(64, (n + 64) & ~(size_t)63); /* as aligned as a mapping */
    struct sk_dir_head h;

    if (!copy)
        return 0;
    memcpy(copy, data, n);
    if (n >= sizeof h) {
        memcpy(&h, copy, sizeof h);
        h.file_bytes = n;
        if (h.n_tensor <= (n - sizeof h) / sizeof(struct sk_dir_entry))
            h.table_sum = XXH3_64bits(copy + sizeof h, h.n_tensor * sizeof(struct sk_dir_entry));
        memcpy(copy, &h, sizeof h);
    }
    if (!sk_weights_open_mem(copy, n, &w, &err)) {
        for (uint32_t i = 0; i < w.n_tensor; i++)
            sk_fuzz_sink += touch(&w, &w.tensors[i]);
        sk_weights_find(&w, "embed");
        sk_weights_verify(&w, &err);
        sk_weights_close(&w);
    }
    free(copy);
    return 0;
}
