/* A session: settings, conversation, and where things are shown. Without a terminal of its own, so that it can be
 * tested; main.c and line.c have that. */
#ifndef SK_CHAT_H
#define SK_CHAT_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "clients/client/target.h"
#include "clients/skein/ask.h"
#include "clients/skein/render.h"
#include "clients/skein/talk.h"
#include "comm/base/conf.h"

enum { SK_CHAT_MAX_MODEL = 256 };

struct sk_chat {
    struct sk_conf conf;
    struct sk_target target;
    struct sk_talk talk;
    struct sk_render render;
    char model[SK_CHAT_MAX_MODEL]; /* "": not known yet */
    FILE *out, *notes;             /* borrowed: answers; everything else */
    struct {                       /* of the last answer */
        int64_t n_tok;
        bool is_counted; /* by the server; else they are pieces */
        uint64_t first_us, all_us;
    } stats;
};

/* Of the options in `conf`, which is copied. -SK_EINVAL, -SK_ENOENT, ...: url, key, files. */
int sk_chat_init(struct sk_chat *c, const struct sk_conf *conf, enum sk_render_mode mode, struct sk_err *err);
void sk_chat_done(struct sk_chat *c);
/* Finds out the model unless it is known. */
enum sk_ask_end sk_chat_find_model(struct sk_chat *c, struct sk_err *err);
/* Asks the conversation's last question and shows the answer as it comes. What came of it is in the conversation,
 * marked as partial if it was stopped or broke off. */
enum sk_ask_end sk_chat_ask(struct sk_chat *c, struct sk_err *err);
/* "[40 tokens, the first after 0.15 s, then 61.2 a second]" */
void sk_chat_show_stats(const struct sk_chat *c);

#endif
