/* Kernel code between the two is built with the instruction sets of the *_bf16.c files. */
#ifndef BF16_TARGET_H
#define BF16_TARGET_H

#ifdef __clang__
#define BF16_TARGET_BEGIN                                                                                              \
    _Pragma("clang attribute push(__attribute__((target(\"avx512dq,avx512vl,avx512bf16\"))), apply_to = function)")
#define BF16_TARGET_END _Pragma("clang attribute pop")
#else
#define BF16_TARGET_BEGIN                                                                                              \
    _Pragma("GCC push_options") _Pragma("GCC target(\"f16c,fma,avx512bw,avx512dq,avx512vl,avx512bf16\")")
#define BF16_TARGET_END _Pragma("GCC pop_options")
#endif

#endif
