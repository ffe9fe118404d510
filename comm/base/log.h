/* Log lines on stderr, one write(2) each, from any thread:
 *
 *   text  2026-11-22T12:00:00.123Z info skeind: request id=req-1 end=done ms=12
 *   json  {"time":"2026-11-22T12:00:00.123Z","level":"info","program":"skeind","event":"request","id":"req-1",...}
 *
 * sk_log is for sentences ("message" in JSON), sk_log_event for what programs read. Prompt and answer texts never go in
 * here, except as fields of an event that --log-prompts asks for. */
#ifndef SK_LOG_H
#define SK_LOG_H

enum sk_log_level { SK_LOG_ERROR, SK_LOG_WARN, SK_LOG_INFO, SK_LOG_DEBUG };

void sk_log_init(const char *program, enum sk_log_level level);
/* One of several ranks: each of its lines says so, "skein-engine[1@host]" or "rank" and "host" in JSON. */
void sk_log_rank_set(int rank, const char *host);
void sk_log_level_set(enum sk_log_level level);
void sk_log_json_set(int on); /* JSON lines from now on; text at first */
/* "error", "warn", "info" or "debug"; anything else is info. */
enum sk_log_level sk_log_level_of(const char *name);
int sk_log_enabled(enum sk_log_level level);
void sk_log(enum sk_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct sk_log_field { /* a string, or a number where `str` is NULL; one with NULL and `skip` is left out */
    const char *key, *str;
    double num;
    int skip;
};
/* A text value is quoted where it has blanks, quotes, '=' or nothing. A line has at most SK_LOG_LINE_MAX bytes: a text
 * that does not fit is cut and what comes after it left out; JSON then says "cut":true at its end. */
enum { SK_LOG_LINE_MAX = 16384 };
void sk_log_event(enum sk_log_level level, const char *event, const struct sk_log_field *fields, int n);

#endif
