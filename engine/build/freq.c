#include "engine/build/freq.h"
#include <math.h>

static const double PI = 3.14159265358979323846;

/* The dimension whose wave turns `turns` times over orig_len positions. */
static double yarn_dim(double turns, uint32_t dim, double theta, double orig_len)
{
    return dim * log(orig_len / (turns * 2 * PI)) / (2 * log(theta));
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static float yarn(const struct sk_freq_conf *c, uint32_t dim, double orig_len, float *inv_freq)
{
    double low = yarn_dim(c->beta_fast, dim, c->theta, orig_len),
           high = yarn_dim(c->beta_slow, dim, c->theta, orig_len);

    if (!c->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < dim / 2; i++) {
        float ramp = (float)fmin(fmax((i - low) / (high - low), 0), 1), keep = 1 - ramp;
        inv_freq[i] = inv_freq[i] / (float)c->factor * (1 - keep) + inv_freq[i] * keep;
    }
    if (c->attn_factor > 0)
        return (float)c->attn_factor;
    if (c->mscale > 0 && c->mscale_all_dim > 0)
        return (float)(yarn_mscale(c->factor, c->mscale) / yarn_mscale(c->factor, c->mscale_all_dim));
    return (float)yarn_mscale(c->factor, 1);
}

static void llama3(const struct sk_freq_conf *c, uint32_t dim, double orig_len, float *inv_freq)
{
    for (uint32_t i = 0; i < dim / 2; i++) {
        float f = inv_freq[i], wave = (float)(2 * PI) / f;
        if (wave < (float)(orig_len / c->high_freq))
            continue;
        float slow = f / (float)c->factor;
        float smooth = ((float)orig_len / wave - (float)c->low_freq) / (float)(c->high_freq - c->low_freq);
        inv_freq[i] = wave > (float)(orig_len / c->low_freq) ? slow : (1 - smooth) * slow + smooth * f;
    }
}

static int check(const struct sk_freq_conf *c, double orig_len, struct sk_err *err)
{
    if (!(c->theta > 1 && c->theta < 1e30))
        return sk_err_set(err, SK_EFORMAT, "rope_theta", "rope_theta is %g, must be larger than 1", c->theta);
    if (c->kind != SK_FREQ_NONE && !(c->factor >= 1 && c->factor < 1e6))
        return sk_err_set(err, SK_EFORMAT, "rope_scaling", "rope_scaling.factor is %g, must be from 1 to 1e6",
                          c->factor);
    if ((c->kind == SK_FREQ_LLAMA3 || c->kind == SK_FREQ_YARN) && !(orig_len >= 1 && orig_len < 1e9))
        return sk_err_set(err, SK_EFORMAT, "rope_scaling", "rope_scaling's original length is %g", orig_len);
    if (c->kind == SK_FREQ_LLAMA3 && !(c->low_freq > 0 && c->high_freq > c->low_freq))
        return sk_err_set(err, SK_EFORMAT, "rope_scaling",
                          "rope_scaling.high_freq_factor %g must be above low_freq_factor %g, both positive",
                          c->high_freq, c->low_freq);
    if (c->kind == SK_FREQ_YARN && !(c->beta_slow > 0 && c->beta_fast >= c->beta_slow))
        return sk_err_set(err, SK_EFORMAT, "rope_scaling", "rope_scaling.beta_fast %g and beta_slow %g", c->beta_fast,
                          c->beta_slow);
    return 0;
}

int sk_freq_fill(const struct sk_freq_conf *c, uint32_t dim, uint32_t max_len, float *inv_freq, float *ret_mscale,
                 struct sk_err *err)
{
    double orig_len = c->orig_len > 0 ? c->orig_len : max_len;
    float mscale = 1;
    int rc = check(c, orig_len, err);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < dim / 2; i++)
        inv_freq[i] = 1 / (float)pow(c->theta, (double)((float)(2 * i) / (float)dim));
    if (c->factors) {
        for (uint32_t i = 0; i < dim / 2; i++) {
            if (!(c->factors[i] > 0 && isfinite(c->factors[i])))
                return sk_err_set(err, SK_EFORMAT, "rope_freqs", "rope factor %u is %g, must be positive", i,
                                  (double)c->factors[i]);
            inv_freq[i] /= c->factors[i];
        }
    } else if (c->kind == SK_FREQ_LINEAR) {
        for (uint32_t i = 0; i < dim / 2; i++)
            inv_freq[i] /= (float)c->factor;
    } else if (c->kind == SK_FREQ_LLAMA3) {
        llama3(c, dim, orig_len, inv_freq);
    } else if (c->kind == SK_FREQ_YARN) {
        mscale = yarn(c, dim, orig_len, inv_freq);
    }
    *ret_mscale = mscale;
    return 0;
}
