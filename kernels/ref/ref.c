#include "kernels/ref/ref.h"

#include <string.h>

#include "comm/base/mem.h"

enum { ALIGN = 64 };

/* The block that sk_calloc gave is remembered in front of the aligned address. */
static struct sk_dev ref_alloc(struct sk_backend *be, uint64_t bytes)
{
    if (bytes > SIZE_MAX - ALIGN - sizeof(void *))
        return (struct sk_dev){0};
    char *raw = sk_calloc(1, (size_t)bytes + ALIGN + sizeof raw);
    if (raw == NULL)
        return (struct sk_dev){0};
    uintptr_t at = ((uintptr_t)raw + sizeof raw + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    memcpy(raw + (at - (uintptr_t)raw) - sizeof raw, &raw, sizeof raw);
    return (struct sk_dev){at};
}

static void ref_free(struct sk_backend *be, struct sk_dev d, uint64_t bytes)
{
    char *raw;
    if (d.a == 0)
        return;
    memcpy(&raw, (char *)sk_ref_ptr(d) - sizeof raw, sizeof raw);
    sk_free(raw);
}

static struct sk_dev ref_adopt(struct sk_backend *be, const void *host, uint64_t bytes)
{
    return (struct sk_dev){(uintptr_t)host};
}

static void ref_release(struct sk_backend *be, struct sk_dev d, uint64_t bytes)
{
}

static void ref_upload(struct sk_backend *be, struct sk_dev dst, const void *src, uint64_t bytes)
{
    memcpy(sk_ref_ptr(dst), src, bytes);
}

static void ref_copy(struct sk_backend *be, struct sk_dev dst, struct sk_dev src, uint64_t bytes)
{
    memmove(sk_ref_ptr(dst), sk_ref_ptr(src), bytes);
}

static void ref_fetch(struct sk_backend *be, void *dst, struct sk_dev src, uint64_t bytes)
{
    memcpy(dst, sk_ref_ptr(src), bytes);
}

static int ref_wait(struct sk_backend *be)
{
    const struct sk_ref *ref = be->ctx;
    return ref->failed ? -SK_EINTERNAL : 0;
}

static void ref_close(struct sk_backend *be)
{
    struct sk_ref *ref = be->ctx;
    sk_free(ref->scratch);
    sk_free(ref);
}

void *sk_ref_scratch(struct sk_backend *be, size_t bytes)
{
    struct sk_ref *ref = be->ctx;
    if (bytes <= ref->scratch_bytes)
        return ref->scratch;
    void *p = sk_realloc(ref->scratch, bytes);
    if (p == NULL) {
        ref->failed = true;
        return NULL;
    }
    ref->scratch = p;
    ref->scratch_bytes = bytes;
    return p;
}

static const struct sk_backend ref_table = {
    .name = "ref",
    .isa = "plain",
    .classes_equal = true,
    .n_thread = 1,
    .alloc = ref_alloc,
    .free = ref_free,
    .adopt = ref_adopt,
    .release = ref_release,
    .kv_block_bytes = sk_ref_kv_block_bytes,
    .upload = ref_upload,
    .copy = ref_copy,
    .embed = sk_ref_embed,
    .linear = sk_ref_linear,
    .attention = sk_ref_attention,
    .add = sk_ref_add,
    .gather = sk_ref_gather,
    .narrow = sk_ref_narrow,
    .widen = sk_ref_widen,
    .checksum = sk_ref_checksum,
    .logits_process = sk_ref_logits_process,
    .sample = sk_ref_sample,
    .top_n = sk_ref_top_n,
    .vote = sk_ref_vote,
    .vote_bytes = sk_ref_vote_bytes,
    .fetch = ref_fetch,
    .wait = ref_wait,
    .close = ref_close,
};

int sk_ref_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err)
{
    struct sk_ref *ref = sk_calloc(1, sizeof *ref);
    if (ref == NULL)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    ref->be = ref_table;
    ref->be.ctx = ref;
    *ret = &ref->be;
    return 0;
}
