#include "engine/model/kv.h"

#include "comm/base/mem.h"

/* A window may begin and end inside a block, hence two more; a chunk's own blocks are there before those behind the
 * window go. */
static uint32_t seq_blocks(uint32_t window, const struct sk_kv_conf *conf)
{
    uint32_t all = sk_kv_blocks(conf->max_len);
    if (window == 0)
        return all;
    uint64_t need = (uint64_t)window / SK_KV_BLOCK + 2 + sk_kv_blocks(conf->max_row);
    return need < all ? (uint32_t)need : all;
}

int sk_kv_plan(const struct sk_desc *d, const struct sk_backend *be, const struct sk_kv_conf *conf,
               struct sk_kv_need *ret, struct sk_err *err)
{
    struct sk_kv_need r = {.ld_table = sk_kv_blocks(conf->max_len)};
    r.layer_block = be->kv_block_bytes(be, conf->dtype, conf->n_kv_head, sk_desc_head_stride(d));
    for (uint32_t l = 0; l < conf->layer.n; l++)
        r.block[d->layer_group[conf->layer.first + l]] += r.layer_block;
    uint64_t seq_bytes = 0;
    for (uint32_t g = 0; g < d->n_group; g++) {
        r.seq_blk[g] = seq_blocks(d->group_window[g], conf);
        seq_bytes += r.seq_blk[g] * r.block[g];
    }

    for (uint32_t g = 0; g < d->n_group; g++) {
        unsigned __int128 n = (unsigned __int128)conf->bytes * r.seq_blk[g] / seq_bytes;
        if (n == 0 && conf->n_blk[g] == 0)
            return sk_err_set(err, SK_EINVAL, "kv-memory",
                              "KV memory of %llu bytes holds no block; one sequence of %u tokens takes %llu bytes",
                              (unsigned long long)conf->bytes, conf->max_len, (unsigned long long)seq_bytes);
        if (conf->n_blk[g])
            n = conf->n_blk[g];
        r.n_blk[g] = n > INT32_MAX ? INT32_MAX : (uint32_t)n;
        r.bytes += r.n_blk[g] * r.block[g];
        r.table_bytes += (uint64_t)conf->max_slot * r.ld_table * sizeof(int32_t);
    }
    *ret = r;
    return 0;
}

int sk_kv_open(struct sk_kv *kv, const struct sk_desc *d, struct sk_backend *be, const struct sk_kv_conf *conf,
               struct sk_err *err)
{
    *kv = (struct sk_kv){.be = be};
    int rc = sk_kv_plan(d, be, conf, &kv->need, err);
    if (rc)
        return rc;
    kv->layer = sk_calloc(conf->layer.n, sizeof *kv->layer);
    kv->mem = be->alloc(be, kv->need.bytes);
    kv->table_mem = be->alloc(be, kv->need.table_bytes);
    if (!kv->layer || !kv->mem.a || !kv->table_mem.a)
        return sk_err_set(err, SK_ENOMEM, "kv-memory", "no memory for %llu bytes of KV cache",
                          (unsigned long long)kv->need.bytes);

    /* A block of all its layers lies together: the first use of memory, which takes the kernel a while for each huge
     * page, then comes a page at a time, and not one page of each layer in the same step. */
    uint64_t group_at[SK_MAX_GROUPS] = {0}, in_block[SK_MAX_GROUPS] = {0};
    for (uint32_t g = 1; g < d->n_group; g++)
        group_at[g] = group_at[g - 1] + kv->need.n_blk[g - 1] * kv->need.block[g - 1];
    for (uint32_t l = 0; l < conf->layer.n; l++) {
        uint32_t g = d->layer_group[conf->layer.first + l];
        kv->layer[l] = (struct sk_kv_layer){.data = sk_dev_at(kv->mem, group_at[g] + in_block[g]),
                                            .block_bytes = kv->need.block[g],
                                            .dtype = conf->dtype,
                                            .n_blk = kv->need.n_blk[g],
                                            .n_kv_head = conf->n_kv_head,
                                            .head_dim = d->head_dim,
                                            .head_stride = sk_desc_head_stride(d)};
        in_block[g] += kv->need.layer_block;
    }
    for (uint32_t g = 0; g < d->n_group; g++)
        kv->table[g] = sk_dev_at(kv->table_mem, (uint64_t)g * conf->max_slot * kv->need.ld_table * sizeof(int32_t));
    return 0;
}

void sk_kv_close(struct sk_kv *kv)
{
    if (kv->table_mem.a)
        kv->be->free(kv->be, kv->table_mem, kv->need.table_bytes);
    if (kv->mem.a)
        kv->be->free(kv->be, kv->mem, kv->need.bytes);
    sk_free(kv->layer);
    *kv = (struct sk_kv){0};
}
