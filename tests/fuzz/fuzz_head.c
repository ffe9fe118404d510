/* A request's head: the version on the first line, then a field a line, `name: value`; a field without a colon has no
 * value. */
#include <stdlib.h>
#include <string.h>

#include "comm/base/err.h"
#include "server/http/head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_HEADER = 512, MAX_BODY = 1000 };

static void check(const struct sk_head *h)
{
    int status = 0;
    const char *why = NULL;
    int rc = sk_head_check(h, MAX_HEADER, MAX_BODY, &status, &why);
    if (rc != 0) {
        sk_assert(rc < 0 && status >= 400 && status <= 599 && why && *why);
        return;
    }
    sk_assert(h->bytes <= MAX_HEADER && h->length <= MAX_BODY && status == 0 && !why);
    sk_assert(h->n_length + h->n_coding <= 1 && (h->n_length == 1 || h->length == 0)); /* one framing, or no body */
    sk_assert(!h->bad_name && !h->bad_value && !h->folded);
    sk_assert(h->n_host == 1 || (h->n_host == 0 && !h->http11));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_head h;
    char *text = malloc(n + 1);
    if (!text)
        abort();
    memcpy(text, data, n);
    text[n] = '\0';
    char *line = text, *next;
    for (bool first = true; line; first = false, line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        char *value = first ? NULL : strstr(line, ": ");
        if (value)
            *value = '\0';
        if (first)
            sk_head_init(&h, line);
        else
            sk_head_add(&h, line, value ? value + 2 : NULL);
    }
    check(&h);
    free(text);
    return 0;
}
