/* What the tests of kernels/ share: backends to test, pseudo-random inputs, buffers in backend memory, comparison.
 * Every function fails the running cmocka test where something goes wrong. */
#ifndef KERN_H
#define KERN_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include "kernels/kernels.h"

/* Is this built with a sanitizer? It makes kernels ten to a hundred times as slow: tests then do less of the same. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KERN_SANITIZED 1
#elif defined(__has_feature)
#define KERN_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define KERN_SANITIZED 0
#endif

/* Opens one backend after the other: calls test(backend with one thread, the same with two, ref) for each level of each
 * backend that this machine reaches, and prints those that it does not reach. Fails if none is reached but "ref"
 * itself. */
struct kern {
    struct sk_backend *one, *two, *ref;
};
void kern_each(void (*test)(const struct kern *k));
struct sk_backend *kern_ref(void); /* the caller closes it */

/* Inputs: number i of stream `stream`, the same on every run. */
float kern_normal(uint32_t stream, uint32_t i); /* about N(0, 1), in -6..6 */
uint32_t kern_below(uint32_t stream, uint32_t i, uint32_t n);
/* n_row rows of `width` kern_normal values, zeros up to ld. The caller frees it (sk_free). */
float *kern_rows(uint32_t stream, uint32_t n_row, uint32_t width, uint32_t ld);
void *kern_zeros(size_t bytes); /* the caller frees it */

/* Buffers. kern_get brings bytes back through fetch, the only way out. kern_free_all frees all that kern_put and
 * kern_new made of a backend. */
struct sk_dev kern_new(struct sk_backend *be, size_t bytes);
struct sk_dev kern_put(struct sk_backend *be, const void *src, size_t bytes);
void kern_get(struct sk_backend *be, struct sk_dev src, void *dst, size_t bytes);
void kern_free(struct sk_backend *be, struct sk_dev d);
void kern_free_all(struct sk_backend *be);

/* A matrix of about N(0, 1 / n_in) weights, packed and uploaded. */
struct sk_mat kern_mat(struct sk_backend *be, uint32_t stream, enum sk_dtype dtype, uint32_t n_out, uint32_t n_in,
                       uint32_t slab_k);
/* Rows first..first + n_out - 1 of a matrix, as one. */
struct sk_mat kern_mat_rows(struct sk_backend *be, uint32_t stream, enum sk_dtype dtype, uint32_t first, uint32_t n_out,
                            uint32_t n_in, uint32_t slab_k);
/* Row `out` of the same matrix as floats. */
void kern_mat_row(uint32_t stream, enum sk_dtype dtype, uint32_t n_in, uint32_t out, float *ret);

/* |a - b| <= tol for all n, no NaN. */
void kern_assert_near(const float *a, const float *b, size_t n, double tol, const char *what);
void kern_assert_same_bits(const void *a, const void *b, size_t bytes, const char *what);
/* Zeros from width to the next multiple of 16. */
void kern_assert_pad(const float *rows, uint32_t n_row, uint32_t width, uint32_t ld);

#endif
