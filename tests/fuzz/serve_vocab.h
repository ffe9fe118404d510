/* What a daemon does with an opened vocabulary, for the targets that make one from any bytes. */
#ifndef SK_TESTS_SERVE_VOCAB_H
#define SK_TESTS_SERVE_VOCAB_H
#include "comm/dir/vocab.h"

void serve_vocab(const struct sk_vocab *v); /* aborts where a promise of the text functions is broken */

#endif
