#!/bin/sh
# The contract and the tiny models at the level of CPUs without AVX-512: the other tests of whole models run at the
# highest level that the CPU has.
set -eu
if nm -D tests/unit/engine/test_contract | grep -q __asan_init; then
    echo "not with sanitizers: the kernels' own tests meet every level there"
    exit 77
fi
SKEIN_ISA=avx2
export SKEIN_ISA
tests/unit/engine/test_contract
tests/golden/test_tiny
