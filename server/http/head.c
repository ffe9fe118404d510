#include "server/http/head.h"

#include <string.h>
#include <strings.h>
#include "comm/base/err.h"

void sk_head_init(struct sk_head *h, const char *version)
{
    memset(h, 0, sizeof *h);
    h->http11 = strcmp(version, "HTTP/1.0") != 0;
}

static void add_length(struct sk_head *h, const char *value)
{
    size_t digits = strspn(value, "0123456789");
    h->n_length++;
    if (digits == 0 || digits > 18 || value[digits] != '\0') {
        h->bad_length = true;
        return;
    }
    h->length = 0;
    for (size_t i = 0; i < digits; i++)
        h->length = h->length * 10 + (uint64_t)(value[i] - '0');
}

/* "Content-Length:" CR LF " 3" arrives as a field "Content-Length3". */
static bool is_longer(const char *name, const char *framing)
{
    size_t n = strlen(framing);
    return strncasecmp(name, framing, n) == 0 && name[n] != '\0';
}

void sk_head_add(struct sk_head *h, const char *name, const char *value)
{
    if (!value)
        value = "";
    if (!*name || name[strcspn(name, " \t\r\n\"(),/:;<=>?@[\\]{}")] != '\0')
        h->bad_name = true;
    if (strchr(value, '\r'))
        h->bad_value = true;
    if (is_longer(name, "content-length") || is_longer(name, "transfer-encoding"))
        h->folded = true;
    h->bytes += strlen(name) + strlen(value) + 4; /* ": " and CRLF */
    if (strcasecmp(name, "host") == 0) {
        h->n_host++;
    } else if (strcasecmp(name, "content-length") == 0) {
        add_length(h, value);
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        h->n_coding++;
        if (strcasecmp(value, "chunked") != 0)
            h->bad_coding = true;
    } else if (strcasecmp(name, "content-encoding") == 0) {
        if (*value && strcasecmp(value, "identity") != 0)
            h->encoded = true;
    }
}

int sk_head_check(const struct sk_head *h, size_t max_header, size_t max_body, int *ret_status, const char **ret_why)
{
    const struct {
        bool bad;
        int status, code;
        const char *why;
    } rules[] = {
        {h->bytes > max_header, 431, SK_ETOOBIG, "The request header is too large."},
        {h->bad_name, 400, SK_EINVAL, "A header's name has a character in it that names cannot have."},
        {h->bad_value, 400, SK_EINVAL, "A header's value has a carriage return in it."},
        {h->folded, 400, SK_EINVAL, "A header that frames the message must be a single line."},
        {h->http11 && h->n_host == 0, 400, SK_EINVAL, "The Host header is missing."},
        {h->n_host > 1, 400, SK_EINVAL, "There is more than one Host header."},
        {h->n_length > 0 && h->n_coding > 0, 400, SK_EINVAL,
         "Content-Length and Transfer-Encoding exclude each other."},
        {h->n_length > 1, 400, SK_EINVAL, "There is more than one Content-Length header."},
        {h->bad_length, 400, SK_EINVAL, "Content-Length is not a number."},
        {!h->http11 && h->n_coding > 0, 400, SK_EINVAL, "HTTP/1.0 has no Transfer-Encoding."},
        {h->n_coding > 1 || h->bad_coding, 501, SK_ENOTIMPL, "The only transfer coding is chunked."},
        {h->encoded, 415, SK_EMEDIA, "Content-Encoding is not supported: send the body as it is."},
        {h->length > max_body, 413, SK_ETOOBIG, "The request body is too large."},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].bad) {
            *ret_status = rules[i].status;
            *ret_why = rules[i].why;
            return -rules[i].code;
        }
    }
    return 0;
}
