/* An answer looks the same however it is cut into pieces, and nothing in it reaches the terminal but text and our own
 * attributes. The first byte says how it is cut. */
#include <string.h>

#include "clients/client/plain.h"
#include "clients/skein/render.h"
#include "comm/base/utf8.h"

enum { MAX_OUT = 64 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Bytes of the first `n_char` characters; ill-formed text counts as what U+FFFD would stand for. */
static size_t characters(const char *s, size_t n, size_t n_char)
{
    size_t at = 0;
    for (; at < n && n_char; n_char--) {
        uint32_t cp;
        int len = sk_utf8_next(s + at, n - at, &cp);
        at += (size_t)(len < 0 ? -len : len);
    }
    return at;
}

static void render(enum sk_render_mode mode, const char *s, size_t n, size_t step, struct sk_buf *out)
{
    struct sk_render r;
    sk_buf_init(out, MAX_OUT);
    sk_render_init(&r, mode);
    while (n) {
        size_t used = characters(s, n, step);
        sk_render_text(&r, s, used, out);
        s += used;
        n -= used;
    }
    sk_render_end(&r, out);
    sk_assert(!out->failed);
}

/* Past "\x1b[0;1;2;36m" or shorter. */
static size_t skip_attribute(const char *s)
{
    sk_assert(s[0] == '\x1b' && s[1] == '[' && s[2] == '0');
    const size_t n = 2 + strspn(s + 2, "0123456;");
    sk_assert(s[n] == 'm' && n < 12);
    return n + 1;
}

static void check_safe(const struct sk_buf *b)
{
    for (size_t i = 0; i < b->n;) {
        uint32_t cp;
        int len = sk_utf8_next(b->p + i, b->n - i, &cp);
        sk_assert(len > 0);
        if (cp == 0x1B) {
            i += skip_attribute(b->p + i);
            continue;
        }
        sk_assert(!sk_plain_is_control(cp));
        i += (size_t)len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_buf whole, cut;
    if (n == 0)
        return 0;
    const char *s = (const char *)data + 1;
    for (enum sk_render_mode mode = SK_RENDER_PLAIN; mode <= SK_RENDER_STYLED; mode++) {
        render(mode, s, n - 1, n, &whole);
        render(mode, s, n - 1, 1 + data[0] % 16, &cut);
        sk_assert(whole.n == cut.n && (whole.n == 0 || memcmp(whole.p, cut.p, cut.n) == 0));
        check_safe(&whole);
        sk_buf_done(&whole);
        sk_buf_done(&cut);
    }
    return 0;
}
