/* What ranks did when, for people: skein-engine --timeline FILE writes it in Chrome's trace event format, which
 * ui.perfetto.dev and chrome://tracing show. Each rank keeps its own events in memory of fixed size; what does not fit
 * is counted and said. NULL as a timeline is allowed everywhere and costs nothing. Owner: the rank's control thread. */
#ifndef SK_TIMELINE_H
#define SK_TIMELINE_H
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum sk_timeline_what {
    SK_TIMELINE_STEP,       /* arg: its number */
    SK_TIMELINE_LAYERS,     /* the stage's layers; arg: rows */
    SK_TIMELINE_HEAD,       /* head and sampling; arg: result rows */
    SK_TIMELINE_COLLECTIVE, /* arg: 4-byte words */
    SK_TIMELINE_SEND,       /* to the next stage; arg: 4-byte words */
    SK_TIMELINE_RECV,       /* from the one before, the wait for it included */
    SK_TIMELINE_PLAN,       /* the leader decides and writes a plan */
    SK_TIMELINE_COUNT
};
struct sk_timeline;
int sk_timeline_open(uint32_t max_event, struct sk_timeline **ret); /* -SK_ENOMEM */
void sk_timeline_close(struct sk_timeline *t);
void sk_timeline_add(struct sk_timeline *t, enum sk_timeline_what what, uint64_t from_us, uint64_t arg); /* until now */
/* This rank's events as bytes that sk_timeline_write understands; then the file from those of all ranks, one after the
 * other. `host` names the process in the picture. */
int sk_timeline_pack(const struct sk_timeline *t, int rank, const char *host, struct sk_buf *out);
int sk_timeline_write(const char *path, const void *packed, size_t n, struct sk_err *err);

#endif
