#include "tests/unit/server/api/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "engine/build/tok.h"

struct sk_vocab *fixture_vocab(void)
{
    const char *root = getenv("SK_SRCDIR");
    struct sk_vocab *v = NULL;
    struct sk_tok_info info;
    struct sk_err err = {0};
    char dir[2048], path[] = "/tmp/sk-api-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(dir, sizeof dir, "%s/tests/golden/tiny/llama", root ? root : ".");
    if (sk_tok_from_hf(dir, N_VOCAB, path, &info, &err) != 0 || sk_vocab_open(path, &v, &err) != 0)
        fail_msg("%s", err.msg);
    unlink(path);
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    return v;
}
