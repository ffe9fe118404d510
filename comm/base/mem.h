/* Allocation behind our own names. All of the tree allocates through these, so that a test can count allocations
 * and make the n-th one fail. */
#ifndef SK_MEM_H
#define SK_MEM_H
#include <stddef.h>
#include <stdint.h>

void *sk_malloc(size_t n); /* NULL when out of memory; n = 0 gives a unique pointer */
void *sk_calloc(size_t n, size_t size);
void *sk_realloc(void *p, size_t n);
char *sk_strdup(const char *s);
char *sk_strndup(const char *s, size_t n);
void sk_free(void *p); /* NULL is allowed */

/* Allocations made by this process so far. */
uint64_t sk_mem_count(void);
/* Makes the n-th allocation from now fail (and each one after it when `forever`); n = 0 switches this off. */
void sk_mem_fail_at(uint64_t n, int forever);

/* Arena: many small pieces freed at once. Bounded by `max` bytes in all. Not thread-safe; owner is the request. */
struct sk_arena {
    struct sk_arena_chunk *head;
    size_t used, max;
};
void sk_arena_init(struct sk_arena *a, size_t max);
void sk_arena_done(struct sk_arena *a);
void *sk_arena_alloc(struct sk_arena *a, size_t n); /* 16-byte aligned, zeroed; NULL past max or out of memory */
char *sk_arena_strndup(struct sk_arena *a, const char *s, size_t n);

#endif
