#include "engine/build/src.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ggml's block types (ggml-common.h): enough to check sizes and to name what is refused. */
static const struct type_row {
    const char *name;
    uint16_t values, bytes; /* of a block */
} types[] = {
    [SK_SRC_F32] = {"F32", 1, 4},
    [SK_SRC_F16] = {"F16", 1, 2},
    [SK_SRC_Q4_0] = {"Q4_0", 32, 18},
    [SK_SRC_Q4_1] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},
    [7] = {"Q5_1", 32, 24},
    [SK_SRC_Q8_0] = {"Q8_0", 32, 34},
    [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},
    [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 256, 292},
    [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98},
    [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},
    [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},
    [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},
    [SK_SRC_BF16] = {"BF16", 1, 2},
    [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},
    [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},
    [SK_SRC_N_GGUF] = {"BOOL", 1, 1},
    {"U8", 1, 1},
    {"F8_E4M3", 1, 1},
    {"F8_E5M2", 1, 1},
    {"F8_E8M0", 1, 1},
    {"U16", 1, 2},
    {"U32", 1, 4},
    {"U64", 1, 8},
};
enum { N_TYPE = sizeof types / sizeof *types };

const char *sk_src_type_name(uint32_t type)
{
    return type < N_TYPE ? types[type].name : NULL;
}

bool sk_src_type_find(const char *name, uint32_t *ret)
{
    for (uint32_t i = 0; i < N_TYPE; i++) {
        if (types[i].name && types[i].values == 1 && !strcmp(name, types[i].name)) {
            *ret = i;
            return true;
        }
    }
    return false;
}

bool sk_src_type_readable(uint32_t type)
{
    switch (type) {
    case SK_SRC_F32:
    case SK_SRC_F16:
    case SK_SRC_BF16:
    case SK_SRC_Q4_0:
    case SK_SRC_Q4_1:
    case SK_SRC_Q8_0:
        return true;
    default:
        return false;
    }
}

int sk_src_type_bytes(uint32_t type, uint64_t n, uint64_t *ret_bytes)
{
    uint64_t bytes;

    if (!sk_src_type_name(type) || n % types[type].values ||
        __builtin_mul_overflow(n / types[type].values, (uint64_t)types[type].bytes, &bytes))
        return -SK_EFORMAT;
    *ret_bytes = bytes;
    return 0;
}

int sk_src_map(const char *path, struct sk_src_map *ret, struct sk_err *err)
{
    struct stat st;
    void *p;
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */

    if (fd < 0)
        return sk_err_errno(err, SK_ENOENT, NULL, "cannot open %s", path);
    if (fstat(fd, &st)) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot read %s", path);
    } else if (!S_ISREG(st.st_mode) || !st.st_size) {
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s is empty or not a regular file", path);
    } else if ((p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot map %s", path);
    } else {
        *ret = (struct sk_src_map){.p = p, .n = (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void sk_src_unmap(struct sk_src_map *m)
{
    if (m->p)
        munmap((void *)m->p, m->n);
    *m = (struct sk_src_map){0};
}

void sk_src_init(struct sk_src *s)
{
    *s = (struct sk_src){0};
    sk_arena_init(&s->arena, (size_t)SK_SRC_MAX_TENSORS * (SK_SRC_MAX_NAME + 64));
}

void sk_src_done(struct sk_src *s)
{
    for (uint32_t i = 0; i < s->n_file; i++)
        sk_src_unmap(&s->files[i]);
    sk_free(s->files);
    sk_free(s->tensors);
    sk_arena_done(&s->arena);
    *s = (struct sk_src){0};
}

int sk_src_add_file(struct sk_src *s, struct sk_src_map *m, struct sk_err *err)
{
    if (s->n_file == SK_SRC_MAX_FILES)
        return sk_err_set(err, SK_ETOOBIG, NULL, "more than %d files", SK_SRC_MAX_FILES);
    struct sk_src_map *files = sk_realloc(s->files, (s->n_file + 1) * sizeof *files);
    if (!files)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    s->files = files;
    s->files[s->n_file++] = *m;
    *m = (struct sk_src_map){0};
    return 0;
}

int sk_src_add(struct sk_src *s, const struct sk_src_tensor *t, const char *name, size_t n_name, struct sk_err *err)
{
    if (!n_name || n_name >= SK_SRC_MAX_NAME || memchr(name, 0, n_name))
        return sk_err_set(err, SK_EFORMAT, NULL, "a tensor's name is empty, has a NUL or more than %d bytes",
                          SK_SRC_MAX_NAME - 1);
    if (s->n_tensor == SK_SRC_MAX_TENSORS)
        return sk_err_set(err, SK_ETOOBIG, NULL, "more than %d tensors", SK_SRC_MAX_TENSORS);
    if (s->n_tensor == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 64;
        struct sk_src_tensor *grown = sk_realloc(s->tensors, cap * sizeof *grown);
        if (!grown)
            return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        s->tensors = grown;
        s->cap = cap;
    }
    char *copy = sk_arena_strndup(&s->arena, name, n_name);
    if (!copy)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    s->tensors[s->n_tensor] = *t;
    s->tensors[s->n_tensor++].name = copy;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sk_src_tensor *)a)->name, ((const struct sk_src_tensor *)b)->name);
}

static int by_data(const void *a, const void *b)
{
    const struct sk_src_tensor *x = *(const struct sk_src_tensor *const *)a;
    const struct sk_src_tensor *y = *(const struct sk_src_tensor *const *)b;

    return x->data != y->data ? (x->data < y->data ? -1 : 1) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int check_overlap(const struct sk_src *s, struct sk_err *err)
{
    int rc = 0;
    const struct sk_src_tensor **order = sk_malloc(s->n_tensor * sizeof *order);

    if (!order)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    for (uint32_t i = 0; i < s->n_tensor; i++)
        order[i] = &s->tensors[i];
    qsort(order, s->n_tensor, sizeof *order, by_data);
    for (uint32_t i = 1; i < s->n_tensor && !rc; i++)
        if (order[i]->data < order[i - 1]->data + order[i - 1]->bytes)
            rc = sk_err_set(err, SK_EFORMAT, NULL, "the data of tensors %.150s and %.150s overlap", order[i - 1]->name,
                            order[i]->name);
    sk_free(order);
    return rc;
}

int sk_src_seal(struct sk_src *s, struct sk_err *err)
{
    if (!s->n_tensor)
        return sk_err_set(err, SK_EFORMAT, NULL, "the file holds no tensors");
    qsort(s->tensors, s->n_tensor, sizeof *s->tensors, by_name);
    for (uint32_t i = 1; i < s->n_tensor; i++)
        if (!strcmp(s->tensors[i - 1].name, s->tensors[i].name))
            return sk_err_set(err, SK_EFORMAT, NULL, "tensor %s is there twice", s->tensors[i].name);
    return check_overlap(s, err);
}

const struct sk_src_tensor *sk_src_find(const struct sk_src *s, const char *name)
{
    struct sk_src_tensor key = {.name = name};

    return s->n_tensor ? bsearch(&key, s->tensors, s->n_tensor, sizeof key, by_name) : NULL;
}

const char *sk_src_shape(const struct sk_src_tensor *t, char *buf, size_t n)
{
    size_t at = 0;

    for (uint32_t i = 0; i < t->n_dim && at < n; i++)
        at += (size_t)snprintf(buf + at, n - at, "%s%llu", i ? ", " : "[", (unsigned long long)t->dims[i]);
    if (at < n)
        snprintf(buf + at, n - at, "%s", t->n_dim ? "]" : "[]");
    return buf;
}
