/* The x86 backend at the level avx2-vnni, so that a CPU with AVX-512 VNNI and without AVX-VNNI tests it. */
#ifndef EMULATED_AVXVNNI_H
#define EMULATED_AVXVNNI_H
#include "kernels/kernels.h"

/* As sk_cpu_open; -SK_EUNSUP below avx512-vnni. name is "cpu, emulated avx-vnni", isa "avx2". */
int emulated_avxvnni_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

#endif
