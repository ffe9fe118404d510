/* Time behind our own names, so that tests can hold it still. */
#ifndef SK_CLOCK_H
#define SK_CLOCK_H
#include <stdint.h>

uint64_t sk_clock_us(void);  /* monotonic, microseconds */
uint64_t sk_clock_ns(void);  /* monotonic, nanoseconds */
int64_t sk_clock_unix(void); /* wall clock, seconds since 1970 */
/* For tests: `us` is what sk_clock_us says from now on; 0 goes back to the real clock. */
void sk_clock_set(uint64_t us);

#endif
