/* The configuration of a GGUF file: its metadata under general. and the architecture's own prefix. */
#ifndef SK_BUILD_GGCONF_H
#define SK_BUILD_GGCONF_H
#include "comm/base/err.h"
#include "engine/build/arch.h"
#include "engine/build/gguf.h"

/* -SK_EFORMAT, -SK_ETYPE, -SK_ERANGE, -SK_EUNSUP: says which key. */
int sk_ggconf_read(const struct sk_gguf *g, struct sk_hparams *ret, struct sk_err *err);

#endif
