/* What a generation request leaves behind: metrics, a line of the access log and, with --log-prompts, its texts. A
 * request that was only explained leaves nothing. */
#ifndef SK_ACCOUNT_H
#define SK_ACCOUNT_H
#include <stddef.h>
#include <stdint.h>

struct sk_gen;

enum sk_account_end {                 /* every request has exactly one */
                      SK_END_DONE,    /* answered to its last token */
                      SK_END_GONE,    /* the client left, or did not read */
                      SK_END_REFUSED, /* by what it asks, or by what is going on; also 429 and 503 */
                      SK_END_DEADLINE,
                      SK_END_POISON,
                      SK_END_ERROR,
                      SK_END_STOPPED /* the server stopped */
};

/* How it ended; `status` as the client saw it (499: not at all), `code` SK_Exxx or 0. Not for an explained one. */
void sk_account_end(const struct sk_gen *g, enum sk_account_end end, int status, int code);
/* A prompt or an answer; only its first SK_GEN_MAX_LOG_BYTES are logged. */
void sk_account_text(const struct sk_gen *g, const char *event, uint32_t index, const char *text, size_t n);

/* The trace-id of a traceparent header (W3C Trace Context, section 3.2; version 00): 32 hex digits. -SK_EINVAL where it
 * is NULL or not well formed. */
enum { SK_TRACE_DIGITS = 32 };
int sk_account_trace(const char *header, char ret[SK_TRACE_DIGITS + 1]);

#endif
