#include "engine/model/bind.h"

#include "comm/base/mem.h"

int sk_bind_count(struct sk_bind *b, const struct sk_weights *w)
{
    uint32_t max = 3 * w->n_tensor; /* q, k and v of one tensor */
    struct sk_bind_piece *piece = sk_calloc(max, sizeof *piece);
    if (!piece)
        return -SK_ENOMEM;
    *b = (struct sk_bind){.w = w, .piece = piece, .max_piece = max};
    return 0;
}

int sk_bind_init(struct sk_bind *b, struct sk_weights *w, struct sk_backend *be)
{
    int rc = sk_bind_count(b, w);
    if (!rc) {
        b->source = w;
        b->be = be;
    }
    return rc;
}

void sk_bind_done(struct sk_bind *b)
{
    for (uint32_t i = 0; b->source && i < b->n_piece; i++)
        b->be->release(b->be, b->piece[i].dev, b->piece[i].bytes);
    if (b->source)
        sk_weights_drop(b->source);
    sk_free(b->piece);
    *b = (struct sk_bind){0};
}

/* slabs: what the piece is in the file, and then in memory; NULL: no slabs. */
static int bring(struct sk_bind *b, const struct sk_bind_piece *p, struct sk_pack *slabs, struct sk_dev *ret,
                 struct sk_err *err)
{
    const void *host;
    int rc = slabs ? sk_weights_bring_slabs(b->source, p->entry, p->at, slabs, &host, err)
                   : sk_weights_bring(b->source, p->entry, p->at, p->bytes, &host, err);
    if (rc)
        return rc;
    *ret = b->be->adopt(b->be, host, p->bytes);
    if (!ret->a)
        return sk_err_set(err, SK_ENOMEM, p->entry->name, "tensor %s: no memory for %llu bytes on the device",
                          p->entry->name, (unsigned long long)p->bytes);
    return 0;
}

static void keep(struct sk_bind *b, const struct sk_bind_piece *p)
{
    b->piece[b->n_piece++] = *p;
    b->bytes += p->bytes;
}

static int adopt(struct sk_bind *b, const struct sk_dir_entry *e, uint64_t at, uint64_t bytes, struct sk_dev *ret,
                 struct sk_err *err)
{
    struct sk_bind_piece p = {e, at, bytes, {1}};
    for (uint32_t i = 0; i < b->n_piece; i++) {
        const struct sk_bind_piece *old = &b->piece[i];
        if (old->entry == e && old->at == at && old->bytes == bytes) {
            *ret = old->dev;
            return 0;
        }
    }
    sk_assert(b->n_piece < b->max_piece && at <= e->bytes && bytes <= e->bytes - at);
    int rc = b->source ? bring(b, &p, NULL, &p.dev, err) : 0;
    if (!rc) {
        keep(b, &p);
        *ret = p.dev;
    }
    return rc;
}

/* A row split is asked for once: its matrix is no other's part. */
static int adopt_slabs(struct sk_bind *b, const struct sk_dir_entry *e, uint64_t at, struct sk_mat *mat,
                       struct sk_err *err)
{
    struct sk_bind_piece p = {e, at, mat->pack.bytes, {1}};
    sk_assert(b->n_piece < b->max_piece && at <= e->bytes && p.bytes <= e->bytes - at);
    int rc = b->source ? bring(b, &p, &mat->pack, &p.dev, err) : 0;
    if (!rc) {
        keep(b, &p);
        mat->data = p.dev;
    }
    return rc;
}

static int find_vector(const struct sk_bind *b, const char *name, uint32_t n, const struct sk_dir_entry **ret,
                       struct sk_err *err)
{
    const struct sk_dir_entry *e = sk_weights_find(b->w, name);
    if (!e)
        return sk_err_set(err, SK_EFORMAT, name, "tensor %s is missing", name);
    if (e->dtype != SK_F32 || e->pack != SK_PACK_PLAIN || e->n_out != n || e->n_in != 1 ||
        e->bytes != SK_ALIGN16(n) * sizeof(float))
        return sk_err_set(err, SK_EFORMAT, name, "tensor %s: %u values of type %s where the model has %u of f32", name,
                          e->n_out, sk_dtype_name(e->dtype), n);
    *ret = e;
    return 0;
}

int sk_bind_vector(struct sk_bind *b, const char *name, uint32_t n, struct sk_dev *ret, struct sk_err *err)
{
    const struct sk_dir_entry *e;
    int rc = find_vector(b, name, n, &e, err);
    if (rc)
        return rc;
    return adopt(b, e, 0, e->bytes, ret, err);
}

int sk_bind_part(struct sk_bind *b, const char *name, uint32_t n, struct sk_span part, struct sk_dev *ret,
                 struct sk_err *err)
{
    const struct sk_dir_entry *e;
    if (!sk_weights_find(b->w, name)) {
        *ret = (struct sk_dev){0};
        return 0;
    }
    int rc = find_vector(b, name, n, &e, err);
    if (rc)
        return rc;
    sk_assert(part.first % SK_PANEL == 0);
    return adopt(b, e, part.first * sizeof(float), SK_ALIGN16(part.n) * sizeof(float), ret, err);
}

int sk_bind_host(const struct sk_bind *b, const char *name, uint32_t n, const float **ret, struct sk_err *err)
{
    const struct sk_dir_entry *e;
    int rc = find_vector(b, name, n, &e, err);
    if (!rc)
        *ret = sk_weights_data(b->w, e);
    return rc;
}

static int find_matrix(const struct sk_bind *b, const struct sk_bind_want *want, const struct sk_dir_entry **ret,
                       struct sk_pack *ret_pack, struct sk_err *err)
{
    const struct sk_dir_entry *e = sk_weights_find(b->w, want->name);
    if (!e)
        return sk_err_set(err, SK_EFORMAT, want->name, "tensor %s is missing", want->name);
    if (e->n_out != want->n_out || e->n_in != want->n_in)
        return sk_err_set(err, SK_EFORMAT, want->name, "tensor %s is [%u][%u], the model has [%u][%u]", want->name,
                          e->n_out, e->n_in, want->n_out, want->n_in);
    if (e->pack != SK_PACK_X86_1 || sk_pack_layout(ret_pack, e->dtype, e->n_out, e->n_in, e->slab_k) ||
        ret_pack->bytes != e->bytes)
        return sk_err_set(err, SK_EFORMAT, want->name,
                          "tensor %s: pack kind %u, slab %u, %llu bytes do not fit together", want->name, e->pack,
                          e->slab_k, (unsigned long long)e->bytes);
    *ret = e;
    return 0;
}

static bool span_ok(struct sk_span s, uint32_t end, uint32_t unit)
{
    return s.n > 0 && s.first <= end && s.n <= end - s.first && s.first % unit == 0 &&
           (s.n % unit == 0 || s.first + s.n == end);
}

static int bad_cut(const struct sk_bind_want *want, struct sk_span s, uint32_t unit, struct sk_err *err)
{
    return sk_err_set(err, SK_EUNSUP, want->name, "tensor %s cannot be cut at %u..%u: its unit is %u", want->name,
                      s.first, s.first + s.n, unit);
}

int sk_bind_rows(struct sk_bind *b, const struct sk_bind_want *want, struct sk_span rows, struct sk_mat *ret,
                 struct sk_err *err)
{
    const struct sk_dir_entry *e;
    struct sk_mat mat;
    int rc = find_matrix(b, want, &e, &mat.pack, err);
    if (rc)
        return rc;
    if (!span_ok(rows, want->n_out, SK_PANEL))
        return bad_cut(want, rows, SK_PANEL, err);

    struct sk_pack *p = &mat.pack;
    p->n_out = rows.n;
    p->n_panel = (rows.n + SK_PANEL - 1) / SK_PANEL;
    p->bytes = (p->n_slab - 1) * p->slab_stride + p->n_panel * p->panel_stride; /* from the first panel to the last */
    rc = adopt(b, e, rows.first / SK_PANEL * p->panel_stride, p->bytes, &mat.data, err);
    if (!rc)
        *ret = mat;
    return rc;
}

int sk_bind_cols(struct sk_bind *b, const struct sk_bind_want *want, struct sk_span cols, struct sk_mat *ret,
                 struct sk_err *err)
{
    const struct sk_dir_entry *e;
    struct sk_mat mat;
    int rc = find_matrix(b, want, &e, &mat.pack, err);
    if (rc)
        return rc;
    struct sk_pack *p = &mat.pack;
    if (!span_ok(cols, want->n_in, p->slab_k) || cols.n % p->slab_k)
        return bad_cut(want, cols, p->slab_k, err);

    p->n_in = cols.n;
    p->n_slab = cols.n / p->slab_k;
    p->bytes = p->n_slab * p->slab_stride;
    rc = adopt_slabs(b, e, cols.first / p->slab_k * p->slab_stride, &mat, err);
    if (!rc)
        *ret = mat;
    return rc;
}

int sk_bind_slab(const struct sk_bind *b, const struct sk_bind_want *want, uint32_t *ret, struct sk_err *err)
{
    const struct sk_dir_entry *e;
    struct sk_pack p;
    int rc = find_matrix(b, want, &e, &p, err);
    if (!rc)
        *ret = p.slab_k;
    return rc;
}
