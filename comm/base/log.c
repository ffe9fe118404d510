#include "comm/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/utf8.h"

#define LINE_MAX_BYTES 4096 /* PIPE_BUF: a write of it to a pipe is atomic */

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static char program_name[32] = "skein";
static atomic_int max_level = SK_LOG_INFO;

void sk_log_init(const char *program, enum sk_log_level level)
{
    snprintf(program_name, sizeof program_name, "%s", program);
    sk_log_level_set(level);
}

void sk_log_level_set(enum sk_log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

int sk_log_enabled(enum sk_log_level level)
{
    return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

static size_t put_head(char *line, size_t cap, enum sk_log_level level)
{
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(line, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, cap - n, ".%03ldZ %s %s: ", t.tv_nsec / 1000000, level_names[level], program_name);
    return n;
}

/* Copies s as printable UTF-8, so that no value can begin a line of its own or drive a terminal; stops where `cap`
 * ends. */
static size_t put_escaped(char *line, size_t cap, const char *s, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        char esc[16];
        uint32_t cp;
        int k = sk_utf8_next(s + i, n - i, &cp);
        size_t len = (size_t)(k < 0 ? -k : k);
        size_t esc_len = 0;
        if (cp == '\n')
            esc_len = (size_t)snprintf(esc, sizeof esc, "\\n");
        else if (k < 0 || cp < 0x20 || (cp >= 0x7F && cp < 0xA0))
            for (size_t j = 0; j < len; j++)
                esc_len += (size_t)snprintf(esc + esc_len, sizeof esc - esc_len, "\\x%02x", (uint8_t)s[i + j]);
        const char *from = esc_len ? esc : s + i;
        size_t from_len = esc_len ? esc_len : len;
        if (from_len > cap - out)
            break;
        memcpy(line + out, from, from_len);
        out += from_len;
        i += len;
    }
    return out;
}

void sk_log(enum sk_log_level level, const char *fmt, ...)
{
    if (!sk_log_enabled(level))
        return;
    char text[LINE_MAX_BYTES], line[LINE_MAX_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);

    size_t n_text = strlen(text);
    n_text -= sk_utf8_partial(text, n_text);
    size_t n = put_head(line, sizeof line, level);
    n += put_escaped(line + n, sizeof line - 1 - n, text, n_text);
    line[n++] = '\n';
    /* Nobody is left to tell when stderr is gone. */
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
}
