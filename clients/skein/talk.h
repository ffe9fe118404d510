/* A conversation: the system prompt and who said what, the requests made of it, and its file. Pure but for the file:
 *
 *   {"messages":[{"role":"system","content":"..."},{"role":"user",...},{"role":"assistant",...,"partial":true}]}
 *
 * `partial` marks an answer that was stopped or broke off. All texts are UTF-8. */
#ifndef SK_TALK_H
#define SK_TALK_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/buf.h"
#include "comm/base/conf.h"
#include "comm/base/err.h"

enum { SK_TALK_MAX_MESSAGES = 4096, SK_TALK_MAX_BYTES = 16 << 20 /* of all texts, and of a file */ };

struct sk_talk_message {
    char *text; /* owned */
    size_t n;
    bool is_answer, is_partial;
};

struct sk_talk {
    struct sk_talk_message system; /* its text is NULL: none */
    struct sk_talk_message *messages;
    size_t n_message, cap, n_bytes;
};

void sk_talk_init(struct sk_talk *t);
void sk_talk_done(struct sk_talk *t);
void sk_talk_reset(struct sk_talk *t); /* keeps the system prompt */
/* Each returns 0, -SK_EUTF8, -SK_ETOOBIG or -SK_ENOMEM; nothing is changed then. A question takes the place of one
 * before it that was not answered. */
int sk_talk_question(struct sk_talk *t, const char *s, size_t n, struct sk_err *err);
int sk_talk_answer(struct sk_talk *t, const char *s, size_t n, bool is_partial, struct sk_err *err);
int sk_talk_system(struct sk_talk *t, const char *s, size_t n, struct sk_err *err); /* n = 0: none */
/* Takes the last answer back, if there is one; false: no question is left to ask. */
bool sk_talk_again(struct sk_talk *t);

/* Appends the body of a streamed chat request; of `c`, the fields that were given. */
int sk_talk_request(const struct sk_talk *t, const char *model, const struct sk_conf *c, struct sk_buf *b);

/* A file written by save gives the same conversation; it is strict, and on failure the conversation stays as it was.
 * save replaces a file as a whole or not at all, and its own is for the user alone. Messages name the place. */
int sk_talk_save(const struct sk_talk *t, const char *path, struct sk_err *err);
int sk_talk_load(struct sk_talk *t, const char *path, struct sk_err *err);

#endif
