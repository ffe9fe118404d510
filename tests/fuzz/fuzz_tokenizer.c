/* Any bytes as tokenizer.json: what compiles must open and serve any text. */
#define _GNU_SOURCE 1 /* memfd_create */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm/base/json.h"
#include "engine/build/tok_draft.h"
#include "tests/fuzz/serve_vocab.h"

#define MAX_VOCAB 4096

static void compile(const struct cJSON *root)
{
    struct sk_tok_draft d;
    struct sk_err err = {0};
    struct sk_vocab *v;
    char path[64];
    int fd = memfd_create("vocab", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    sk_tok_draft_init(&d, MAX_VOCAB);
    if (fd >= 0 && sk_tok_read_json(&d, root, &err) == 0 && sk_tok_draft_write(&d, path, &err) == 0) {
        int rc = sk_vocab_open(path, &v, &err);
        if (rc)
            fprintf(stderr, "what was compiled does not open: %s\n", err.msg);
        sk_assert(rc == 0);
        serve_vocab(v);
        sk_vocab_close(v);
    }
    sk_tok_draft_done(&d);
    if (fd >= 0)
        close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cJSON *root;
    struct sk_err err;
    if (sk_json_parse((const char *)data, n, 1 << 20, &root, &err) == 0) {
        compile(root);
        sk_json_free(root);
    }
    return 0;
}
