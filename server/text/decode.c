#include "server/text/decode.h"

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"
#include "server/text/token.h"

int sk_decode_lossy(struct sk_buf *buf, const char **s, size_t *n)
{
    if (sk_utf8_valid(*s, *n))
        return 0;
    size_t before = buf->n;
    for (size_t i = 0; i < *n;) {
        uint32_t cp;
        int k = sk_utf8_next(*s + i, *n - i, &cp);
        if (k > 0)
            sk_buf_add(buf, *s + i, (size_t)k);
        else
            sk_buf_str(buf, SK_DECODE_REPLACEMENT);
        i += (size_t)(k > 0 ? k : -k);
    }
    if (buf->failed)
        return buf->failed;
    *s = buf->p + before;
    *n = buf->n - before;
    return 0;
}

/* The ByteFallback decoder's rule: byte tokens in a row are one string, or each is a U+FFFD. */
static void end_run(struct sk_buf *raw, size_t start)
{
    size_t n = raw->n - start;
    if (raw->failed || n == 0 || sk_utf8_valid(raw->p + start, n))
        return;
    raw->n = start;
    while (n--)
        sk_buf_str(raw, SK_DECODE_REPLACEMENT);
}

int sk_token_decode(const struct sk_vocab *v, const int32_t *ids, size_t n, bool skip_special, struct sk_buf *out,
                    struct sk_err *err)
{
    struct sk_buf raw, text;
    sk_buf_init(&raw, out->max);
    sk_buf_init(&text, out->max);
    bool first = true, in_run = false;
    size_t run = 0; /* where the byte tokens in a row begin */
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= v->n_word) {
            rc = sk_err_set(err, SK_ERANGE, NULL, "token id %d at index %zu; the vocabulary has %u", ids[i], i,
                            v->n_word);
            goto out;
        }
        const struct sk_vocab_word *w = &v->words[ids[i]];
        if (skip_special && (w->flags & SK_TOK_SPECIAL))
            continue;
        bool is_byte = w->flags & SK_TOK_BYTE;
        if (in_run && !is_byte)
            end_run(&raw, run);
        if (!in_run)
            run = raw.n;
        in_run = is_byte;
        size_t from = first ? sk_decode_leading(v, w) : 0;
        sk_buf_add(&raw, sk_vocab_at(v, w->bytes) + from, w->bytes.n - from);
        first = false;
    }
    if (in_run)
        end_run(&raw, run);
    const char *s = raw.p;
    size_t n_text = raw.n;
    rc = raw.failed ? raw.failed : sk_decode_lossy(&text, &s, &n_text);
    for (uint32_t k = v->head->strip_start; k && n_text && *s == ' '; k--, s++)
        n_text--;
    if (rc == 0)
        rc = sk_buf_add(out, s, n_text);
    if (rc)
        sk_err_set(err, -rc, NULL, "decoding %zu tokens: %s", n, sk_err_text(rc));
out:
    sk_buf_done(&raw);
    sk_buf_done(&text);
    return rc;
}
