/* A configuration file's effect survives being printed and read back; as command-line arguments likewise. */
#include <stdlib.h>
#include <string.h>

#include "comm/base/conf.h"
#include "comm/base/mem.h"

#define MAX_ARGS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_file(const struct sk_conf *c, unsigned prog)
{
    struct sk_conf back;
    struct sk_err err = {0};
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    sk_assert(f);
    sk_conf_print(c, prog, f);
    fclose(f);
    sk_conf_defaults(&back);
    sk_assert(sk_conf_text(&back, prog, "printed", text, n, &err) == 0);
    sk_assert(memcmp(c, &back, sizeof back) == 0);
    free(text);
}

static void check_args(const struct sk_conf *c, unsigned prog)
{
    struct sk_conf back;
    char *argv[MAX_ARGS] = {"program"};
    int n = sk_conf_to_args(c, prog, argv + 1, MAX_ARGS - 1);
    sk_assert(n >= 0);
    sk_conf_defaults(&back);
    sk_assert(sk_conf_args(&back, prog, n + 1, argv, NULL, 0, NULL, NULL) == 0);
    memcpy(back.given, c->given, sizeof back.given); /* an option set to its default is not among the arguments */
    sk_assert(memcmp(c, &back, sizeof back) == 0);
    while (n > 0)
        sk_free(argv[n--]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const unsigned progs[] = {SK_PROG_DAEMON, SK_PROG_ENGINE, SK_PROG_BUILD};
    for (int i = 0; i < 3; i++) {
        struct sk_conf c;
        struct sk_err err = {0};
        sk_conf_defaults(&c);
        int rc = sk_conf_text(&c, progs[i], "fuzz", (const char *)data, n, &err);
        sk_assert(err.code == -rc && (rc == 0 || err.msg[0]));
        check_file(&c, progs[i]);
        check_args(&c, progs[i]);
    }
    return 0;
}
