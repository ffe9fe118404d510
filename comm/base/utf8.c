#include "comm/base/utf8.h"

#include <string.h>

/* One row of table 3-7: the length that a lead byte announces and the range of the second byte. Later bytes are
 * always 80..BF. `len` is 0 for bytes that begin nothing (80..C1, F5..FF). */
struct lead {
    uint8_t len, lo, hi;
};

static struct lead lead_of(uint8_t c)
{
    if (c < 0x80)
        return (struct lead){1, 0, 0};
    if (c < 0xC2 || c > 0xF4)
        return (struct lead){0, 0, 0};
    if (c < 0xE0)
        return (struct lead){2, 0x80, 0xBF};
    if (c < 0xF0) /* no overlong forms, no surrogates */
        return (struct lead){3, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF};
    return (struct lead){4, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF}; /* nothing past U+10FFFF */
}

/* Counts the bytes at s that fit `l`: l.len if the sequence is whole. */
static size_t fitting(struct lead l, const uint8_t *s, size_t n)
{
    size_t i = 1;
    if (i < l.len && i < n && s[i] >= l.lo && s[i] <= l.hi)
        for (i = 2; i < l.len && i < n && (s[i] & 0xC0) == 0x80;)
            i++;
    return i;
}

int sk_utf8_next(const char *s, size_t n, uint32_t *ret_cp)
{
    const uint8_t *u = (const uint8_t *)s;
    struct lead l = lead_of(u[0]);
    size_t k = fitting(l, u, n);
    if (k != l.len) {
        *ret_cp = 0xFFFD;
        return -(int)k;
    }
    uint32_t cp = l.len == 1 ? u[0] : u[0] & (0x7Fu >> l.len);
    for (size_t i = 1; i < k; i++)
        cp = cp << 6 | (u[i] & 0x3F);
    *ret_cp = cp;
    return (int)k;
}

int sk_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)(0xF00u >> n | cp); /* as many ones on top as bytes */
    return n;
}

bool sk_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint64_t w; /* eight ASCII bytes at a time: bodies are mostly that */
        if (n - i >= sizeof w && (memcpy(&w, s + i, sizeof w), (w & 0x8080808080808080u) == 0)) {
            i += sizeof w;
            continue;
        }
        uint32_t cp;
        int k = sk_utf8_next(s + i, n - i, &cp);
        if (k < 0)
            return false;
        i += (size_t)k;
    }
    return true;
}

size_t sk_utf8_partial(const char *s, size_t n)
{
    const uint8_t *end = (const uint8_t *)s + n;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        struct lead l = lead_of(*(end - k));
        if (l.len)
            return l.len > k && fitting(l, end - k, k) == k ? k : 0;
    }
    return 0;
}
