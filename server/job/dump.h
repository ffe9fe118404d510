/* The flight recorder's segments as files, each a recording that `skein-engine --replay` takes:
 *
 *   DIR/flight-20261122T161800.123-PID-WHY-NUMBER[.NNN]      .NNN: where there is one of that name
 *
 * They hold prompts: mode 0600. Of each WHY the newest SK_DUMP_MAX_FILES are kept, so those that were asked for do not
 * push out those of a crash. Files of other names are not touched. */
#ifndef SK_DUMP_H
#define SK_DUMP_H
#include "comm/wire/board.h"

enum { SK_DUMP_MAX_FILES = 8, SK_DUMP_MAX_PATH = 1024 };

/* pid: of the engine, for the name. why: a word; what is not a lower-case letter or a digit of it becomes '-'. Makes
 * `dir` where it is not there. *ret_path: the newest segment's file. -SK_ENOENT: nothing was recorded; -SK_EIO. */
int sk_dump_write(const struct sk_board *b, const char *dir, int pid, const char *why, char ret_path[SK_DUMP_MAX_PATH],
                  struct sk_err *err);

#endif
