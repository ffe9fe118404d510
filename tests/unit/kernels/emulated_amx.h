/* The x86 backend with its AMX kernels on emulated tiles (kernels/cpu/tile_emulated.h), so that a CPU without AMX tests
 * them. */
#ifndef EMULATED_AMX_H
#define EMULATED_AMX_H
#include "kernels/kernels.h"

/* As sk_cpu_open; -SK_EUNSUP below avx512-bf16. name is "cpu, emulated amx", isa that of the level below. */
int emulated_amx_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

#endif
