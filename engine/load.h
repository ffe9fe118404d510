/* From options to an open rank: engine directory, weights, backend, memory plan, self-test. */
#ifndef SK_LOAD_H
#define SK_LOAD_H
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "engine/batch/loop.h"
#include "engine/batch/record.h"
#include "engine/model/step.h"

/* Told as loading goes on. */
typedef void sk_load_cb(void *arg, uint32_t permille, const char *text);

struct sk_load {
    struct sk_dir dir;
    struct sk_weights weights;
    struct sk_backend *be;
    struct sk_rank *rank;
    struct sk_rank_conf rank_conf;
    struct sk_rank_need need;
    char isa[32]; /* "cpu/avx512-bf16" */
};

/* Opens everything and runs the self-test. `replay` (may be NULL): sizes as that recording has them, instead of the
 * options'. The memory plan goes to the log. -SK_ENOMEM with the numbers where it exceeds what the machine or the
 * cgroup has; -SK_EFORMAT for a self-test that does not match. */
int sk_load_open(const struct sk_conf *conf, const struct sk_record_head *replay, sk_load_cb *cb, void *arg,
                 struct sk_load *ret, struct sk_err *err);
void sk_load_close(struct sk_load *l);
/* The batch manager for this rank, as the options say; and its recording, if they ask for one. */
int sk_load_loop(const struct sk_load *l, const struct sk_conf *conf, struct sk_record **ret_record,
                 struct sk_loop **ret, struct sk_err *err);

/* Bytes that this process may still take: MemAvailable, and what is left under every memory limit of its cgroup. */
uint64_t sk_load_memory(void);

#endif
