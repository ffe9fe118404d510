/* The configuration of a Hugging Face checkpoint: config.json with the keys of old and new transformers, and
 * generation_config.json. */
#ifndef SK_BUILD_HF_H
#define SK_BUILD_HF_H
#include "comm/base/err.h"
#include "engine/build/arch.h"

struct cJSON;

/* Reads `dir`. -SK_ENOENT, -SK_EJSON, -SK_ETYPE, -SK_ERANGE, -SK_EFORMAT, -SK_EUNSUP: says which key. */
int sk_hf_read(const char *dir, struct sk_hparams *ret, struct sk_err *err);
/* From a parsed config.json; `generation` may be NULL. */
int sk_hf_parse(const struct cJSON *config, const struct cJSON *generation, struct sk_hparams *ret, struct sk_err *err);

#endif
