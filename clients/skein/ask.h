/* One exchange with the server, to its end or until ^C. */
#ifndef SK_ASK_H
#define SK_ASK_H
#include <stddef.h>
#include <stdint.h>
#include "clients/client/target.h"
#include "clients/skein/reply.h"
#include "comm/base/err.h"

enum sk_ask_end {
    SK_ASK_DONE,
    SK_ASK_FAILED,    /* ours: memory, or the answer cannot be shown */
    SK_ASK_UNREACHED, /* no connection, or no trust in it */
    SK_ASK_REFUSED,   /* another status than 200 */
    SK_ASK_BROKEN,    /* what came is not an answer, or not all of one; its text is kept */
    SK_ASK_STOPPED    /* ^C; likewise */
};

/* More of the answer; other than 0 ends the exchange as FAILED, with `err` set. */
typedef int sk_ask_text(void *arg, const char *s, size_t n, struct sk_err *err);

struct sk_ask {
    const struct sk_target *target;
    sk_ask_text *on_text;
    void *arg;
    /* results, on sk_clock_us; 0: it did not happen */
    uint64_t sent_us, first_us, last_us; /* first and last text */
};

/* Posts `body` to /chat/completions; `r` (after sk_reply_init) holds the answer then. `err` says why it is not DONE. */
enum sk_ask_end sk_ask_chat(struct sk_ask *a, const char *body, size_t n, struct sk_reply *r, struct sk_err *err);
/* The first model that the server lists. */
enum sk_ask_end sk_ask_model(const struct sk_target *t, char *ret, size_t size, struct sk_err *err);

#endif
