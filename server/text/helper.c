#include "server/text/helper.h"

#include <stdint.h>
#include <string.h>

int sk_helper_read(const struct sk_buf *rx, struct sk_helper_frame *ret)
{
    uint32_t n;
    if (rx->n < sizeof n)
        return 0;
    memcpy(&n, rx->p, sizeof n);
    if (n == 0 || n > rx->max - sizeof n || rx->n - sizeof n > n)
        return -SK_EPROTO;
    if (rx->n > sizeof n && !memchr("ROBT", rx->p[sizeof n], 4))
        return -SK_EPROTO;
    if (rx->n - sizeof n < n)
        return 0;
    *ret = (struct sk_helper_frame){
        .letter = (enum sk_helper_letter)rx->p[sizeof n], .text = rx->p + sizeof n + 1, .n = n - 1};
    return 1;
}
