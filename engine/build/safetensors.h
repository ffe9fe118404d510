/* Safetensors checkpoints (huggingface/safetensors, "Format"): model.safetensors, or the shards that
 * model.safetensors.index.json names. */
#ifndef SK_BUILD_SAFETENSORS_H
#define SK_BUILD_SAFETENSORS_H
#include "comm/base/err.h"
#include "engine/build/src.h"

/* Opens what lies in `dir`; the caller ends it with sk_src_done. -SK_ENOENT, -SK_EIO, -SK_EFORMAT, -SK_ENOMEM; the
 * message names the file. Tensors of types that skein has no name for are left out. */
int sk_safetensors_open(const char *dir, struct sk_src *ret, struct sk_err *err);
/* Adds the tensors of one file's bytes, which outlive `s`. Not sealed. */
int sk_safetensors_parse(struct sk_src *s, const void *p, size_t n, struct sk_err *err);
/* The files of `dir` in the order of the index, as paths: ret(arg, path) for each; stops at the first that is not 0. */
int sk_safetensors_files(const char *dir, int (*ret)(void *arg, const char *path, struct sk_err *err), void *arg,
                         struct sk_err *err);

#endif
