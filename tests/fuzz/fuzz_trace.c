/* Any file of prompts is read or refused, and what is read of it makes requests that are valid JSON. */
#include <string.h>

#include "clients/bench/load.h"
#include "comm/base/json.h"

enum { MAX_TALKS = 4, MAX_TURNS = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_talk(const struct sk_load *l, uint64_t index)
{
    struct sk_talk t;
    struct sk_buf body;
    sk_buf_init(&body, SK_LOAD_MAX_BODY);
    sk_load_talk(l, index, &t);
    for (int i = 0; i < t.n_turn && i < MAX_TURNS; i++) {
        struct sk_ask ask;
        struct cJSON *v;
        struct sk_err err = {0};
        sk_assert(sk_load_ask(l, &t, &body, &ask) == 0);
        sk_assert(ask.n_out > 0);
        sk_assert(sk_json_parse(body.p, body.n, body.n, &v, &err) == 0 || err.code == SK_ETOOBIG);
        if (!err.code)
            sk_json_free(v);
        sk_assert(sk_load_answer(l, &t, "an\\nswer", 8) == 0);
    }
    sk_load_talk_done(&t);
    sk_buf_done(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_trace t;
    struct sk_err err = {0};
    int rc = sk_trace_text(&t, "fuzz", (const char *)data, n, &err);
    sk_assert(rc == -err.code && (rc == 0) == (err.msg[0] == '\0'));
    double last = 0;
    for (size_t i = 0; i < t.n && rc == 0; i++) {
        sk_assert(t.items[i].n_turn > 0);
        sk_assert(t.n_timed < t.n || t.items[i].at_ms >= last);
        last = t.items[i].at_ms;
    }
    struct sk_load l = {.chat = true, .stream = true, .model = "m", .prefixes = 1, .extra = "", .trace = &t};
    l.input.a = l.output.a = l.turns.a = l.cancel_after.a = 2;
    for (size_t i = 0; i < t.n && i < MAX_TALKS && rc == 0; i++)
        if (t.items[i].turns[0].n_in < 1000)
            check_talk(&l, i);
    sk_trace_done(&t);
    return 0;
}
