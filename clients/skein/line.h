/* The user's lines, edited with libedit, and their history: $XDG_STATE_HOME/skein/history (or ~/.local/state/...),
 * which is for the user alone. */
#ifndef SK_LINE_H
#define SK_LINE_H
#include <stddef.h>
#include "comm/base/err.h"

enum { SK_LINE_MAX_HISTORY = 1000 /* lines */ };

struct sk_line;

/* On standard input and, where that is a terminal, standard output, else standard error. Without a place for the
 * history there is none; `err` then says why, and 0 is returned. -SK_ENOMEM. */
int sk_line_open(struct sk_line **ret, struct sk_err *err);
void sk_line_close(struct sk_line *l); /* writes the history */
/* 1: a line, without its end, in *ret until the next call; 0: end of input; -SK_ECANCEL: ^C; -SK_EIO. */
int sk_line_read(struct sk_line *l, const char *prompt, const char **ret, size_t *ret_n);

#endif
