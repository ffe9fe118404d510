#include "clients/client/plain.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/utf8.h"

enum { MAX_SPELLING = 8 }; /* \u202e and a NUL */

bool sk_plain_is_control(uint32_t cp)
{
    if (cp < 0x20)
        return cp != '\n' && cp != '\t';
    return (cp >= 0x7F && cp < 0xA0) || cp == 0x061C || cp == 0x200E || cp == 0x200F ||
           (cp >= 0x202A && cp <= 0x202E) || (cp >= 0x2066 && cp <= 0x2069);
}

/* Takes one character; what to show for it goes into text. Returns its bytes. */
static size_t spell(const char **s, size_t *n, char text[MAX_SPELLING])
{
    uint32_t cp;
    int len = sk_utf8_next(*s, *n, &cp);
    size_t used = (size_t)(len < 0 ? -len : len);
    if (sk_plain_is_control(cp))
        len = snprintf(text, MAX_SPELLING, cp < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)cp);
    else
        len = sk_utf8_put(cp, text);
    *s += used;
    *n -= used;
    return (size_t)len;
}

int sk_plain_put(struct sk_buf *b, const char *s, size_t n)
{
    char text[MAX_SPELLING];
    while (n && !b->failed) {
        size_t len = spell(&s, &n, text);
        sk_buf_add(b, text, len);
    }
    return b->failed;
}

void sk_plain_line(char *dst, size_t size, const char *s, size_t n)
{
    char text[MAX_SPELLING];
    size_t at = 0;
    while (n) {
        size_t len = spell(&s, &n, text);
        if (len >= size - at)
            break;
        memcpy(dst + at, *text == '\n' || *text == '\t' ? " " : text, len);
        at += len;
    }
    dst[at] = '\0';
}
