#include "engine/build/gguf.h"
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t kind_bytes[SK_GGUF_KIND_COUNT] = {
    [SK_GGUF_U8] = 1,  [SK_GGUF_I8] = 1,   [SK_GGUF_U16] = 2, [SK_GGUF_I16] = 2, [SK_GGUF_U32] = 4, [SK_GGUF_I32] = 4,
    [SK_GGUF_F32] = 4, [SK_GGUF_BOOL] = 1, [SK_GGUF_U64] = 8, [SK_GGUF_I64] = 8, [SK_GGUF_F64] = 8,
};

struct pair {
    const char *key; /* in the file, not NUL-terminated */
    size_t n_key;
    enum sk_gguf_kind kind;
    const uint8_t *value;       /* scalar bytes, or a string's length word */
    struct sk_gguf_array array; /* kind ARRAY; offsets owned */
};

struct sk_gguf {
    struct sk_src src;
    struct pair *pairs; /* sorted by key */
    uint32_t n_pair;
};

/* What is left of the file; every read goes through take(). */
struct cursor {
    const uint8_t *begin, *p, *end;
};

static const uint8_t *take(struct cursor *c, uint64_t n)
{
    const uint8_t *at = c->p;

    if (n > (uint64_t)(c->end - c->p))
        return NULL;
    c->p += n;
    return at;
}

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static bool take_u32(struct cursor *c, uint32_t *ret)
{
    const uint8_t *p = take(c, 4);

    if (p)
        *ret = load_u32(p);
    return p;
}

static bool take_u64(struct cursor *c, uint64_t *ret)
{
    const uint8_t *p = take(c, 8);

    if (p)
        *ret = load_u64(p);
    return p;
}

static bool take_str(struct cursor *c, const char **ret, size_t *ret_n)
{
    uint64_t n;
    const uint8_t *p;

    if (!take_u64(c, &n) || !(p = take(c, n)))
        return false;
    *ret = (const char *)p;
    *ret_n = n;
    return true;
}

static int cut_off(const struct cursor *c, const char *where, struct sk_err *err)
{
    return sk_err_set(err, SK_EFORMAT, NULL, "GGUF file is cut off or damaged in its %s, near byte %zu of %zu", where,
                      (size_t)(c->p - c->begin), (size_t)(c->end - c->begin));
}

/* An array's elements; the strings' places are noted, as their lengths differ. */
static int parse_array(struct cursor *c, struct sk_gguf_array *a, struct sk_err *err)
{
    uint32_t kind;

    if (!take_u32(c, &kind) || !take_u64(c, &a->n))
        return cut_off(c, "metadata", err);
    if (kind >= SK_GGUF_KIND_COUNT || kind == SK_GGUF_ARRAY)
        return sk_err_set(err, SK_EFORMAT, NULL, "GGUF metadata holds an array of kind %u", kind);
    a->kind = (enum sk_gguf_kind)kind;
    a->data = c->p;
    if (kind != SK_GGUF_STR) {
        if (a->n > (uint64_t)(c->end - c->p) / kind_bytes[kind])
            return cut_off(c, "metadata", err);
        take(c, a->n * kind_bytes[kind]);
        return 0;
    }
    if (a->n > (uint64_t)(c->end - c->p) / 8) /* each string has at least its length word */
        return cut_off(c, "metadata", err);
    uint64_t *offsets = sk_malloc(a->n * sizeof *offsets);
    if (!offsets)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    a->offsets = offsets;
    for (uint64_t i = 0; i < a->n; i++) {
        const char *s;
        size_t n;
        offsets[i] = (uint64_t)(c->p - a->data);
        if (!take_str(c, &s, &n))
            return cut_off(c, "metadata", err);
    }
    return 0;
}

static int parse_pair(struct cursor *c, struct pair *p, struct sk_err *err)
{
    uint32_t kind;
    const char *s;
    size_t n;

    if (!take_str(c, &p->key, &p->n_key) || !take_u32(c, &kind))
        return cut_off(c, "metadata", err);
    if (kind >= SK_GGUF_KIND_COUNT)
        return sk_err_set(err, SK_EFORMAT, NULL, "GGUF metadata %.*s is of unknown kind %u",
                          (int)(p->n_key < 100 ? p->n_key : 100), p->key, kind);
    p->kind = (enum sk_gguf_kind)kind;
    p->value = c->p;
    if (kind == SK_GGUF_ARRAY)
        return parse_array(c, &p->array, err);
    if (kind == SK_GGUF_STR ? !take_str(c, &s, &n) : !take(c, kind_bytes[kind]))
        return cut_off(c, "metadata", err);
    return 0;
}

static int compare_keys(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int c = memcmp(a, b, n_a < n_b ? n_a : n_b);

    return c ? c : (n_a > n_b) - (n_a < n_b);
}

static int by_key(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;

    return compare_keys(x->key, x->n_key, y->key, y->n_key);
}

static int parse_pairs(struct sk_gguf *g, struct cursor *c, uint64_t n, struct sk_err *err)
{
    if (n > SK_GGUF_MAX_KEYS || n > (uint64_t)(c->end - c->p) / 13) /* the least that a pair takes */
        return sk_err_set(err, SK_EFORMAT, NULL, "GGUF file claims %llu metadata entries", (unsigned long long)n);
    g->pairs = sk_calloc(n ? n : 1, sizeof *g->pairs);
    if (!g->pairs)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    for (uint64_t i = 0; i < n; i++) {
        g->n_pair++; /* counted first: what a failed one allocated is freed with the rest */
        int rc = parse_pair(c, &g->pairs[i], err);
        if (rc)
            return rc;
    }
    qsort(g->pairs, g->n_pair, sizeof *g->pairs, by_key);
    for (uint32_t i = 1; i < g->n_pair; i++)
        if (!by_key(&g->pairs[i - 1], &g->pairs[i]))
            return sk_err_set(err, SK_EFORMAT, NULL, "GGUF metadata %.*s is there twice",
                              (int)(g->pairs[i].n_key < 100 ? g->pairs[i].n_key : 100), g->pairs[i].key);
    return 0;
}

/* One row of the tensor table: t.data is left empty, the offset is relative to the data section. */
static int parse_tensor(struct cursor *c, struct sk_src_tensor *t, uint64_t *ret_offset, size_t *ret_n_name,
                        struct sk_err *err)
{
    uint64_t dims[SK_SRC_MAX_DIMS], values = 1;

    if (!take_str(c, &t->name, ret_n_name) || !take_u32(c, &t->n_dim))
        return cut_off(c, "tensor table", err);
    int n = (int)(*ret_n_name < 100 ? *ret_n_name : 100);
    if (t->n_dim > SK_SRC_MAX_DIMS)
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.*s has %u dimensions", n, t->name, t->n_dim);
    for (uint32_t i = 0; i < t->n_dim; i++) {
        if (!take_u64(c, &dims[i]))
            return cut_off(c, "tensor table", err);
        if (!dims[i] || dims[i] > INT64_MAX || __builtin_mul_overflow(values, dims[i], &values))
            return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.*s has an impossible shape", n, t->name);
    }
    for (uint32_t i = 0; i < t->n_dim; i++)
        t->dims[i] = dims[t->n_dim - 1 - i]; /* the file has the innermost first */
    if (!take_u32(c, &t->type) || !take_u64(c, ret_offset))
        return cut_off(c, "tensor table", err);
    if (t->type >= SK_SRC_N_GGUF || !sk_src_type_name(t->type))
        return sk_err_set(err, SK_EUNSUP, NULL, "tensor %.*s is of unknown type %u", n, t->name, t->type);
    uint64_t row;
    if ((t->n_dim && sk_src_type_bytes(t->type, dims[0], &row)) || sk_src_type_bytes(t->type, values, &t->bytes))
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.*s: rows are not whole blocks of type %s", n, t->name,
                          sk_src_type_name(t->type));
    return 0;
}

static int parse_tensors(struct sk_gguf *g, struct cursor *c, uint64_t n_tensor, uint32_t align, struct sk_err *err)
{
    uint64_t *offsets = NULL;
    int rc = 0;

    if (n_tensor > SK_SRC_MAX_TENSORS || n_tensor > (uint64_t)(c->end - c->p) / 24)
        return sk_err_set(err, SK_EFORMAT, NULL, "GGUF file claims %llu tensors", (unsigned long long)n_tensor);
    offsets = sk_malloc(n_tensor * sizeof *offsets);
    if (!offsets)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    for (uint64_t i = 0; i < n_tensor; i++) {
        struct sk_src_tensor t = {0};
        size_t n_name = 0;
        if ((rc = parse_tensor(c, &t, &offsets[i], &n_name, err)) ||
            (rc = sk_src_add(&g->src, &t, t.name, n_name, err)))
            goto out;
    }
    /* The data section begins where the table ends, rounded up. */
    uint64_t begin = ((uint64_t)(c->p - c->begin) + align - 1) & ~(uint64_t)(align - 1);
    uint64_t size = (uint64_t)(c->end - c->begin);
    size = begin <= size ? size - begin : 0;
    for (uint64_t i = 0; i < n_tensor; i++) {
        struct sk_src_tensor *t = &g->src.tensors[i];
        if (offsets[i] % align || offsets[i] > size || t->bytes > size - offsets[i]) {
            rc = sk_err_set(err, SK_EFORMAT, NULL,
                            "tensor %s: bytes %llu to %llu lie outside the file's data section of %llu bytes (is the "
                            "file complete?)",
                            t->name, (unsigned long long)offsets[i], (unsigned long long)(offsets[i] + t->bytes),
                            (unsigned long long)size);
            goto out;
        }
        t->data = c->begin + begin + offsets[i];
    }
    rc = sk_src_seal(&g->src, err);
out:
    sk_free(offsets);
    return rc;
}

static int parse(struct sk_gguf *g, struct cursor *c, struct sk_err *err)
{
    uint32_t version, align = 32;
    uint64_t n_tensor, n_pair;
    const uint8_t *magic = take(c, 4);
    int rc;

    if (!magic || memcmp(magic, "GGUF", 4))
        return sk_err_set(err, SK_EFORMAT, NULL, "not a GGUF file");
    if (!take_u32(c, &version))
        return cut_off(c, "header", err);
    if (version != 2 && version != 3)
        return sk_err_set(err, SK_EUNSUP, NULL, "GGUF version %u%s is not supported (2 and 3 are)", version,
                          version > 0xffff ? " (a big-endian file?)" : "");
    if (!take_u64(c, &n_tensor) || !take_u64(c, &n_pair))
        return cut_off(c, "header", err);
    if ((rc = parse_pairs(g, c, n_pair, err)) || (rc = sk_gguf_u32(g, "general.alignment", &align, err)))
        return rc;
    if (!align || align > 1 << 20 || (align & (align - 1)))
        return sk_err_set(err, SK_EFORMAT, "general.alignment", "GGUF alignment %u must be a power of 2", align);
    return parse_tensors(g, c, n_tensor, align, err);
}

int sk_gguf_open_mem(const void *p, size_t n, struct sk_gguf **ret, struct sk_err *err)
{
    struct cursor c = {.begin = p, .p = p, .end = (const uint8_t *)p + n};
    struct sk_gguf *g = sk_calloc(1, sizeof *g);

    if (!g)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_src_init(&g->src);
    int rc = parse(g, &c, err);
    if (rc)
        sk_gguf_close(g);
    else
        *ret = g;
    return rc;
}

int sk_gguf_open(const char *path, struct sk_gguf **ret, struct sk_err *err)
{
    struct sk_src_map map = {0};
    struct sk_gguf *g = NULL;
    struct sk_err why;
    int rc = sk_src_map(path, &map, err);

    if (rc)
        return rc;
    if ((rc = sk_gguf_open_mem(map.p, map.n, &g, &why))) {
        sk_err_set(err, -rc, why.param, "%.180s: %.260s", path, why.msg);
        goto out;
    }
    if ((rc = sk_src_add_file(&g->src, &map, err)))
        goto out;
    *ret = g;
    g = NULL;
out:
    sk_gguf_close(g);
    sk_src_unmap(&map);
    return rc;
}

void sk_gguf_close(struct sk_gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_pair; i++)
        sk_free((void *)g->pairs[i].array.offsets);
    sk_free(g->pairs);
    sk_src_done(&g->src);
    sk_free(g);
}

bool sk_gguf_is(const char *path)
{
    char magic[4];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool yes =
        fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && read(fd, magic, 4) == 4 && !memcmp(magic, "GGUF", 4);

    if (fd >= 0)
        close(fd);
    return yes;
}

const struct sk_src *sk_gguf_src(const struct sk_gguf *g)
{
    return &g->src;
}

static const struct pair *find(const struct sk_gguf *g, const char *key)
{
    struct pair want = {.key = key, .n_key = strlen(key)};

    return g->n_pair ? bsearch(&want, g->pairs, g->n_pair, sizeof want, by_key) : NULL;
}

bool sk_gguf_has(const struct sk_gguf *g, const char *key)
{
    return find(g, key);
}

/* An integer of any kind as int64; U64 beyond that is clamped (no use of ours goes so far). */
static bool load_int(enum sk_gguf_kind kind, const uint8_t *p, int64_t *ret)
{
    uint64_t u = 0;

    switch (kind) {
    case SK_GGUF_U8:
    case SK_GGUF_U16:
    case SK_GGUF_U32:
    case SK_GGUF_U64:
        memcpy(&u, p, kind_bytes[kind]);
        *ret = u > INT64_MAX ? INT64_MAX : (int64_t)u;
        return true;
    case SK_GGUF_I8:
        *ret = (int8_t)*p;
        return true;
    case SK_GGUF_I16:
        *ret = (int16_t)(p[0] | p[1] << 8);
        return true;
    case SK_GGUF_I32:
        *ret = (int32_t)load_u32(p);
        return true;
    case SK_GGUF_I64:
        *ret = (int64_t)load_u64(p);
        return true;
    default:
        return false;
    }
}

static bool load_float(enum sk_gguf_kind kind, const uint8_t *p, float *ret)
{
    double d;

    if (kind == SK_GGUF_F32) {
        memcpy(ret, p, sizeof *ret);
    } else if (kind == SK_GGUF_F64) {
        memcpy(&d, p, sizeof d);
        *ret = fabs(d) > 3.4e38 ? copysignf(INFINITY, d < 0 ? -1.f : 1.f) : (float)d;
    }
    return kind == SK_GGUF_F32 || kind == SK_GGUF_F64;
}

static int wrong_kind(const char *key, const char *want, struct sk_err *err)
{
    return sk_err_set(err, SK_ETYPE, key, "GGUF metadata %s is not %s", key, want);
}

int sk_gguf_u32(const struct sk_gguf *g, const char *key, uint32_t *ret, struct sk_err *err)
{
    const struct pair *p = find(g, key);
    int64_t v;

    if (!p)
        return 0;
    if (!load_int(p->kind, p->value, &v))
        return wrong_kind(key, "an integer", err);
    if (v < 0 || v > UINT32_MAX)
        return sk_err_set(err, SK_ERANGE, key, "GGUF metadata %s is %lld, out of range", key, (long long)v);
    *ret = (uint32_t)v;
    return 0;
}

int sk_gguf_f32(const struct sk_gguf *g, const char *key, float *ret, struct sk_err *err)
{
    const struct pair *p = find(g, key);

    return !p || load_float(p->kind, p->value, ret) ? 0 : wrong_kind(key, "a float", err);
}

int sk_gguf_bool(const struct sk_gguf *g, const char *key, bool *ret, struct sk_err *err)
{
    const struct pair *p = find(g, key);

    if (p && p->kind != SK_GGUF_BOOL)
        return wrong_kind(key, "a bool", err);
    if (p)
        *ret = *p->value != 0;
    return 0;
}

int sk_gguf_str(const struct sk_gguf *g, const char *key, const char **ret, size_t *ret_n, struct sk_err *err)
{
    const struct pair *p = find(g, key);

    if (p && p->kind != SK_GGUF_STR)
        return wrong_kind(key, "a string", err);
    if (p) {
        *ret = (const char *)p->value + 8;
        *ret_n = load_u64(p->value);
    }
    return 0;
}

int sk_gguf_array(const struct sk_gguf *g, const char *key, struct sk_gguf_array *ret, struct sk_err *err)
{
    const struct pair *p = find(g, key);

    if (p && p->kind != SK_GGUF_ARRAY)
        return wrong_kind(key, "an array", err);
    if (p)
        *ret = p->array;
    return 0;
}

int sk_gguf_at_str(const struct sk_gguf_array *a, uint64_t i, const char **ret, size_t *ret_n)
{
    if (a->kind != SK_GGUF_STR)
        return -SK_ETYPE;
    if (i >= a->n)
        return -SK_ERANGE;
    const uint8_t *p = a->data + a->offsets[i];
    *ret = (const char *)p + 8;
    *ret_n = load_u64(p);
    return 0;
}

int sk_gguf_at_i32(const struct sk_gguf_array *a, uint64_t i, int32_t *ret)
{
    int64_t v;

    if (i >= a->n)
        return -SK_ERANGE;
    if (a->kind == SK_GGUF_STR || !load_int(a->kind, a->data + i * kind_bytes[a->kind], &v))
        return -SK_ETYPE;
    if (v < INT32_MIN || v > INT32_MAX)
        return -SK_ERANGE;
    *ret = (int32_t)v;
    return 0;
}

int sk_gguf_at_f32(const struct sk_gguf_array *a, uint64_t i, float *ret)
{
    if (i >= a->n)
        return -SK_ERANGE;
    return a->kind != SK_GGUF_STR && load_float(a->kind, a->data + i * kind_bytes[a->kind], ret) ? 0 : -SK_ETYPE;
}
