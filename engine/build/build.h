/* Builds an engine directory from a checkpoint. */
#ifndef SK_BUILD_BUILD_H
#define SK_BUILD_BUILD_H
#include <stdio.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"

enum { SK_BUILD_DIGEST = 33 };

struct sk_build_conf {
    const char *src;   /* a GGUF file or a Hugging Face directory */
    const char *dtype; /* option dtype */
    unsigned n_thread; /* 0 = as many as this process may use */
    /* Called with 0 .. 100 now and then (99: all is written, the self-test comes); anything but 0 ends the build with
     * -SK_ECANCEL. May be NULL. */
    int (*progress)(void *arg, int percent);
    void *arg;
    FILE *report; /* what became of the tensors, as text; NULL = not wanted */
};

enum sk_build_kind { SK_BUILD_GGUF, SK_BUILD_HF, SK_BUILD_ENGINE_DIR };
/* What `src` is. -SK_ENOENT, -SK_EFORMAT (neither: says what is possible). */
int sk_build_detect(const char *src, enum sk_build_kind *ret, struct sk_err *err);

/* Fills the existing, empty directory `out`; config.json is written last. On failure it is half full.
 * -SK_ENOENT, -SK_EFORMAT, -SK_EUNSUP, -SK_EIO (disk full), -SK_ECANCEL, -SK_ENOMEM. */
int sk_build_fill(const struct sk_build_conf *c, const char *out, struct sk_err *err);
/* Makes `out`, which must not exist, all at once (outdir.h). */
int sk_build(const struct sk_build_conf *c, const char *out, struct sk_err *err);

/* The digest of the engine directory `dir`, 32 hexadecimal digits: over the tensor table (with the sums of all data),
 * the description in `d` and the compiled tokenizer. -SK_EIO, -SK_EFORMAT, -SK_ENOMEM. */
int sk_build_digest(const char *dir, const struct sk_dir *d, char ret[SK_BUILD_DIGEST], struct sk_err *err);
/* Is everything in `dir` as it was built? -SK_EFORMAT: names the tensor, or says that it is one of the other files. */
int sk_build_verify(const char *dir, uint32_t *ret_n_tensor, struct sk_err *err);

/* Computes d->selftest_logprobs of d->selftest_ids over the weights in `dir`, in f32 by the reference backend. */
int sk_build_selftest(const char *dir, struct sk_dir *d, struct sk_err *err);

#endif
