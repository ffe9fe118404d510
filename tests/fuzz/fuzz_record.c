/* A recording of any bytes: its plans check, print, and come to an end. */
#include <stdio.h>
#include <stdlib.h>

#include "comm/base/err.h"
#include "engine/batch/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void play(struct sk_player *p)
{
    struct sk_err err = {0};
    struct sk_buf text;
    const void *plan;
    const struct sk_buf *rows;
    size_t n;
    int rc;
    sk_buf_init(&text, 64 << 20);
    while ((rc = sk_player_next(p, &plan, &n, &rows, &err)) == 1) {
        sk_buf_clear(&text);
        sk_assert(sk_plan_dump(plan, &text) == 0);
    }
    sk_assert(rc == 0 || (rc == -SK_EFORMAT && err.msg[0]));
    sk_buf_done(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_player *p;
    struct sk_record_head h;
    struct sk_err err = {0};
    char path[64];
    FILE *f = tmpfile();
    if (!f || fwrite(data, 1, n, f) != n || fflush(f))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(f));
    if (sk_player_open(path, &p, &h, &err) == 0) {
        play(p);
        sk_player_close(p);
    }
    fclose(f);
    return 0;
}
