#include "engine/build/safetensors.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "comm/base/json.h"

enum { MAX_HEADER = 100 << 20, MAX_INDEX = 64 << 20, MAX_PATH = 1280 };

static int parse_shape(const struct cJSON *shape, struct sk_src_tensor *t)
{
    uint64_t values = 1;

    if (sk_json_type(shape) != SK_JSON_ARRAY || sk_json_len(shape) > SK_SRC_MAX_DIMS)
        return -SK_EFORMAT;
    for (const struct cJSON *v = sk_json_first(shape); v; v = sk_json_next(v)) {
        int64_t n;
        if (!sk_json_is_int(v, &n) || n < 1 || __builtin_mul_overflow(values, (uint64_t)n, &values))
            return -SK_EFORMAT;
        t->dims[t->n_dim++] = (uint64_t)n;
    }
    return sk_src_type_bytes(t->type, values, &t->bytes);
}

/* One member of the header: {"dtype", "shape", "data_offsets": [begin, end]} over data[0..n). */
static int parse_tensor(struct sk_src *s, const struct cJSON *v, const uint8_t *data, size_t n, struct sk_err *err)
{
    const char *name = sk_json_key(v), *dtype = sk_json_str(sk_json_get(v, "dtype"));
    const struct cJSON *offsets = sk_json_get(v, "data_offsets"), *first = sk_json_first(offsets);
    struct sk_src_tensor t = {0};
    int64_t begin, end;

    if (!dtype)
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.200s has no dtype", name);
    if (!sk_src_type_find(dtype, &t.type))
        return 0; /* a type from after our time: if the tensor is needed, it is reported as missing */
    if (parse_shape(sk_json_get(v, "shape"), &t))
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.200s has an impossible shape", name);
    if (sk_json_len(offsets) != 2 || !sk_json_is_int(first, &begin) || !sk_json_is_int(sk_json_next(first), &end) ||
        begin < 0 || end < begin || (uint64_t)end > n)
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.200s lies outside the file (is the file complete?)", name);
    if ((uint64_t)(end - begin) != t.bytes)
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor %.200s has %lld bytes, its shape needs %llu", name,
                          (long long)(end - begin), (unsigned long long)t.bytes);
    t.data = data + begin;
    return sk_src_add(s, &t, name, strlen(name), err);
}

int sk_safetensors_parse(struct sk_src *s, const void *p, size_t n, struct sk_err *err)
{
    struct cJSON *header = NULL;
    uint64_t n_header;
    int rc;

    if (n < 8)
        return sk_err_set(err, SK_EFORMAT, NULL, "cut off: %zu bytes", n);
    memcpy(&n_header, p, 8);
    if (n_header > n - 8)
        return sk_err_set(err, SK_EFORMAT, NULL, "claims a header of %llu bytes, the file has %zu",
                          (unsigned long long)n_header, n);
    const char *text = (const char *)p + 8;
    if ((rc = sk_json_parse(text, n_header, MAX_HEADER, &header, err)))
        return rc;
    if (sk_json_type(header) != SK_JSON_OBJECT)
        rc = sk_err_set(err, SK_EFORMAT, NULL, "the header is %s, must be an object", sk_json_typename(header));
    for (const struct cJSON *v = sk_json_first(header); v && !rc; v = sk_json_next(v))
        if (strcmp(sk_json_key(v), "__metadata__"))
            rc = parse_tensor(s, v, (const uint8_t *)text + n_header, n - 8 - n_header, err);
    sk_json_free(header);
    return rc;
}

static int join(const char *dir, const char *file, char *ret, struct sk_err *err)
{
    if (snprintf(ret, MAX_PATH, "%s/%s", dir, file) >= MAX_PATH)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", dir);
    return 0;
}

/* The distinct values of the index's weight_map. They are file names, never paths. */
static int index_files(const char *dir, const struct cJSON *map,
                       int (*ret)(void *arg, const char *path, struct sk_err *err), void *arg, struct sk_err *err)
{
    const char *seen[SK_SRC_MAX_FILES];
    char path[MAX_PATH];
    uint32_t n = 0;
    int rc;

    for (const struct cJSON *v = sk_json_first(map); v; v = sk_json_next(v)) {
        const char *file = sk_json_str(v);
        uint32_t i = n;
        if (!file || !*file || strchr(file, '/'))
            return sk_err_set(err, SK_EFORMAT, NULL, "weight_map.%.100s is not a file name", sk_json_key(v));
        while (i && strcmp(seen[i - 1], file)) /* the last one first: tensors of a shard stand together */
            i--;
        if (i)
            continue;
        if (n == SK_SRC_MAX_FILES)
            return sk_err_set(err, SK_ETOOBIG, NULL, "the index names more than %d files", SK_SRC_MAX_FILES);
        seen[n++] = file;
        if ((rc = join(dir, file, path, err)) || (rc = ret(arg, path, err)))
            return rc;
    }
    return n ? 0 : sk_err_set(err, SK_EFORMAT, NULL, "model.safetensors.index.json names no files");
}

int sk_safetensors_files(const char *dir, int (*ret)(void *arg, const char *path, struct sk_err *err), void *arg,
                         struct sk_err *err)
{
    char path[MAX_PATH];
    struct cJSON *index = NULL;
    int rc = join(dir, "model.safetensors", path, err);

    if (rc)
        return rc;
    if (!access(path, F_OK))
        return ret(arg, path, err);
    if ((rc = join(dir, "model.safetensors.index.json", path, err)))
        return rc;
    if (access(path, F_OK))
        return sk_err_set(err, SK_ENOENT, NULL,
                          "%.200s holds neither model.safetensors nor model.safetensors.index.json", dir);
    if (!(rc = sk_json_load(path, MAX_INDEX, &index, err)))
        rc = index_files(dir, sk_json_get(index, "weight_map"), ret, arg, err);
    sk_json_free(index);
    return rc;
}

static int add_file(void *arg, const char *path, struct sk_err *err)
{
    struct sk_src *s = arg;
    struct sk_src_map map = {0};
    struct sk_err why;
    int rc = sk_src_map(path, &map, err);

    if (rc)
        return rc;
    if ((rc = sk_safetensors_parse(s, map.p, map.n, &why)))
        sk_err_set(err, -rc, why.param, "%.180s: %.260s", path, why.msg);
    else
        rc = sk_src_add_file(s, &map, err);
    sk_src_unmap(&map);
    return rc;
}

int sk_safetensors_open(const char *dir, struct sk_src *ret, struct sk_err *err)
{
    struct sk_src s;
    struct sk_err why;
    int rc;

    sk_src_init(&s);
    if ((rc = sk_safetensors_files(dir, add_file, &s, err)))
        goto out;
    if ((rc = sk_src_seal(&s, &why))) {
        sk_err_set(err, -rc, why.param, "%.180s: %.260s", dir, why.msg);
        goto out;
    }
    *ret = s;
out:
    if (rc)
        sk_src_done(&s);
    return rc;
}
