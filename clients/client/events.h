/* Server-sent events as they come in: bytes of a body in any pieces -> events. Pure; the grammar is the one of the
 * WHATWG HTML standard, section 9.2: lines end in LF, CR or CRLF, a line that begins with ':' is a comment, several
 * data lines are joined by LF, a byte order mark at the start is passed over. Bytes are passed on as they are: whether
 * the data is UTF-8 is for its reader to judge. */
#ifndef SK_EVENTS_H
#define SK_EVENTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum { SK_EVENTS_MAX_NAME = 64 }; /* bytes of an event's name, NUL included */

struct sk_events {
    struct sk_buf line;         /* the line that is not ended yet */
    struct sk_buf data;         /* of the event that is not ended yet */
    char name[SK_EVENTS_MAX_NAME]; /* likewise */
    size_t max_bytes;
    uint64_t n_line; /* lines ended so far */
    uint64_t n_event;
    uint64_t first_line; /* of the event that is not ended yet; 0: none is open */
    uint64_t odd_line;   /* the first line that is no field, which the standard passes over; 0: none */
    bool has_data;       /* a data line came, maybe an empty one */
    bool was_cr;         /* a LF now belongs to the line before */
    bool clear;          /* the event was handed out */
};

struct sk_event { /* valid until the next call */
    const char *name; /* "message" where the server gave none */
    const char *data; /* NUL-terminated past n */
    size_t n;
    uint64_t line; /* where it began, from 1 */
};

/* An event's data, and a line, have at most `max_bytes`. */
void sk_events_init(struct sk_events *s, size_t max_bytes);
void sk_events_done(struct sk_events *s);
/* Takes bytes from *p (advanced; *n becomes what is left) up to the end of an event. 1: *ret is one, call again with
 * the rest; 0: all was taken and no event ended; -SK_ETOOBIG (the message says the line), -SK_ENOMEM, and again at
 * every later call. */
int sk_events_next(struct sk_events *s, const char **p, size_t *n, struct sk_event *ret, struct sk_err *err);
/* The body ended: -SK_EPROTO if it did so inside an event, which is lost. */
int sk_events_end(const struct sk_events *s, struct sk_err *err);

#endif
