/* The commands of a session: lines that begin with a slash. */
#ifndef SK_COMMAND_H
#define SK_COMMAND_H
#include <stddef.h>
#include "clients/skein/chat.h"

enum sk_command {
    SK_COMMAND_NONE, /* it is a question; a slash doubled at its start stands for one */
    SK_COMMAND_RUN,  /* it was a command, and is carried out, or c->notes says why not */
    SK_COMMAND_ASK,  /* likewise, and the last question is to be asked now */
    SK_COMMAND_QUIT
};

/* `text` is NUL-terminated. */
enum sk_command sk_command_run(struct sk_chat *c, const char *text);

#endif
