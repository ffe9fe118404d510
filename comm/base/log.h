/* Log lines on stderr: `2026-11-22T12:00:00.123Z info skeind: event key=value ...`. One write(2) a line; any thread.
 * Prompt and answer texts never go in here. */
#ifndef SK_LOG_H
#define SK_LOG_H

enum sk_log_level { SK_LOG_ERROR, SK_LOG_WARN, SK_LOG_INFO, SK_LOG_DEBUG };

void sk_log_init(const char *program, enum sk_log_level level);
void sk_log_level_set(enum sk_log_level level);
int sk_log_enabled(enum sk_log_level level);
void sk_log(enum sk_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
