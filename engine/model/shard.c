#include "engine/model/shard.h"

#include <string.h>

#include "comm/dir/pack.h"

_Static_assert((int)SK_SHARD_VOCAB_UNIT == SK_PANEL, "words are cut at panels");

enum { MAX_TP = 64 };

static struct sk_span lower_ranks_first(uint32_t n_unit, uint32_t rank, uint32_t size)
{
    uint32_t base = n_unit / size, more = n_unit % size;
    return (struct sk_span){rank * base + (rank < more ? rank : more), base + (rank < more)};
}

static struct sk_span kv_heads_of(struct sk_span head, uint32_t ratio)
{
    uint32_t first = head.first / ratio, last = (head.first + head.n - 1) / ratio;
    return (struct sk_span){first, last - first + 1};
}

/* Gives each rank its units, those left over to the lightest ranks, the lowest of equals; adds what they weigh. */
static struct sk_span lightest_first(uint32_t n_unit, uint64_t unit_weights, uint64_t *load, uint32_t rank,
                                     uint32_t size)
{
    bool more[MAX_TP] = {false};
    for (uint32_t left = n_unit % size; left > 0; left--) {
        uint32_t best = size;
        for (uint32_t i = 0; i < size; i++)
            if (!more[i] && (best == size || load[i] < load[best]))
                best = i;
        more[best] = true;
    }
    struct sk_span r = {0};
    for (uint32_t i = 0; i < size; i++) {
        uint32_t n = n_unit / size + more[i];
        load[i] += n * unit_weights;
        r.first += i < rank ? n : 0;
        r.n = i == rank ? n : r.n;
    }
    return r;
}

static struct sk_span scaled(struct sk_span units, uint32_t unit, uint32_t end)
{
    uint32_t first = units.first * unit, n = units.n * unit;
    return (struct sk_span){first, n < end - first ? n : end - first};
}

static int too_many(const char *what, uint32_t n, const char *param, uint32_t size, struct sk_err *err)
{
    return sk_err_set(err, SK_EUNSUP, param, "--%s %u: the model has only %u %s", param, size, n, what);
}

static int too_coarse(const char *tensor, uint32_t n_unit, uint32_t unit, uint32_t size, struct sk_err *err)
{
    return sk_err_set(err, SK_EUNSUP, "tp",
                      "--tp %u: the engine directory's tensors layer.*.%s can be cut into at most %u parts (%u inputs "
                      "each); one built by this version's skein-build may be finer",
                      size, tensor, n_unit, unit);
}

static int cut_layer(struct sk_shard *s, const struct sk_desc *d, const struct sk_shard_units *unit, struct sk_err *err)
{
    const uint32_t ratio = d->n_head / d->n_kv_head, hs = sk_desc_head_stride(d), fs = sk_desc_ffn_stride(d);
    const uint32_t n_head_unit = d->n_head / unit->head, n_ffn_unit = fs / unit->ffn;
    const uint32_t n_vocab_unit = (d->n_vocab + SK_SHARD_VOCAB_UNIT - 1) / SK_SHARD_VOCAB_UNIT;
    uint64_t load[MAX_TP];

    if (s->size > d->n_head || s->size > MAX_TP)
        return too_many("query heads", d->n_head, "tp", s->size, err);
    if (d->n_head % unit->head || n_head_unit < s->size)
        return too_coarse("o", n_head_unit, unit->head * hs, s->size, err);
    if (fs % unit->ffn || n_ffn_unit < s->size)
        return too_coarse("down", n_ffn_unit, unit->ffn, s->size, err);
    if (n_vocab_unit < s->size)
        return too_many("words", d->n_vocab, "tp", s->size, err);

    /* Weights of all layers, query and KV heads counted alike: q and o, k and v. */
    for (uint32_t i = 0; i < s->size; i++) {
        struct sk_span head = scaled(lower_ranks_first(n_head_unit, i, s->size), unit->head, d->n_head);
        struct sk_span kv = kv_heads_of(head, ratio);
        load[i] = (uint64_t)(head.n + kv.n) * 2 * hs * d->n_embd * d->n_layer;
        if (i == s->rank) {
            s->head = head;
            s->kv_head = kv;
        }
    }
    s->head_ratio = ratio;
    s->head_at = s->head.first - s->kv_head.first * ratio;
    uint64_t column = (uint64_t)(d->gated ? 3 : 2) * d->n_embd * d->n_layer, word = (d->tied ? 1 : 2) * d->n_embd;
    s->ffn = scaled(lightest_first(n_ffn_unit, unit->ffn * column, load, s->rank, s->size), unit->ffn, fs);
    s->vocab = scaled(lightest_first(n_vocab_unit, SK_SHARD_VOCAB_UNIT * word, load, s->rank, s->size),
                      SK_SHARD_VOCAB_UNIT, d->n_vocab);
    return 0;
}

/* Layers of the last stage, the others having the rest as evenly as can be. */
static uint32_t layers_of_last(uint32_t n_layer, uint32_t n_stage, const struct sk_shard_units *unit)
{
    uint64_t least = UINT64_MAX;
    uint32_t best = n_layer;
    for (uint32_t n = n_layer - (n_stage - 1); n > 0 && n_stage > 1; n--) {
        uint64_t others = (n_layer - n + n_stage - 2) / (n_stage - 1) * unit->layer_bytes;
        uint64_t last = n * unit->layer_bytes + unit->head_bytes / 4, most = others > last ? others : last;
        if (most < least) {
            least = most;
            best = n;
        }
    }
    return best;
}

int sk_shard_init(struct sk_shard *s, const struct sk_desc *d, const struct sk_shard_place *place,
                  const struct sk_shard_units *unit, struct sk_err *err)
{
    struct sk_shard r = {.rank = place->tp, .size = place->n_tp, .first = place->pp == 0};
    if (place->n_pp > d->n_layer)
        return too_many("layers", d->n_layer, "pp", place->n_pp, err);
    r.last = place->pp == place->n_pp - 1;
    uint32_t n_last = layers_of_last(d->n_layer, place->n_pp, unit);
    if (r.last)
        r.layer = (struct sk_span){d->n_layer - n_last, n_last};
    else
        r.layer = lower_ranks_first(d->n_layer - n_last, place->pp, place->n_pp - 1);
    int rc = cut_layer(&r, d, unit, err);
    if (!rc)
        *s = r;
    return rc;
}
