#!/bin/sh
# The programs start on any x86-64: instructions above it are in the libraries of one level only (SIMD), which the table
# of kernels/cpu/ktab.h leads to. All that those offer the others says its level in its name: nothing that a header
# defines may be taken from them.
# Usage: BASE="lib.a ..." SIMD="lib.a ..." tests/lint/isa.sh
set -eu
rc=0

for lib in $BASE; do
    if objdump -d --no-show-raw-insn "$lib" | grep -q -m 1 '%[yz]mm'; then
        echo "$lib: AVX outside the kernels of a level:"
        objdump -d --no-show-raw-insn "$lib" | awk '/file format/ {o = $1} /%[yz]mm/ {print "  " o}' | sort -u
        rc=1
    fi
done
for lib in $SIMD; do
    odd=$(nm --defined-only --extern-only "$lib" | awk 'NF == 3 && $3 !~ /^sk_.*_(avx2|avxvnni|avx512|vnni|bf16|amx)$/ {print $3}')
    if [ -n "$odd" ]; then
        echo "$lib: offered without a level in the name:" $odd
        rc=1
    fi
done
exit $rc
