#include "kernels/cpu/tile_amx.h"

#include "tests/bench/roof.h"

/* Tiles 0..3 are sums, 4..7 operands, all 0: what they hold makes no difference in time. */
static void begin(void)
{
    amx_config_whole();
    amx_zero(0);
    amx_zero(1);
    amx_zero(2);
    amx_zero(3);
    amx_zero(4);
    amx_zero(5);
    amx_zero(6);
    amx_zero(7);
}

double roof_amx_bf16(uint32_t n_round)
{
    begin();
    for (uint32_t i = 0; i < n_round; i++) {
        amx_dp_bf16(0, 4, 6);
        amx_dp_bf16(1, 4, 7);
        amx_dp_bf16(2, 5, 6);
        amx_dp_bf16(3, 5, 7);
    }
    amx_release();
    return (double)n_round * 4 * 16 * 16 * 32 * 2;
}

double roof_amx_int8(uint32_t n_round)
{
    begin();
    for (uint32_t i = 0; i < n_round; i++) {
        amx_dp_su8(0, 4, 6);
        amx_dp_su8(1, 4, 7);
        amx_dp_su8(2, 5, 6);
        amx_dp_su8(3, 5, 7);
    }
    amx_release();
    return (double)n_round * 4 * 16 * 16 * 64 * 2;
}
