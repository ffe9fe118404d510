/* A configuration file's effect survives being printed and read back; as command-line arguments likewise. What stands
 * behind a form feed is the file as it is at a reload: that takes what it may take, names the rest, and is then done.
 */
#include <stdlib.h>
#include <string.h>

#include "comm/base/conf.h"
#include "comm/base/conf_row.h"
#include "comm/base/mem.h"

#define MAX_ARGS  129 /* the table has at most 128 rows */
#define MAX_NAMES 8192

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

/* Of `prog`, what a reload of `from` into `to` leaves different is what it names. */
static void check_reload(struct sk_conf *to, const struct sk_conf *from, unsigned prog)
{
    struct sk_buf names, again;
    sk_buf_init(&names, MAX_NAMES);
    sk_buf_init(&again, MAX_NAMES);
    sk_conf_reload(to, from, prog, &names);
    struct sk_conf once = *to;
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++) {
        bool same = memcmp(sk_conf_row_field(r, to), sk_conf_row_field(r, from), sk_conf_row_size(r)) == 0;
        sk_assert(same || !sk_conf_row_is_written(r, prog) ||
                  (!(r->prog & SK_OPT_RELOAD) && names.n && strstr(names.p, r->name)));
    }
    sk_conf_reload(to, from, prog, &again);
    sk_assert(memcmp(to, &once, sizeof once) == 0);
    sk_assert(again.n == names.n && (names.n == 0 || memcmp(again.p, names.p, names.n) == 0));
    sk_buf_done(&names);
    sk_buf_done(&again);
}

static void read_text(struct sk_conf *ret, unsigned prog, const char *s, size_t n)
{
    struct sk_err err = {0};
    sk_conf_defaults(ret);
    int rc = sk_conf_text(ret, prog, "fuzz", s, n, &err);
    sk_assert(err.code == -rc && (rc == 0 || err.msg[0]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const unsigned progs[] = {SK_PROG_DAEMON, SK_PROG_ENGINE, SK_PROG_BUILD};
    const char *s = (const char *)data, *feed = n ? memchr(s, '\f', n) : NULL;
    size_t n_first = feed ? (size_t)(feed - s) : n;
    for (int i = 0; i < 3; i++) {
        struct sk_conf c, fresh;
        read_text(&c, progs[i], s, n_first);
        check_file(&c, progs[i]);
        check_args(&c, progs[i]);
        if (feed) {
            read_text(&fresh, progs[i], feed + 1, n - n_first - 1);
            check_reload(&c, &fresh, progs[i]);
            check_file(&c, progs[i]);
        }
    }
    return 0;
}
