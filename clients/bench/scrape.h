/* What a benchmark reads beside its requests: the server's counters, and processes of this machine. */
#ifndef SK_SCRAPE_H
#define SK_SCRAPE_H
#include "clients/bench/round.h"
#include "clients/client/target.h"

enum { SK_SCRAPE_MAX_BYTES = 8 << 20, SK_SCRAPE_MAX_PIDS_TEXT = 256 };

/* GET of a JSON or text resource, waiting for it; appends the body. `path` as for sk_target_handle. Errors as of
 * sk_target_failed and sk_target_refused. */
int sk_scrape_get(const struct sk_target *t, const char *path, struct sk_buf *ret_body, struct sk_err *err);
/* The first of the server's models, into ret[size]. Also -SK_EMODEL: it lists none. */
int sk_scrape_model(const struct sk_target *t, char *ret, size_t size, struct sk_err *err);

/* Counters (and histograms' sums and counts) of the exposition format that are higher in `after`, appended to
 * r->deltas. Lines that are none are passed over. Pure. */
int sk_scrape_deltas(struct sk_round *r, const char *before, const char *after);

/* "12,34" -> r->pids, with what they have used so far. -SK_EINVAL, -SK_ENOENT. */
int sk_scrape_pids(const char *list, struct sk_round *r, struct sk_err *err);
void sk_scrape_pids_look(struct sk_round *r); /* now and then: the most memory */
/* The round is over: cpu_s becomes what it used since. A process that ended keeps what was seen last. */
void sk_scrape_pids_end(struct sk_round *r);

#endif
