/* What a template helper says (server/text/tmpl_helper.py): frames of a length, uint32 as this machine writes it, a
 * letter and a text, at most one for each that it was sent. The length counts the letter and the text. */
#ifndef SK_HELPER_H
#define SK_HELPER_H
#include <stddef.h>
#include "comm/base/buf.h"

enum sk_helper_letter {
    SK_HELPER_READY = 'R',
    SK_HELPER_OUTPUT = 'O',  /* the text is the prompt */
    SK_HELPER_BIG = 'B',     /* it would be too long; the text says so */
    SK_HELPER_TROUBLE = 'T', /* the text is the error, of the template or of the helper's start */
};
struct sk_helper_frame {
    enum sk_helper_letter letter;
    const char *text; /* n bytes of the buffer, any at all */
    size_t n;
};

/* Reads the frame that rx begins with, of what came since the last one. 1: *ret is it. 0: it is not whole yet.
 * -SK_EPROTO: a length that rx can never hold, more than one frame, or a letter of no meaning. */
int sk_helper_read(const struct sk_buf *rx, struct sk_helper_frame *ret);

#endif
