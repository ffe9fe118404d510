/* The tokenizer that the tests of server/api use. */
#ifndef SK_TESTS_API_FIXTURE_H
#define SK_TESTS_API_FIXTURE_H
#include "comm/dir/vocab.h"

enum { N_VOCAB = 320, MAX_LEN = 64 };

/* Compiles tests/golden/tiny/llama's tokenizer; n_vocab N_VOCAB. Fails the test where that fails. */
struct sk_vocab *fixture_vocab(void);

#endif
