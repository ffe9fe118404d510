/* kernels/cpu/attn_amx.c on emulated tiles. */
#ifndef EMULATED_ATTN_H
#define EMULATED_ATTN_H
#include "kernels/cpu/ktab.h"

void emulated_attn(struct sk_ktab *t);

#endif
