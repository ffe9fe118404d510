/* GET /admin/ranks: who computes what, on which host, and where its time goes. */
#include <inttypes.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/api/api.h"
#include "server/api/reply.h"

enum { MAX_RANKS_BYTES = 8 << 20 };

static void put_rank(struct sk_buf *b, const struct sk_wire_rank *r, uint32_t replica)
{
    sk_buf_fmt(b, "{\"replica\":%u,\"rank\":%u,\"stage\":%u,\"tp_rank\":%u,\"host\":", replica, r->rank, r->stage,
               r->tp_rank);
    sk_json_quote(b, r->host, strlen(r->host));
    sk_buf_fmt(b,
               ",\"pid\":%d,\"layers\":{\"first\":%u,\"count\":%u},\"heads\":{\"first\":%u,\"count\":%u},"
               "\"vocabulary\":{\"first\":%u,\"count\":%u},\"rss_bytes\":%" PRIu64 ",\"steps\":%" PRIu64
               ",\"busy_s\":%.6f,\"collective_s\":%.6f,\"wait_s\":%.6f}",
               r->pid, r->first_layer, r->n_layer, r->first_head, r->n_head, r->first_vocab, r->n_vocab, r->rss_bytes,
               r->step, (double)r->busy_us * 1e-6, (double)r->collective_us * 1e-6, (double)r->wait_us * 1e-6);
}

void sk_api_admin_ranks(const struct sk_call *c)
{
    const struct sk_server *s = c->server;
    struct sk_buf b;
    bool any = false;
    sk_buf_init(&b, MAX_RANKS_BYTES);
    sk_buf_str(&b, "{\"ranks\":[");
    for (uint32_t e = 0; e < s->n_engine; e++) {
        for (uint32_t i = 0; i < sk_engine_n_replica(s->engines[e]); i++) {
            uint32_t n;
            const struct sk_wire_rank *r = sk_engine_ranks(s->engines[e], i, &n);
            for (uint32_t k = 0; k < n; k++, any = true) {
                sk_buf_str(&b, any ? "," : "");
                put_rank(&b, &r[k], i);
            }
        }
    }
    sk_buf_str(&b, "]}");
    sk_reply_send(c->req, 200, &b);
}
