/* bench_roof [THREADS]: what this machine can read and multiply at most, as one JSON object. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/roof.h"

int main(int argc, char **argv)
{
    struct roof r;
    if (roof_measure(argc > 1 ? atoi(argv[1]) : 0, &r) < 0) {
        fprintf(stderr, "bench_roof: no AVX-512 with VNNI, or no memory\n");
        return 1;
    }
    printf("{\"threads\": %d, \"read\": %.0f, \"read_96m\": %.0f, \"int8\": %.0f, \"f32\": %.0f, \"bf16\": %.0f, "
           "\"amx_bf16\": %.0f, \"amx_int8\": %.0f}\n",
           r.n_thread, r.read, r.read_96m, r.int8, r.f32, r.bf16, r.amx_bf16, r.amx_int8);
    return 0;
}
