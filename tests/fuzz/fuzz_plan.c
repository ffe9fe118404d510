/* Plans, one after another as a recording has them, through the whole reader: checked, dumped, and those that are sound
 * are run by a rank with a small random model: an index that a check let through would read outside what the rank took.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "comm/base/buf.h"
#include "engine/model/step.h"
#include "tests/unit/engine/fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_SLOT = 4, MAX_PLAN = 16 };

static struct fixture fixture;
static struct sk_rank *rank;

/* Once: the rank is the same for all inputs, and left with all slots closed. */
static void open_rank(void)
{
    static const struct sk_rank_conf conf = {
        .max_slot = MAX_SLOT, .max_len = 128, .max_row = 48, .max_result = 40, .kv_bytes = 300000, .kv_dtype = SK_BF16};
    struct sk_backend *be;
    struct sk_desc desc;
    struct sk_err err;
    fixture_desc(&desc);
    desc.layers[1].window = 40;
    fixture_open(&fixture, &desc, SK_Q8, 1);
    sk_assert(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err) == 0);
    sk_assert(sk_rank_open(&fixture.dir, &fixture.w, be, NULL, &conf, &rank, &err) == 0);
}

static void run(const void *plan, size_t n)
{
    const struct sk_result_row *rows;
    uint32_t n_row;
    struct sk_err err;
    struct sk_plan_limits lim;
    sk_rank_limits(rank, &lim);
    if (sk_plan_check(plan, n, &lim, &err) == 0) {
        struct sk_buf text;
        sk_buf_init(&text, 1 << 16);
        int rc = sk_plan_dump(plan, &text);
        sk_assert(rc == 0 || rc == -SK_ETOOBIG);
        sk_buf_done(&text);
    }
    int rc = sk_rank_step(rank, plan, n, &err);
    sk_assert(rc == 0 || rc == -SK_EPROTO);
    sk_assert(sk_rank_wait(rank, &rows, &n_row, &err) == 0);
}

static void close_slots(void)
{
    struct sk_buf b;
    sk_buf_init(&b, 256);
    for (uint32_t slot = 0; slot < MAX_SLOT; slot++) { /* refused where the slot is closed */
        sk_plan_begin(&b, 0);
        sk_plan_put_close(&b, slot);
        sk_assert(sk_plan_end(&b, 0, 0) == 0);
        run(b.p, b.n);
    }
    sk_buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (!rank)
        open_rank();
    for (int i = 0; n > 0 && i < MAX_PLAN; i++) {
        struct sk_plan_head head;
        size_t len = n;
        if (n >= sizeof head) {
            memcpy(&head, data, sizeof head);
            if (head.bytes >= sizeof head && head.bytes < n)
                len = head.bytes;
        }
        run(data, len);
        data += len;
        n -= len;
    }
    close_slots();
    return 0;
}
