#include "comm/base/log.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/utf8.h"

#define SENTENCE_MAX 4096
#define CUT_JSON     ",\"cut\":true}\n"

enum { N_LEVEL = 4, ESC_BYTES = 32 };
static const char *const level_names[N_LEVEL] = {"error", "warn", "info", "debug"};
static char program_name[32] = "skein";
static char rank_text[96], rank_json[128]; /* what a line says of the rank; "" = there is only one */
static atomic_int max_level = SK_LOG_INFO, is_json;

void sk_log_init(const char *program, enum sk_log_level level)
{
    snprintf(program_name, sizeof program_name, "%s", program);
    sk_log_level_set(level);
}

void sk_log_rank_set(int rank, const char *host)
{
    snprintf(rank_text, sizeof rank_text, "[%d@%s]", rank, host);
    snprintf(rank_json, sizeof rank_json, ",\"rank\":%d,\"host\":\"%s\"", rank, host);
}

void sk_log_level_set(enum sk_log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

void sk_log_json_set(int on)
{
    atomic_store_explicit(&is_json, on, memory_order_relaxed);
}

enum sk_log_level sk_log_level_of(const char *name)
{
    for (int i = 0; i < N_LEVEL; i++)
        if (strcmp(level_names[i], name) == 0)
            return (enum sk_log_level)i;
    return SK_LOG_INFO;
}

int sk_log_enabled(enum sk_log_level level)
{
    return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

/* ---- a line ---- */

struct line {
    char p[SK_LOG_LINE_MAX];
    size_t n, max; /* what ends the line fits behind max */
    bool json, cut;
};

/* All of it or nothing; after the first "nothing" the line stays as it is. */
static bool put(struct line *l, const char *s, size_t n)
{
    l->cut |= l->n + n > l->max;
    if (l->cut)
        return false;
    memcpy(l->p + l->n, s, n);
    l->n += n;
    return true;
}

static bool put_str(struct line *l, const char *s)
{
    return put(l, s, strlen(s));
}

/* Into esc; 0 = the character is written as it is. */
static size_t escape_json(char esc[ESC_BYTES], uint32_t cp)
{
    if (cp == '"' || cp == '\\' || cp == '\n')
        return (size_t)snprintf(esc, ESC_BYTES, "\\%c", cp == '\n' ? 'n' : (char)cp);
    if (cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0xFFFD)
        return (size_t)snprintf(esc, ESC_BYTES, "\\u%04x", cp);
    return 0;
}

/* Likewise. `s` is a character of `len` bytes, or -len bytes that are none. */
static size_t escape_text(char esc[ESC_BYTES], const char *s, int len, uint32_t cp, bool quoted)
{
    size_t n = 0;
    if (cp == '\n' || (quoted && (cp == '"' || cp == '\\')))
        return (size_t)snprintf(esc, ESC_BYTES, "\\%c", cp == '\n' ? 'n' : (char)cp);
    if (len < 0 || cp < 0x20 || (cp >= 0x7F && cp < 0xA0))
        for (int i = 0; i < (len < 0 ? -len : len); i++)
            n += (size_t)snprintf(esc + n, ESC_BYTES - n, "\\x%02x", (uint8_t)s[i]);
    return n;
}

/* As printable UTF-8, so that no value can begin a line of its own or drive a terminal. */
static void put_escaped(struct line *l, const char *s, size_t n, bool quoted)
{
    for (size_t i = 0; i < n && !l->cut;) {
        char esc[ESC_BYTES];
        uint32_t cp;
        int len = sk_utf8_next(s + i, n - i, &cp);
        size_t n_esc = l->json ? escape_json(esc, cp) : escape_text(esc, s + i, len, cp, quoted);
        size_t used = (size_t)(len < 0 ? -len : len);
        put(l, n_esc ? esc : s + i, n_esc ? n_esc : used);
        i += used;
    }
}

/* The closing quote always fits: a text that is cut is still a text. False: not even begun. */
static bool put_quoted(struct line *l, const char *s)
{
    l->max--;
    bool begun = put(l, "\"", 1);
    put_escaped(l, s, strlen(s), true);
    l->max++;
    if (begun)
        l->p[l->n++] = '"';
    return begun;
}

static void put_head(struct line *l, bool json, enum sk_log_level level)
{
    char at[32], head[256];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(head, sizeof head,
             json ? "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"program\":\"%s\"%s" : "%s.%03ldZ %s %s%s: ", at,
             t.tv_nsec / 1000000, level_names[level], program_name, json ? rank_json : rank_text);
    l->n = 0;
    l->max = sizeof l->p - (json ? sizeof CUT_JSON - 1 : 1);
    l->json = json;
    l->cut = false;
    put_str(l, head);
}

static void end_and_write(struct line *l)
{
    const char *end = !l->json ? "\n" : l->cut ? CUT_JSON : "}\n";
    memcpy(l->p + l->n, end, strlen(end));
    l->n += strlen(end);
    /* Nobody is left to tell when stderr is gone. */
    while (write(STDERR_FILENO, l->p, l->n) < 0 && errno == EINTR)
        ;
}

/* ---- fields ---- */

/* Those would read as the end of the value, or as another field. */
static bool needs_quotes(const char *s)
{
    return !*s || strpbrk(s, " \"=\\");
}

static bool put_number(struct line *l, double x)
{
    char text[40];
    bool whole = fabs(x) < 9007199254740992.0 && x == floor(x); /* 2^53 */
    if (!isfinite(x))
        snprintf(text, sizeof text, "%s", l->json ? "null" : isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    else
        snprintf(text, sizeof text, whole ? "%.0f" : "%.15g", x);
    return put_str(l, text);
}

static bool put_value(struct line *l, const struct sk_log_field *f)
{
    if (!f->str)
        return put_number(l, f->num);
    if (l->json || needs_quotes(f->str))
        return put_quoted(l, f->str);
    put_escaped(l, f->str, strlen(f->str), false);
    return true;
}

/* A text may be cut; a field of which there is no room for more than its name is left out. */
static void put_field(struct line *l, const struct sk_log_field *f)
{
    size_t before = l->n;
    bool named = put_str(l, l->json ? ",\"" : " ") && put_str(l, f->key) && put_str(l, l->json ? "\":" : "=");
    if (!named || !put_value(l, f))
        l->n = before;
}

/* ---- the calls ---- */

void sk_log(enum sk_log_level level, const char *fmt, ...)
{
    if (!sk_log_enabled(level))
        return;
    char text[SENTENCE_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = strlen(text);
    text[n - sk_utf8_partial(text, n)] = '\0';

    struct line l;
    put_head(&l, atomic_load_explicit(&is_json, memory_order_relaxed), level);
    if (l.json)
        put_field(&l, &(struct sk_log_field){.key = "message", .str = text});
    else
        put_escaped(&l, text, strlen(text), false);
    end_and_write(&l);
}

void sk_log_event(enum sk_log_level level, const char *event, const struct sk_log_field *fields, int n)
{
    if (!sk_log_enabled(level))
        return;
    struct line l;
    put_head(&l, atomic_load_explicit(&is_json, memory_order_relaxed), level);
    if (l.json)
        put_field(&l, &(struct sk_log_field){.key = "event", .str = event});
    else
        put_str(&l, event);
    for (int i = 0; i < n && !l.cut; i++)
        if (!fields[i].skip)
            put_field(&l, &fields[i]);
    end_and_write(&l);
}
