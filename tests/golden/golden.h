/* What the golden tests of the engine share: engine directories made by skein-build, reference files, and logits of
 * every position, read where the decoder left them (a test may know that the addresses of ref and cpu are the host's).
 * Asserts on failure. Environment: SK_SRCDIR the repository's root (default "."), SKEIN_BUILD the program (default
 * "./skein-build"). */
#ifndef SK_GOLDEN_H
#define SK_GOLDEN_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/json.h"
#include "engine/model/step.h"

struct golden_dir {
    char path[512];
    struct sk_dir dir;
    struct sk_weights w;
    bool temporary; /* made by golden_build, removed by golden_close */
};
/* Runs skein-build on tests/golden/SRC into a new temporary directory. */
void golden_build(struct golden_dir *g, const char *src);
/* Opens a directory that is there. */
void golden_open(struct golden_dir *g, const char *path);
void golden_close(struct golden_dir *g);
/* The widest arithmetic that its matrices ask of a backend which computes in their types: the last in SK_F32, F16,
 * BF16, Q8, Q4. */
enum sk_dtype golden_dtype(const struct golden_dir *g);

/* "ref" or "cpu"; NULL where this CPU has no cpu backend, which is printed. */
struct sk_backend *golden_backend(const char *name, int n_thread);

struct cJSON *golden_json(const char *rel); /* tests/golden/REL; to be freed */
/* Elements of an array of numbers, at most max. */
uint32_t golden_ids(const struct cJSON *array, int32_t *ret, uint32_t max);
uint32_t golden_floats(const struct cJSON *array, float *ret, uint32_t max);

/* Logits of all n positions, [n][n_vocab], computed in chunks of `chunk` tokens, all of prompt class, with KV of
 * kv_dtype. */
struct golden_run {
    const int32_t *ids;
    uint32_t n, chunk;
    enum sk_dtype kv_dtype;
};
void golden_logits(struct golden_dir *g, struct sk_backend *be, const struct golden_run *run, float *ret);

#endif
