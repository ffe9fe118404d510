/* How an engine ended, and whether those on board are to blame. Private to server/job. */
#ifndef SK_END_H
#define SK_END_H
#include <stdbool.h>
#include <stddef.h>

/* Only of a crash and of a hang is somebody on board to blame; START is either of them before it was READY. */
enum sk_end { SK_END_CRASH, SK_END_HANG, SK_END_KILLED, SK_END_START };
const char *sk_end_name(enum sk_end end); /* as a label of skein_engine_ends_total */

enum sk_end_kind { /* whose child it was, which says what its status means */
                   SK_END_OURS,
                   SK_END_MPIRUNS,
                   SK_END_ANOTHERS /* no status at all */
};
struct sk_end_signs { /* what is known besides */
    enum sk_end_kind kind;
    char said[448];  /* why it gives up, as it said, or why we gave it up; "" = nothing */
    bool is_lost;    /* it said that a rank, a host or a link was lost */
    bool was_killed; /* by us, and that counts as `killed_as` */
    enum sk_end killed_as;
};
enum sk_end sk_end_of(const struct sk_end_signs *e, int wait_status, bool was_up);
void sk_end_describe(const struct sk_end_signs *e, int wait_status, char *ret, size_t n);

#endif
