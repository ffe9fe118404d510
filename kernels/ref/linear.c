#include "kernels/ref/ref.h"

/* A weight row is dequantised once and used for all rows of activations. The sum starts from what is there (add) and
 * ends with the bias, all in double: one rounding per output. */
void sk_ref_linear(struct sk_backend *be, const struct sk_op_linear *op)
{
    const struct sk_pack *pack = &op->mat->pack;
    const float *bias = sk_ref_ptr(op->bias);
    const size_t n_in = pack->n_in;
    float *out = sk_ref_ptr(op->out);
    float *w = sk_ref_scratch(be, (op->n_row + 1) * n_in * sizeof *w);
    if (w == NULL)
        return;
    float *x = w + n_in;
    for (uint32_t r = 0; r < op->n_row; r++)
        sk_ref_pre(&op->pre, (const float *)sk_ref_ptr(op->x) + (size_t)r * op->ld_x, pack->n_in, x + r * n_in);
    for (uint32_t o = 0; o < pack->n_out; o++) {
        sk_pack_get_row(pack, sk_ref_ptr(op->mat->data), o, w);
        for (uint32_t r = 0; r < op->n_row; r++) {
            const float *in = x + r * n_in;
            float *y = out + (size_t)r * op->ld_out + o;
            double sum = op->add ? *y : 0;
            for (uint32_t i = 0; i < n_in; i++)
                sum += (double)w[i] * in[i];
            *y = (float)(bias != NULL ? sum + bias[o] : sum);
        }
    }
    for (uint32_t r = 0; r < op->n_row; r++) {
        for (uint32_t o = pack->n_out; o < SK_ALIGN16(pack->n_out); o++)
            out[(size_t)r * op->ld_out + o] = 0;
    }
}
