#include "tests/fuzz/serve_vocab.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "server/text/detok.h"
#include "server/text/token.h"

static void stream(const struct sk_vocab *v, const int32_t *ids, size_t n, const struct sk_stop *stop)
{
    struct sk_detok *d;
    struct sk_buf out;
    if (sk_detok_new(v, stop, false, &d))
        return;
    sk_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < n; i++)
        if (sk_detok_push(d, ids[i], true, &out))
            break;
    sk_detok_flush(d, &out);
    sk_assert(sk_utf8_valid(out.p ? out.p : "", out.n));
    sk_buf_done(&out);
    sk_detok_free(d);
}

static void round_trip(struct sk_token *t, const struct sk_vocab *v, const char *s, enum sk_token_mode mode)
{
    static const char *const str[] = {"ab", "bc", "\n"};
    static const uint32_t len[] = {2, 2, 1};
    struct sk_stop stop = {.n = 3, .str = str, .len = len};
    struct sk_err err;
    struct sk_buf out;
    int32_t *ids;
    size_t n;
    if (sk_token_encode(t, s, strlen(s), mode, true, 1000, &ids, &n, &err))
        return;
    sk_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < n; i++)
        sk_assert(ids[i] >= 0 && (uint32_t)ids[i] < sk_vocab_size(v));
    if (sk_token_decode(v, ids, n, false, &out, &err) == 0)
        sk_assert(sk_utf8_valid(out.p ? out.p : "", out.n));
    sk_buf_done(&out);
    stream(v, ids, n, NULL);
    stream(v, ids, n, &stop);
    sk_free(ids);
}

void serve_vocab(const struct sk_vocab *v)
{
    static const char *const texts[] = {"",
                                        " ab  abc\n",
                                        "<|x|> a <y>b12 3\xC3\xA9\xCC\x81",
                                        "<" SK_TOKEN_GUARD "|x|>" SK_TOKEN_GUARD,
                                        "\xF0\x9F\x98\x80\xFF\xE2\x82 aaaaaaaaaaaaaaaa",
                                        "\xE2\x96\x81 Hello, World's 'LL \t\r\n"};
    struct sk_token *t;
    struct sk_err err;
    int32_t ids[256];
    for (uint32_t i = 0; i < sk_vocab_n_controls(v); i++)
        sk_assert(sk_vocab_control(v, i) < sk_vocab_size(v));
    uint32_t n = sk_vocab_size(v) < 256 ? sk_vocab_size(v) : 256;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)i;
    stream(v, ids, n, NULL);
    if (sk_token_new(v, &t, &err))
        return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        round_trip(t, v, texts[i], SK_TOKEN_SPECIALS);
        round_trip(t, v, texts[i], SK_TOKEN_PLAIN);
    }
    sk_token_free(t);
}
