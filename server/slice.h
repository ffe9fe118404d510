/* How the kernel shares the CPUs between this daemon and the engine's compute threads, which keep all of them busy. */
#ifndef SK_SLICE_H
#define SK_SLICE_H

/* Asks for time slices so short that the calling thread, woken by a token or a request, goes before threads that
 * compute, instead of waiting for the end of their slices (EEVDF, Linux 6.12 and later; without effect before). Needs
 * no privilege and gives no larger share of the CPU. Children do not inherit it. */
void sk_slice_shorten(void);

#endif
