#include "tests/unit/kernels/emulated_amx.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/unit/kernels/emulated_attn.h"
#include "tests/unit/kernels/emulated_gemm_f.h"
#include "tests/unit/kernels/emulated_gemm_q.h"

int emulated_amx_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err)
{
    struct sk_backend *be;
    int rc = sk_cpu_open(conf, &be, err);
    if (rc < 0)
        return rc;
    if (strcmp(be->isa, sk_isa_name(SK_ISA_AVX512_BF16)) != 0 && strcmp(be->isa, sk_isa_name(SK_ISA_AMX)) != 0) {
        be->close(be);
        return sk_err_set(err, SK_EUNSUP, NULL, "emulated AMX needs AVX-512 BF16");
    }
    struct sk_cpu *cpu = be->ctx;
    emulated_gemm_q(&cpu->k); /* as sk_ktab_fill has them */
    emulated_gemm_f(&cpu->k);
    emulated_attn(&cpu->k);
    be->name = "cpu, emulated amx";
    be->classes_equal = sk_ktab_classes_equal(&cpu->k);
    *ret = be;
    return 0;
}
