/* Encoding speed: bench_token VOCAB.skv FILE... encodes each file as one text, again and again for a second, and prints
 * MB/s; then the texts that are bad for a tokenizer, and what opening costs. One thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "server/text/token.h"

#define MAX_FILE ((size_t)64 << 20)
#define RUN_US   1000000

static void measure(struct sk_token *t, const char *name, const char *s, size_t n)
{
    uint64_t start = sk_clock_us(), best = UINT64_MAX, now;
    size_t n_ids = 0;
    do {
        int32_t *ids;
        struct sk_err err;
        uint64_t before = sk_clock_us();
        if (sk_token_encode(t, s, n, SK_TOKEN_SPECIALS, false, SIZE_MAX, &ids, &n_ids, &err)) {
            printf("%-32s %s\n", name, err.msg);
            return;
        }
        sk_free(ids);
        now = sk_clock_us();
        if (now - before < best)
            best = now - before;
    } while (now - start < RUN_US);
    printf("%-32s %9zu bytes %9zu tokens %8.2f MB/s\n", name, n, n_ids, (double)n / (double)(best ? best : 1));
}

static void measure_bad(struct sk_token *t)
{
    static const char *const units[] = {"a", " ", "=", "\xE4\xBD\xA0", "e\xCC\x81", " \n", "<|im_", "1", "aB"};
    size_t n = 1 << 20;
    char *s = sk_malloc(n), name[64];
    for (size_t u = 0; s && u < sizeof units / sizeof *units; u++) {
        size_t len = strlen(units[u]), whole = n / len * len;
        for (size_t i = 0; i < whole; i++)
            s[i] = units[u][i % len];
        snprintf(name, sizeof name, "1 MB of unit %zu", u);
        measure(t, name, s, whole);
    }
    sk_free(s);
}

int main(int argc, char **argv)
{
    struct sk_err err = {0};
    struct sk_vocab *v = NULL;
    struct sk_token *t = NULL;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_token VOCAB.skv FILE...\n");
        return 2;
    }
    uint64_t start = sk_clock_us();
    int rc = sk_vocab_open(argv[1], &v, &err);
    uint64_t opened = sk_clock_us();
    if (rc == 0)
        rc = sk_token_new(v, &t, &err);
    if (rc) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("open %.2f ms, encoder %.2f ms\n", (double)(opened - start) / 1000, (double)(sk_clock_us() - opened) / 1000);
    for (int i = 2; i < argc; i++) {
        struct sk_buf text;
        sk_buf_init(&text, MAX_FILE);
        if (sk_buf_file(&text, argv[i], &err))
            fprintf(stderr, "%s\n", err.msg);
        else
            measure(t, argv[i], text.p, text.n);
        sk_buf_done(&text);
    }
    measure_bad(t);
    sk_token_free(t);
    sk_vocab_close(v);
    return 0;
}
