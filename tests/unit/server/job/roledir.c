#include "tests/unit/server/job/roledir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "comm/dir/dir.h"

void roledir_make(const char *path)
{
    struct sk_dir d = {.name = "m", .digest = "00112233445566778899aabbccddeeff", .dtype = "keep"};
    struct sk_err err;
    char cmd[1200];
    snprintf(cmd, sizeof cmd, "rm -rf %s && mkdir %s && touch %s/weights.skw %s/vocab.skv", path, path, path, path);
    assert_int_equal(system(cmd), 0);
    d.desc = (struct sk_desc){.n_vocab = 100,
                              .n_embd = 32,
                              .n_layer = 1,
                              .n_head = 2,
                              .n_kv_head = 1,
                              .head_dim = 16,
                              .n_ffn = 64,
                              .max_len = 128,
                              .norm_eps = 1e-6f,
                              .gated = true,
                              .attn_scale = 0.25f};
    assert_int_equal(sk_desc_check(&d.desc, &err), 0);
    assert_int_equal(sk_dir_save(&d, path, &err), 0);
}
