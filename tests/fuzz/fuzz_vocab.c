/* Any bytes as vocab.skv: what opens must serve any text. */
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "server/text/detok.h"
#include "server/text/token.h"
#include "tests/fuzz/serve_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_vocab *v;
    struct sk_err err;
    void *copy = sk_malloc(n); /* aligned, and its end is watched */
    if (copy) {
        memcpy(copy, data, n);
        if (sk_vocab_open_mem(copy, n, &v, &err) == 0) {
            serve_vocab(v);
            sk_vocab_close(v);
        }
    }
    sk_free(copy);
    return 0;
}
