#include "tests/unit/kernels/emulated_avxvnni.h"

#include "kernels/cpu/cpu.h"
#include "tests/unit/kernels/emulated_gemm_q.h"

int emulated_avxvnni_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err)
{
    struct sk_backend *be;

    if (!(sk_isa_detect() >> SK_ISA_AVX512_VNNI & 1))
        return sk_err_set(err, SK_EUNSUP, NULL, "emulated AVX-VNNI needs AVX-512 VNNI");
    int rc = sk_cpu_open(conf, &be, err);
    if (rc < 0)
        return rc;
    emulated_gemm_q(&((struct sk_cpu *)be->ctx)->k);
    be->name = "cpu, emulated avx-vnni";
    *ret = be;
    return 0;
}
