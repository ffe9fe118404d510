#include "comm/base/mem.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/err.h"

#define ARENA_ALIGN       16
#define ARENA_FIRST_BYTES 1024 /* most arenas hold a few strings */
#define ARENA_CHUNK_BYTES 8192 /* what chunks grow to */

static atomic_uint_fast64_t n_allocs;
static atomic_uint_fast64_t fail_at; /* the value of n_allocs that fails; 0: none */
static atomic_int fail_forever;

static bool may_alloc(void)
{
    uint64_t i = atomic_fetch_add_explicit(&n_allocs, 1, memory_order_relaxed) + 1;
    uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (at == 0 || i < at)
        return true;
    return i > at && !atomic_load_explicit(&fail_forever, memory_order_relaxed);
}

void *sk_malloc(size_t n)
{
    return may_alloc() ? malloc(n ? n : 1) : NULL;
}

void *sk_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return NULL;
    return may_alloc() ? calloc(1, bytes ? bytes : 1) : NULL;
}

void *sk_realloc(void *p, size_t n)
{
    return may_alloc() ? realloc(p, n ? n : 1) : NULL;
}

char *sk_strdup(const char *s)
{
    return sk_strndup(s, strlen(s));
}

char *sk_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    char *p = sk_malloc(n + 1);
    if (p) {
        memcpy(p, s, n);
        p[n] = '\0';
    }
    return p;
}

void sk_free(void *p)
{
    free(p);
}

uint64_t sk_mem_count(void)
{
    return atomic_load_explicit(&n_allocs, memory_order_relaxed);
}

void sk_mem_fail_at(uint64_t n, int forever)
{
    atomic_store(&fail_forever, forever);
    atomic_store(&fail_at, n ? sk_mem_count() + n : 0);
}

struct sk_arena_chunk {
    struct sk_arena_chunk *next;
    size_t used, size; /* of data */
    alignas(ARENA_ALIGN) char data[];
};

void sk_arena_init(struct sk_arena *a, size_t max)
{
    *a = (struct sk_arena){.max = max};
}

void sk_arena_done(struct sk_arena *a)
{
    while (a->head) {
        struct sk_arena_chunk *next = a->head->next;
        sk_free(a->head);
        a->head = next;
    }
    a->used = 0;
}

/* A piece that fills a chunk of its own goes behind the head, whose rest stays in use. */
static struct sk_arena_chunk *add_chunk(struct sk_arena *a, size_t n)
{
    size_t usual = a->head ? 2 * a->head->size : ARENA_FIRST_BYTES;
    if (usual > ARENA_CHUNK_BYTES)
        usual = ARENA_CHUNK_BYTES;
    size_t size = n > usual ? n : usual;
    struct sk_arena_chunk *c = sk_calloc(1, sizeof *c + size);
    if (!c)
        return NULL;
    c->size = size;
    struct sk_arena_chunk **at = a->head && n >= usual ? &a->head->next : &a->head;
    c->next = *at;
    *at = c;
    return c;
}

void *sk_arena_alloc(struct sk_arena *a, size_t n)
{
    sk_assert(a->used <= a->max);
    if (n > a->max - a->used || n > SIZE_MAX - ARENA_ALIGN - sizeof(struct sk_arena_chunk))
        return NULL;
    n = n ? (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN : ARENA_ALIGN;
    if (n > a->max - a->used)
        return NULL;

    struct sk_arena_chunk *c = a->head;
    if (!c || n > c->size - c->used)
        c = add_chunk(a, n);
    if (!c)
        return NULL;
    void *p = c->data + c->used;
    c->used += n;
    a->used += n;
    return p;
}

char *sk_arena_strndup(struct sk_arena *a, const char *s, size_t n)
{
    n = strnlen(s, n);
    char *p = n < SIZE_MAX ? sk_arena_alloc(a, n + 1) : NULL;
    if (p)
        memcpy(p, s, n); /* the arena gives zeroed memory: p[n] is 0 */
    return p;
}
