/* Any bytes as what a template helper says, in pieces: a frame is found at the same byte however they are cut, lies
 * within what came, and nothing is found after it. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "server/text/helper.h"

enum { MAX_RX = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(const struct sk_buf *rx, const struct sk_helper_frame *f)
{
    uint32_t len;
    memcpy(&len, rx->p, sizeof len);
    sk_assert(f->text == rx->p + sizeof len + 1 && f->n == len - 1 && rx->n == sizeof len + len);
    sk_assert(f->letter && strchr("ROBT", (char)f->letter));
}

/* Feeds pieces of `piece` bytes; *ret_at: how many had come when it was no longer 0. */
static int feed(const uint8_t *data, size_t n, size_t piece, size_t *ret_at)
{
    struct sk_buf rx;
    struct sk_helper_frame f;
    int rc = 0;
    sk_buf_init(&rx, MAX_RX);
    for (*ret_at = 0; rc == 0 && *ret_at < n;) {
        size_t k = n - *ret_at < piece ? n - *ret_at : piece;
        if (sk_buf_add(&rx, data + *ret_at, k) != 0)
            break;
        *ret_at += k;
        rc = sk_helper_read(&rx, &f);
        sk_assert(rc == 0 || rc == 1 || rc == -SK_EPROTO);
        if (rc == 1)
            check(&rx, &f);
    }
    sk_buf_done(&rx);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t at, whole_at;
    int rc = feed(data, n, 1, &at);
    if (at == 0)
        return 0;
    int whole = feed(data, at, at, &whole_at);
    sk_assert(whole == rc || whole_at == 0); /* byte by byte or at once */
    if (n > at && n <= MAX_RX && rc == 1)
        sk_assert(feed(data, n, n, &whole_at) == -SK_EPROTO);
    return 0;
}
